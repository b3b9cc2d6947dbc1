"""What may import what, and the rules every module of the package keeps.

Each rule is a function from a module's source to the places that break it. Each has two tests: the
package keeps the rule, and the rule notices a made-up source that does not.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The lowest layer first. A module may import from its own layer and from lower ones.
# A name ending in `.*` is a package with everything in it.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "wsframe.errors",
        "wsframe.driving",
        "wsframe.awaiting",
        "wsframe.clock",
        "wsframe.deadlines",
        "wsframe.private_file",
        "wsframe.tls_transport",
        "wsframe.token_files",
    ),
    ("wsframe.core.*",),
    ("wsframe.options", "wsframe.trace", "wsframe.tap", "wsframe.signals"),
    ("wsframe.protocol.*", "wsframe.reactor"),
    ("wsframe.connection", "wsframe.fanout"),
    ("wsframe.endpoints.*", "wsframe.handling", "wsframe.auth"),
    (
        "wsframe.client.*",
        "wsframe.server",
        "wsframe.resource",
        "wsframe.hub",
        "wsframe.backplane.*",
    ),
    ("wsframe",),  # the public names
    ("wsframe.monitor.*",),
    ("wsframe.services.*", "wsframe.cli.*", "wsframe.__main__", "wsframe.testing"),
    ("twisted.plugins.wsframe_plugins",),
)

# Imported by core/, these would give it an event loop, a clock, a log or a socket.
NOT_IN_CORE = {
    "asyncio",
    "autobahn",
    "logging",
    "select",
    "selectors",
    "socket",
    "ssl",
    "threading",
    "time",
    "twisted",
    "txaio",
    "zope",
}

# Import names that differ from the name of the distribution.
DISTRIBUTIONS = {
    "OpenSSL": "pyopenssl",
    "_nvx_xormasker": "autobahn",  # its native part
    "zope": "zope-interface",
}


@dataclass(frozen=True)
class Import:
    """One imported name: its module, the line, and whether importing the module does it."""

    name: str
    line: int
    at_module_level: bool


@dataclass(frozen=True)
class Module:
    """A module of the package: its dotted name and its source."""

    name: str
    source: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @property
    def in_core(self) -> bool:
        return f"{self.name}.".startswith("wsframe.core.")


def modules() -> Iterator[Module]:
    """Yield every module that is shipped."""
    for path in sorted([*ROOT.glob("wsframe/**/*.py"), *ROOT.glob("twisted/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, path.read_text(encoding="utf-8"), is_package)


def imports(module: Module) -> Iterator[Import]:
    """Yield every name a module imports; `from a import b` yields `a.b`."""

    def visit(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, node.lineno, at_module_level)
            case ast.ImportFrom():
                origin = node.module or ""
                if node.level:
                    above = module.package.split(".")
                    above = above[: len(above) - node.level + 1]
                    origin = ".".join([*above, *filter(None, [origin])])
                for alias in node.names:
                    yield Import(f"{origin}.{alias.name}", node.lineno, at_module_level)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                at_module_level = False
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_module_level)

    return visit(module.tree, True)


def imports_package(imported: Import, package: str) -> bool:
    """Tell whether an import reaches into a package or module."""
    return f"{imported.name}.".startswith(f"{package}.")


def layer_of(name: str) -> int | None:
    """Return the place of a module in LAYERS, or None for one that has none."""
    for place, layer in enumerate(LAYERS):
        for entry in layer:
            if name == entry.removesuffix(".*") or (
                entry.endswith(".*") and name.startswith(entry.removesuffix("*"))
            ):
                return place
    return None


def imported_layer(name: str) -> tuple[str, int] | None:
    """Return the module of ours that an imported name comes from, with its layer.

    `wsframe.connect` is a name of the module `wsframe`, `wsframe.errors.InvalidURI` one of
    `wsframe.errors`.
    """
    while name.startswith("wsframe"):
        layer = layer_of(name)
        if layer is not None:
            return name, layer
        name = name.rpartition(".")[0]
    return None


# --- the rules ------------------------------------------------------------------------------------


def modules_without_a_layer(module: Module) -> Iterator[str]:
    """Every module has its place in LAYERS."""
    if layer_of(module.name) is None:
        yield (
            f"{module.name} has no layer: add it to LAYERS in tests/test_architecture.py, higher "
            "than what it imports and lower than what imports it, and to docs/architecture.md"
        )


def upward_imports(module: Module) -> Iterator[str]:
    """A module imports from its own layer or a lower one."""
    own = layer_of(module.name)
    for imported in imports(module):
        found = imported_layer(imported.name)
        if own is not None and found is not None and found[1] > own:
            yield f"{module.name}:{imported.line} imports {found[0]}, which is above it"


def impure_imports_in_core(module: Module) -> Iterator[str]:
    """The core knows no event loop, socket, clock or log."""
    if not module.in_core:
        return
    for imported in imports(module):
        if imported.name.partition(".")[0] in NOT_IN_CORE:
            yield f"{module.name}:{imported.line} imports {imported.name}"


def autobahn_outside_the_protocol(module: Module) -> Iterator[str]:
    """Autobahn ends at wsframe.protocol."""
    if f"{module.name}.".startswith("wsframe.protocol."):
        return
    for imported in imports(module):
        if imports_package(imported, "autobahn"):
            yield f"{module.name}:{imported.line} imports {imported.name}"


def reactors_imported_with_the_module(module: Module) -> Iterator[str]:
    """The global reactor is imported where it is used: importing it installs it."""
    for imported in imports(module):
        if imported.at_module_level and imports_package(imported, "twisted.internet.reactor"):
            yield f"{module.name}:{imported.line} imports the reactor at module level"


def undeclared_dependencies(module: Module) -> Iterator[str]:
    """What is imported at module level is declared in pyproject.toml, or comes with Python."""
    for imported in imports(module):
        top = imported.name.partition(".")[0]
        if top in sys.stdlib_module_names or top == "wsframe" or not imported.at_module_level:
            continue
        distribution = DISTRIBUTIONS.get(top, top.replace("_", "-")).lower()
        if distribution not in DECLARED:
            yield f"{module.name}:{imported.line} imports {top}: is it in pyproject.toml?"


def missing_docstrings(module: Module) -> Iterator[str]:
    """A module says in its first line what it is."""
    docstring = ast.get_docstring(module.tree, clean=False)
    if not (docstring and docstring.partition("\n")[0].strip()):
        yield f"{module.name} has no docstring, or an empty first line"


def assert_statements(module: Module) -> Iterator[str]:
    """Checks are made with typed errors: `python -O` removes an assert."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            yield f"{module.name}:{node.lineno} asserts"


def bare_excepts(module: Module) -> Iterator[str]:
    """An except names what it catches."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{module.name}:{node.lineno} catches everything"


DECLARED = {
    re.split(r"[\[<>=~!; ]", line, maxsplit=1)[0].lower()
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
}
SHIPPED = list(modules())


# --- the package keeps them -----------------------------------------------------------------------


def test_every_module_has_a_layer() -> None:
    """A new module is placed before it is merged."""
    assert [found for module in SHIPPED for found in modules_without_a_layer(module)] == []


def test_imports_go_one_way() -> None:
    """No module imports from a layer above its own."""
    assert [found for module in SHIPPED for found in upward_imports(module)] == []


def test_core_does_no_io() -> None:
    """The core imports neither Twisted nor Autobahn, and no socket, clock or log."""
    assert [found for module in SHIPPED for found in impure_imports_in_core(module)] == []


def test_only_the_protocol_imports_autobahn() -> None:
    """Autobahn can be replaced in one place."""
    assert [found for module in SHIPPED for found in autobahn_outside_the_protocol(module)] == []


def test_importing_a_module_installs_no_reactor() -> None:
    """The application chooses its reactor."""
    found = [found for module in SHIPPED for found in reactors_imported_with_the_module(module)]
    assert found == []


def test_every_imported_package_is_a_declared_dependency() -> None:
    """Nothing is there only because something else happened to install it."""
    assert [found for module in SHIPPED for found in undeclared_dependencies(module)] == []


def test_every_module_has_a_docstring() -> None:
    """Each module says what it is."""
    assert [found for module in SHIPPED for found in missing_docstrings(module)] == []


def test_the_package_has_no_assert_statement() -> None:
    """The package means the same under `python -O`."""
    assert [found for module in SHIPPED for found in assert_statements(module)] == []


def test_the_package_has_no_bare_except() -> None:
    """Nothing swallows a KeyboardInterrupt by accident."""
    assert [found for module in SHIPPED for found in bare_excepts(module)] == []


def test_no_init_file_shadows_twisted() -> None:
    """An `__init__.py` under twisted/ would replace Twisted's own package."""
    assert sorted(ROOT.glob("twisted/**/__init__.py")) == []


def test_the_modules_under_test_were_found() -> None:
    """The rules above are asked about real modules."""
    assert {"wsframe", "wsframe.errors", "twisted.plugins.wsframe_plugins"} <= {
        module.name for module in SHIPPED
    }


# --- each rule can fail ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wsframe.novel", "wsframe.errors_too", "twisted.plugins.other"])
def test_a_module_without_a_layer_is_noticed(name: str) -> None:
    """The message says where a new module is to be added."""
    (found,) = modules_without_a_layer(Module(name, ""))
    assert name in found
    assert "LAYERS in tests/test_architecture.py" in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wsframe.errors", "import wsframe.core.uri"),
        ("wsframe.core.uri", "from wsframe.options import Limits"),
        ("wsframe.core.uri", "from wsframe import options"),
        ("wsframe.core.uri", "from ..options import Limits"),
        ("wsframe.core.uri", "from .. import options"),
        ("wsframe.options", "def late():\n    from wsframe.protocol import Protocol"),
        ("wsframe.protocol", "if TYPE_CHECKING:\n    import wsframe.connection as c"),
        ("wsframe.client", "from wsframe import connect"),
        ("wsframe.hub", "from wsframe.monitor.registry import Registry"),
        ("wsframe.monitor.page", "import wsframe.cli"),
    ],
)
def test_an_upward_import_is_noticed(name: str, source: str) -> None:
    """However it is written, and wherever in the module."""
    assert len(list(upward_imports(Module(name, source)))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wsframe.core.proxy", "from .uri import parse_uri\nfrom ..errors import InvalidURI"),
        ("wsframe.core.proxy", "from wsframe.core import uri\nimport wsframe.errors"),
        ("wsframe.endpoints", "from wsframe.protocol import ClientProtocol"),
        ("wsframe", "from .client import connect\nfrom . import errors"),
        ("wsframe.services.echo", "from wsframe import connect\nimport twisted.internet.defer"),
    ],
)
def test_an_import_from_below_or_beside_is_allowed(name: str, source: str) -> None:
    """A layer is no wall within itself."""
    module = Module(name, source, is_package=name == "wsframe")
    assert list(upward_imports(module)) == []


@pytest.mark.parametrize("name", sorted(NOT_IN_CORE))
def test_an_impure_import_in_core_is_noticed(name: str) -> None:
    """Also in a function, and also of a submodule; outside core it is nobody's business."""
    source = f"def late():\n    from {name}.part import thing"
    assert len(list(impure_imports_in_core(Module("wsframe.core.frames", source)))) == 1
    assert list(impure_imports_in_core(Module("wsframe.client", source))) == []


def test_autobahn_outside_the_protocol_is_noticed() -> None:
    """The modules of the protocol are free to import it."""
    source = "from autobahn.twisted import websocket"
    assert len(list(autobahn_outside_the_protocol(Module("wsframe.server", source)))) == 1
    assert (
        list(autobahn_outside_the_protocol(Module("wsframe.protocol", source, is_package=True)))
        == []
    )
    assert list(autobahn_outside_the_protocol(Module("wsframe.protocol.server", source))) == []


@pytest.mark.parametrize(
    "source",
    [
        "from twisted.internet import reactor",
        "import twisted.internet.reactor",
        "try:\n    from twisted.internet.reactor import callLater\nfinally:\n    pass",
        "class C:\n    from twisted.internet import defer, reactor",
    ],
)
def test_a_reactor_imported_with_the_module_is_noticed(source: str) -> None:
    """Whatever runs at import time counts."""
    assert len(list(reactors_imported_with_the_module(Module("wsframe.client", source)))) == 1


def test_a_reactor_imported_in_a_function_is_allowed() -> None:
    """By then the application has chosen."""
    source = "def connect():\n    from twisted.internet import reactor"
    assert list(reactors_imported_with_the_module(Module("wsframe.client", source))) == []


def test_an_undeclared_dependency_is_noticed() -> None:
    """Import names are not always those of the distribution; a late import is optional."""
    source = "import requests\nimport OpenSSL.SSL, zope.interface, json, psutil\n"
    source += "def late():\n    import redis"
    (found,) = undeclared_dependencies(Module("wsframe.client", source))
    assert "requests" in found


@pytest.mark.parametrize("source", ["", "x = 1", '"""\nSecond line."""', "# comment"])
def test_a_missing_docstring_is_noticed(source: str) -> None:
    """An empty first line is as good as none."""
    assert len(list(missing_docstrings(Module("wsframe.client", source)))) == 1


def test_an_assert_statement_is_noticed() -> None:
    """Wherever it stands."""
    source = "def f(x):\n    if x:\n        assert x > 1"
    assert list(assert_statements(Module("wsframe.hub", source))) == ["wsframe.hub:3 asserts"]


def test_a_bare_except_is_noticed() -> None:
    """A named one is not."""
    source = "try:\n    f()\nexcept ValueError:\n    pass\nexcept:\n    pass"
    assert list(bare_excepts(Module("wsframe.hub", source))) == ["wsframe.hub:5 catches everything"]

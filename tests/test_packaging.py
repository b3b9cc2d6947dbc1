"""What is installed is what was meant: the package, one plugin, and nothing of Twisted's.

The distributions are built from a copy of the checkout and installed into an empty environment.
Every step is run once, in order, and its result kept for the tests to look at.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = "twisted/plugins/wsframe_plugins.py"
SERVICES = ["ws-agent", "ws-broadcast", "ws-echo", "ws-monitor"]
DESCRIBED = r"""
from twisted.internet import endpoints, reactor
print(endpoints.clientFromString(reactor, r"tunnel:h:443:proxy=http\://gw\:8080"))
"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the checkout, and return what it printed."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COVERAGE_", "COV_"))
    }
    process = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, f"{command}:\n{process.stdout}"
    return process.stdout


def listed_services(twistd_help: str) -> list[str]:
    """Return the services of ours among those that `twistd --help` lists."""
    first_words = [line.split()[0] for line in twistd_help.splitlines() if line.strip()]
    return sorted(word for word in first_words if word.startswith("ws-"))


@dataclass
class Environment:
    """A virtual environment with nothing in it, not even pip."""

    path: Path
    cwd: Path = field(init=False)

    def __post_init__(self) -> None:
        venv.create(self.path)
        self.cwd = self.path / "elsewhere"  # twistd looks for plugins in the working directory too
        self.cwd.mkdir()

    def pip(self, *arguments: str | Path) -> str:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        return run(*pip, "--python", self.path / "bin/python", *arguments, cwd=self.cwd)

    def run(self, command: str, *arguments: str) -> str:
        return run(self.path / "bin" / command, *arguments, cwd=self.cwd)

    def find(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob(pattern))


@dataclass(frozen=True)
class Built:
    """The source tree the distributions were built from, and both."""

    source: Path
    sdist: Path
    wheel: Path

    @property
    def wheel_names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    @property
    def sdist_names(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {member.name.partition("/")[2] for member in archive if member.isfile()}


@dataclass
class Installed:
    """What was seen while the wheel was installed, and after it was removed."""

    twistd_help: str = ""
    service_help: dict[str, str] = field(default_factory=dict)
    twisted_file: str = ""
    tunnel: str = ""
    check: str = ""
    command_version: str = ""
    version_after: str = ""
    twistd_help_after: str = ""
    left_over: list[str] = field(default_factory=list)
    twistd_help_editable: str = ""
    twistd_help_after_editable: str = ""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the sdist, and the wheel from the sdist."""
    base = tmp_path_factory.mktemp("build")
    source, out = base / "source", base / "dist"
    unwanted = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "node_modules", "dropin.cache"
    )
    shutil.copytree(ROOT, source, ignore=unwanted)
    # A stale cache and a stray plugin lie about in many a checkout.
    (source / "twisted/plugins/dropin.cache").write_bytes(b"")
    (source / "twisted/plugins/stray.py").write_text('"""Not ours."""\n')
    run(sys.executable, "-m", "build", "--outdir", out, source, cwd=base)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Built(source, sdist, wheel)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel and remove it, then the same with an editable install."""
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    seen = Installed()
    environment.pip("install", "--quiet", built.wheel)
    seen.check = environment.pip("check")
    seen.twistd_help = environment.run("twistd", "--help")
    seen.twisted_file = environment.run("python", "-c", "import twisted; print(twisted.__file__)")
    seen.tunnel = environment.run("python", "-c", DESCRIBED)
    seen.command_version = environment.run("wsframe", "--version")
    for service in SERVICES:
        seen.service_help[service] = environment.run("twistd", service, "--help")
    environment.pip("uninstall", "--yes", "wsframe")
    seen.version_after = environment.run("twistd", "--version")
    seen.twistd_help_after = environment.run("twistd", "--help")
    seen.left_over = environment.find("*wsframe*")

    (built.source / "twisted/plugins/stray.py").unlink()
    environment.pip("install", "--quiet", "--no-deps", "--editable", built.source)
    seen.twistd_help_editable = environment.run("twistd", "--help")
    environment.pip("uninstall", "--yes", "wsframe")
    seen.twistd_help_after_editable = environment.run("twistd", "--help")
    return seen


def test_the_wheel_holds_the_package_and_the_plugin(built: Built) -> None:
    """Every module, the type marker, the monitor page, one plugin: no more and no less."""
    package = {
        path.relative_to(built.source).as_posix()
        for pattern in ("*.py", "*.html", "py.typed")
        for path in built.source.glob(f"wsframe/**/{pattern}")
    }
    names = {name for name in built.wheel_names if ".dist-info/" not in name}
    assert names == package | {PLUGIN}


def test_the_wheel_has_the_type_marker_and_the_monitor_page(built: Built) -> None:
    """Both are data, which is easily left behind."""
    assert "wsframe/py.typed" in built.wheel_names
    assert [
        name
        for name in built.wheel_names
        if name.startswith("wsframe/monitor/") and name.endswith(".html")
    ]


def test_neither_distribution_shadows_twisted(built: Built) -> None:
    """An `__init__.py` beside or above the plugin would overwrite Twisted's."""
    for names in (built.wheel_names, built.sdist_names):
        assert {name for name in names if name.startswith("twisted/")} == {PLUGIN}


def test_the_wheel_carries_the_version_and_the_license(built: Built) -> None:
    """The version is the one in pyproject.toml, said once."""
    with zipfile.ZipFile(built.wheel) as archive:
        directory = f"wsframe-{PROJECT['version']}.dist-info"
        metadata = HeaderParser().parsestr(archive.read(f"{directory}/METADATA").decode())
        assert archive.read(f"{directory}/licenses/LICENSE").startswith(b"MIT License")
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "MIT"


def test_the_installed_services_are_listed_by_twistd(installed: Installed) -> None:
    """The plugin is found from the wheel, in an environment without the checkout."""
    assert listed_services(installed.twistd_help) == SERVICES


@pytest.mark.parametrize("service", SERVICES)
def test_an_installed_service_says_its_options(installed: Installed, service: str) -> None:
    """The dotted string in the plugin leads to a module that imports what was installed."""
    usage = installed.service_help[service].replace("[--", "--")
    assert f"Usage: twistd [options] {service} --" in usage


def test_the_installed_description_is_an_endpoint(installed: Installed) -> None:
    """Twisted finds the parser among its plugins."""
    assert "h:443 through http://gw:8080" in installed.tunnel


def test_the_command_is_installed(installed: Installed) -> None:
    """And says the version of what was installed."""
    assert installed.command_version == f"wsframe {PROJECT['version']}\n"


def test_the_installed_twisted_is_the_real_one(installed: Installed) -> None:
    """`import twisted` finds the package with an `__init__.py`, not a namespace of ours."""
    assert installed.twisted_file.strip().endswith("site-packages/twisted/__init__.py")


def test_the_dependencies_agree(installed: Installed) -> None:
    """Pip finds no version that another one refuses."""
    assert "No broken requirements found" in installed.check


def test_uninstalling_leaves_twisted_working(installed: Installed) -> None:
    """And its own services listed."""
    assert installed.version_after.startswith("twistd (the Twisted daemon)")
    assert "A general-purpose web server" in installed.twistd_help_after


def test_uninstalling_leaves_nothing_behind(installed: Installed) -> None:
    """No file of ours, no service in the list."""
    assert installed.left_over == []
    assert listed_services(installed.twistd_help_after) == []


def test_an_editable_install_shows_the_services_anywhere(installed: Installed) -> None:
    """Not only where the checkout is the working directory."""
    assert listed_services(installed.twistd_help_editable) == SERVICES
    assert listed_services(installed.twistd_help_after_editable) == []

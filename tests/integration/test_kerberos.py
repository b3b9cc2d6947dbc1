"""Negotiate with Kerberos: a KDC, squid and its helper, and tickets by GSSAPI.

Run by `make kerberos`, which compiles what GSSAPI takes in Python; that takes minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.core.proxy import Proxy
from wsframe.errors import ProxyAuthRefused, ProxyCredentialsFailed, ProxyTimeout
from wsframe.options import ClientOptions

from .origins import echo_server
from .peers import Daemon, program
from .proxies import PASSWORD, USER, Proxies
from .raw import eventually

pytestmark = pytest.mark.kerberos

REALM = "TEST.EXAMPLE"


class Realm:
    """A KDC with one user and one service, HTTP/localhost, whose key is in a keytab."""

    def __init__(self) -> None:
        # Squid's helper has given its rights up when it reads from here.
        self.directory = Path(tempfile.mkdtemp(prefix="wsframe-realm-"))
        self.directory.chmod(0o755)
        self.keytab = self.directory / "keytab"
        self.client = self.directory / "krb5.conf"
        self._server = self.directory / "kdc.conf"
        self._environ = {
            **os.environ,
            "KRB5_CONFIG": str(self.client),
            "KRB5_KDC_PROFILE": str(self._server),
        }
        path = program("krb5kdc")
        self._configure(1)
        self._run("kdb5_util", "create", "-s", "-P", "master", "-r", REALM)
        for command in (
            f"addprinc -pw {PASSWORD} {USER}",
            "addprinc -randkey HTTP/localhost",
            f"ktadd -k {self.keytab} HTTP/localhost",
        ):
            self._run("kadmin.local", "-r", REALM, "-q", command)
        self.keytab.chmod(0o644)

        def command(port: int) -> list[str]:
            self._configure(port)
            settings = ["KRB5_CONFIG", "KRB5_KDC_PROFILE"]
            return ["env", *(f"{name}={self._environ[name]}" for name in settings), path, "-n"]

        self.kdc = Daemon(command, self.directory / "kdc.log")

    def _configure(self, port: int) -> None:
        self.client.write_text(
            f"[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n"
            " dns_canonicalize_hostname = false\n rdns = false\n udp_preference_limit = 1\n"
            f"[realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
            f"[domain_realm]\n localhost = {REALM}\n"
        )
        listen = f"127.0.0.1:{port}"
        self._server.write_text(
            f"[kdcdefaults]\n kdc_listen = {listen}\n kdc_tcp_listen = {listen}\n"
            f"[realms]\n {REALM} = {{\n  database_name = {self.directory}/db\n"
            f"  key_stash_file = {self.directory}/stash\n }}\n"
        )

    def _run(self, name: str, *arguments: str, **options: Any) -> None:
        subprocess.run(
            [program(name), *arguments],
            env=self._environ,
            check=True,
            capture_output=True,
            timeout=20,
            **options,
        )

    def log_in(self, cache: Path) -> None:
        """Get the user's ticket."""
        self._run("kinit", "-c", str(cache), USER, input=PASSWORD.encode())

    def stop(self) -> None:
        self.kdc.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def realm() -> Iterator[Realm]:
    made = Realm()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def squid(realm: Realm) -> Iterator[int]:
    """Give the port of a squid that takes Kerberos alone."""
    before = os.environ.get("KRB5_CONFIG")
    os.environ["KRB5_CONFIG"] = str(realm.client)
    running = Proxies(keytab=realm.keytab)
    yield running.get("squid_kerberos", auth=True)
    running.stop()
    del os.environ["KRB5_CONFIG"]
    if before is not None:
        os.environ["KRB5_CONFIG"] = before


@pytest.fixture
def ticket_cache(realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have tickets looked for in a place of the test's own."""
    cache = tmp_path / "tickets"
    monkeypatch.setenv("KRB5_CONFIG", str(realm.client))
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{cache}")
    return cache


def negotiating(port: int, *login: str) -> Proxy:
    return Proxy("localhost", port, *login, auth="negotiate")


async def works(proxy: Proxy) -> None:
    async with (
        echo_server() as port,
        connect(f"ws://127.0.0.1:{port}/", proxies=proxy) as connection,
    ):
        await connection.send(bytes(100_000))
        assert await connection.recv() == bytes(100_000)


@pytest.mark.parametrize("login", [(), (USER,)])
@pytest_twisted.ensureDeferred
async def test_ticket_opens_the_tunnel(
    realm: Realm, squid: int, ticket_cache: Path, login: tuple[str, ...]
) -> None:
    realm.log_in(ticket_cache)
    await works(negotiating(squid, *login))


@pytest_twisted.ensureDeferred
async def test_ticket_is_not_used_where_it_is_not_asked_for(
    realm: Realm, squid: int, ticket_cache: Path
) -> None:
    realm.log_in(ticket_cache)
    before = ticket_cache.read_bytes()
    with pytest.raises(Exception, match="407"):
        await connect("ws://127.0.0.1:9/", proxies=Proxy("localhost", squid))
    assert ticket_cache.read_bytes() == before


@pytest_twisted.ensureDeferred
async def test_password_gets_its_own_ticket(squid: int, ticket_cache: Path) -> None:
    """Which is left nowhere."""
    await works(negotiating(squid, USER, PASSWORD))
    assert not ticket_cache.exists()


@pytest_twisted.ensureDeferred
async def test_wrong_password_is_refused(squid: int, ticket_cache: Path) -> None:
    """The KDC gives no ticket for it; NTLM, which comes next, is nothing for this proxy."""
    with pytest.raises(ProxyAuthRefused):
        await works(negotiating(squid, USER, "wr0ng"))


@pytest.mark.parametrize("login", [(), (USER,)])
@pytest_twisted.ensureDeferred
async def test_no_ticket_is_a_typed_error(
    squid: int, ticket_cache: Path, login: tuple[str, ...]
) -> None:
    with pytest.raises(ProxyCredentialsFailed, match="cannot begin: BadMechanismError") as caught:
        await works(negotiating(squid, *login))
    assert USER not in str(caught.value)
    assert str(ticket_cache) not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_kdc_that_hangs_is_given_up_at_the_deadline(
    realm: Realm, squid: int, ticket_cache: Path
) -> None:
    """The thread that waits for it goes on, and disturbs nobody."""
    realm.kdc.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ProxyTimeout) as caught:
            await connect(
                "ws://127.0.0.1:9/",
                proxies=negotiating(squid, USER, PASSWORD),
                options=ClientOptions(open_timeout=0.3),
            )
        assert caught.value.phase == "proxy"
        await works_directly()
    finally:
        realm.kdc.process.send_signal(signal.SIGCONT)
    from twisted.internet import reactor

    pool: Any = reactor.getThreadPool()  # type: ignore[attr-defined]
    await eventually(lambda: not pool.working)


async def works_directly() -> None:
    async with echo_server() as port, connect(f"ws://127.0.0.1:{port}/") as connection:
        await connection.send("x")
        assert await connection.recv() == "x"

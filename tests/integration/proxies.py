"""Proxies: real ones as processes, and one of the test's own that writes all down."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory

from wsframe.core.proxy import Proxy
from wsframe.core.uri import format_host_port

from .certificates import Authority, ServerTLS
from .names import NAMES
from .namespaces import may_unshare, seeing
from .peers import Daemon, has_ipv6, missing, program
from .raw import Raw, RawServer, connect_raw, header

REALM = "a realm"
USER, PASSWORD = "anna", "s3cret.pass"
ENCODED = "s3cret%2Epass"
"""The password as it stands in a URL; that it is decoded shows where the proxy takes it."""


def basic(user: str, password: str) -> str:
    """Return what proves a password in Basic (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def chain(*proxies: str | Proxy) -> Proxy:
    """Return the last proxy, reached through those before it."""
    last: Proxy | None = None
    for each in proxies:
        last = replace(each if isinstance(each, Proxy) else Proxy.parse(each), via=last)
    assert last is not None
    return last


@dataclass(frozen=True)
class Running:
    """A proxy that runs on a port of an address, and the log in which it names its targets."""

    host: str
    port: int
    log: Path

    def url(self, scheme: str, *, auth: bool = False, host: str | None = None) -> str:
        """Return its URL; `host` is another name or address of the same machine."""
        login = f"{USER}:{ENCODED}@" if auth else ""
        return f"{scheme}://{login}{format_host_port(host or self.host, self.port)}"

    def has_named(self, host: str, port: int) -> bool:
        """Return whether it says in its log that it was asked for this target."""
        target = rf"(?<![\w.]){re.escape(host)}\]?[:.]{port}\b"
        return re.search(target, self.log.read_text(errors="replace")) is not None


Command = Callable[[int], list[str]]
"""What takes the port to listen on, and returns the arguments of a program."""


class Proxies:
    """Starts each kind of proxy once on each address, when it is first asked for.

    They see other `files` in /etc: by default, and where the rights allow it, a list of hosts with
    the `NAMES`, which this process does not know.
    Those that speak TLS have certificates of the authority, for all names and addresses.
    """

    def __init__(
        self,
        authority: Authority | None = None,
        files: dict[str, str] | None = None,
        keytab: Path | None = None,
    ) -> None:
        self._keytab = keytab
        if files is None:
            hosts = [("127.0.0.1", "localhost"), *((NAMES[name], name) for name in NAMES)]
            lines = "".join(f"{address} {name}\n" for address, name in hosts)
            files = {"hosts": lines} if may_unshare() else {}
        self._files = files
        # Not below pytest's own directory: squid gives its rights up, and could not read there.
        self._directory = Path(tempfile.mkdtemp(prefix="wsframe-proxies-"))
        self._directory.chmod(0o755)
        self._authority = authority or Authority()
        self._running: dict[tuple[str, bool, str], Running] = {}
        self._daemons: list[Daemon] = []

    def get(self, kind: str, *, auth: bool) -> int:
        """Return the port of a running proxy of the kind, on 127.0.0.1."""
        return self.running(kind, auth=auth).port

    def running(self, kind: str, *, auth: bool = False, host: str = "127.0.0.1") -> Running:
        """Return a running proxy of the kind, which is the name of a method below."""
        key = kind, auth, host
        if key not in self._running:
            if host == "::1" and not has_ipv6():
                missing("IPv6 on loopback")
            made = getattr(self, f"_{kind}")(self._file(kind), auth, host)
            command, log = made if isinstance(made, tuple) else (made, None)
            self._running[key] = self._start(command, kind, host, log)
        return self._running[key]

    def tls_before(self, port: int, certificate: ServerTLS) -> int:
        """Return the port of a stunnel that speaks TLS and passes on to another port."""
        file = self._file("stunnel")
        return self._start(self._stunnel_before(port, certificate, file), "stunnel").port

    def stop(self) -> None:
        for daemon in self._daemons:
            daemon.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _file(self, kind: str) -> Path:
        """Return the path of a configuration, and of what belongs to it with other suffixes."""
        return self._directory / f"{kind}-{len(self._daemons)}"

    def _start(
        self, command: Command, kind: str, host: str = "127.0.0.1", log: Path | None = None
    ) -> Running:
        file = self._file(kind).with_suffix(".log")
        daemon = Daemon(command, file, host)
        self._daemons.append(daemon)
        return Running(host, daemon.port, log or file)

    def _seeing(self, file: Path, **more: str) -> list[str]:
        files = {**self._files, **more}
        return seeing(file.with_suffix(".etc"), files) if files else []

    def _tinyproxy(self, file: Path, auth: bool, host: str) -> Command:
        prefix, path = self._seeing(file), program("tinyproxy")

        def command(port: int) -> list[str]:
            lines = [f"Port {port}", f"Listen {host}", f"Allow {host}", "Timeout 60"]
            lines.append("LogLevel Connect")
            if auth:
                lines.append(f"BasicAuth {USER} {PASSWORD}")
            file.write_text("\n".join(lines) + "\n")
            return [*prefix, path, "-d", "-c", str(file)]

        return command

    def _privoxy(self, file: Path, auth: bool, host: str) -> Command:
        """It filters nothing, for it is given no rules; it has no passwords."""
        prefix, path = self._seeing(file), program("privoxy")

        def command(port: int) -> list[str]:
            lines = ["confdir /etc/privoxy", "toggle 0", "debug 512"]
            lines.append(f"listen-address {format_host_port(host, port)}")
            file.write_text("\n".join(lines) + "\n")
            return [*prefix, path, "--no-daemon", str(file)]

        return command

    def _squid(self, file: Path, auth: bool, host: str) -> Command:
        passwords = file.with_suffix(".passwords")
        digest = hashlib.md5(PASSWORD.encode()).hexdigest()  # noqa: S324 - its format
        passwords.write_text(f"{USER}:{digest}\n")
        helper = _squid_helper("basic_ncsa_auth") if auth else ""
        basic = [
            f"auth_param basic program {helper} {passwords}",
            "auth_param basic children 1 startup=1",
        ]
        return self._squid_with(basic if auth else [], file, host)

    def _squid_digest(self, file: Path, auth: bool, host: str) -> Command:
        passwords = file.with_suffix(".digest")
        first = hashlib.md5(f"{USER}:{REALM}:{PASSWORD}".encode()).hexdigest()  # noqa: S324
        passwords.write_text(f"{USER}:{REALM}:{first}\n")
        digest = [
            f"auth_param digest program {_squid_helper('digest_file_auth')} -c {passwords}",
            "auth_param digest children 1 startup=1",
            f"auth_param digest realm {REALM}",
        ]
        return self._squid_with(digest if auth else [], file, host)

    def _squid_ntlm(self, file: Path, auth: bool, host: str) -> Command:
        """Its helper in Debian goes through all legs, and takes every password."""
        helper = _squid_helper("ntlm_fake_auth")
        ntlm = [f"auth_param ntlm program {helper}", "auth_param ntlm children 1 startup=1"]
        return self._squid_with(ntlm if auth else [], file, host)

    def _squid_kerberos(self, file: Path, auth: bool, host: str) -> Command:
        """Its helper takes tickets for HTTP/localhost, whose key is in `keytab`."""
        helper = _squid_helper("negotiate_kerberos_auth")
        kerberos = [
            f"auth_param negotiate program {helper} -k {self._keytab} -s HTTP/localhost -r",
            "auth_param negotiate children 1 startup=1",
        ]
        return self._squid_with(kerberos if auth else [], file, host)

    def _squid_with(self, scheme: list[str], file: Path, host: str) -> Command:
        prefix, path = self._seeing(file), program("squid")
        log = file.with_suffix(".log")
        log.touch()
        log.chmod(0o666)  # squid gives its rights up before it opens it
        rules = ["acl known proxy_auth REQUIRED", "http_access allow known"]

        def command(port: int) -> list[str]:
            lines = [
                f"http_port {format_host_port(host, port)}",
                "pid_filename none",
                f"access_log stdio:{log}",
                "cache deny all",
                "cache_mem 1 MB",
                "cache_log /dev/null",
                "max_filedescriptors 1024",
                "shutdown_lifetime 0 seconds",
                "pinger_enable off",
                "logfile_rotate 0",
                "visible_hostname test",
                "coredump_dir /nonexistent",
                *(scheme + rules if scheme else []),
                f"http_access {'deny' if scheme else 'allow'} all",
            ]
            file.write_text("\n".join(lines) + "\n")
            return [*prefix, path, "-N", "-f", str(file)]

        return command

    def _stunnel(self, file: Path, auth: bool, host: str) -> tuple[Command, Path]:
        """TLS before squid, of which stunnel understands nothing."""
        squid = self.running("squid", auth=auth)
        return self._stunnel_before(squid.port, self._certificate(), file, host), squid.log

    @staticmethod
    def _stunnel_before(
        behind: int, certificate: ServerTLS, file: Path, host: str = "127.0.0.1"
    ) -> Command:
        path, pem = program("stunnel4"), _written(certificate, file)

        def command(port: int) -> list[str]:
            file.write_text(
                f"foreground = yes\npid =\ndebug = info\n[proxy]\naccept = {host}:{port}\n"
                f"connect = 127.0.0.1:{behind}\ncert = {pem}\n"
            )
            return [path, str(file)]

        return command

    def _haproxy(self, file: Path, auth: bool, host: str) -> Command:
        """TLS before squid; it reads the HTTP within, up to the answer that opens the tunnel."""
        behind = self.get("squid_digest" if auth else "squid", auth=auth)
        path, pem = program("haproxy"), _written(self._certificate(), file)

        def command(port: int) -> list[str]:
            file.write_text(
                "global\n log stdout format raw local0\ndefaults\n mode http\n log global\n"
                " timeout connect 10s\n timeout client 60s\n timeout server 60s\n"
                f"frontend tls\n bind {format_host_port(host, port)} ssl crt {pem}\n"
                ' log-format "%HM %HU %ST"\n default_backend squid\n'
                f"backend squid\n server squid 127.0.0.1:{behind}\n"
            )
            return [path, "-db", "-f", str(file)]

        return command

    def _microsocks(self, file: Path, auth: bool, host: str) -> Command:
        prefix, path = self._seeing(file), program("microsocks")
        login = ["-u", USER, "-P", PASSWORD] if auth else []
        return lambda port: [*prefix, path, "-i", host, "-p", str(port), *login]

    def _dante(self, file: Path, auth: bool, host: str) -> Command:
        """Dante knows the accounts of the system alone, so it gets a system with one more."""
        path = program("danted")
        prefix = self._seeing(file, **(_with_account() if auth else {}))

        def command(port: int) -> list[str]:
            lines = [
                "logoutput: stderr",
                f"internal: {host} port = {port}",
                "external: 127.0.0.1",
                *(["external: ::1"] if has_ipv6() else []),
                "clientmethod: none",
                f"socksmethod: {'username' if auth else 'none'}",
                *(["user.privileged: root", "user.unprivileged: nobody"] if auth else []),
                "client pass { from: 0/0 to: 0/0 }",
                "socks pass { from: 0/0 to: 0/0 log: connect }",
            ]
            file.write_text("\n".join(lines) + "\n")
            return [*prefix, path, "-f", str(file)]

        return command

    def _certificate(self) -> ServerTLS:
        return self._authority.issue("127.0.0.1", "::1", "localhost", *NAMES)


def _written(certificate: ServerTLS, file: Path) -> Path:
    pem = file.with_suffix(".pem")
    pem.touch(mode=0o600)
    pem.write_bytes(certificate.pem())
    return pem


def _with_account() -> dict[str, str]:
    """Return the files of accounts in /etc, with one more."""
    if not os.access("/etc/shadow", os.R_OK):
        missing("the right to give dante an account (root)")
    hashed = subprocess.run(
        [program("openssl"), "passwd", "-6", "-stdin"],
        input=PASSWORD,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lines = {
        "passwd": f"{USER}:x:4242:4242::/:/bin/false",
        "shadow": f"{USER}:{hashed}:19000::::::",
    }
    return {
        name: f"{Path('/etc', name).read_text().rstrip()}\n{line}\n" for name, line in lines.items()
    }


def _squid_helper(name: str) -> str:
    for directory in ("/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid"):
        path = Path(directory, name)
        if os.access(path, os.X_OK):
            return str(path)
    return str(missing(f"{name}, a part of squid"))


class TwistedSOCKS4:
    """Twisted's own SOCKS4a server: dante takes the address that announces a name for an address.

    `names` are those that it was asked for; it knows localhost and its like.
    """

    def __init__(self, keytab: Path | None = None) -> None:
        self.keytab = keytab
        self.keytab = keytab
        self.names: list[str] = []

    def resolve(self, name: bytes) -> defer.Deferred[str]:
        self.names.append(name.decode())
        address = {"localhost": "127.0.0.1", **NAMES}.get(name.decode())
        return defer.succeed(address) if address else defer.fail(DNSLookupError())

    async def __aenter__(self) -> TwistedSOCKS4:
        from twisted.internet import reactor
        from twisted.protocols.socks import SOCKSv4

        factory = Factory.forProtocol(lambda: SOCKSv4(reactor=self))  # type: ignore[arg-type]
        factory.noisy = False
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self._port: Any = await endpoint.listen(factory)
        self.port: int = self._port.getHost().port
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._port.stopListening()


class Relay(Raw):
    """The proxy's side of a connection with an origin."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Raw | None = None


class RecordingProxy(RawServer):
    """An HTTP proxy of the test's own: `requests` are the heads of its clients, `seen` all else.

    It connects to the port that it is asked for, on this machine. `question` is what it says to
    one who has told it no credentials, and `refusal` to everyone.
    """

    def __init__(
        self, certificate: ServerTLS | None = None, *, question: bytes = b"", refusal: bytes = b""
    ) -> None:
        super().__init__(self._serve, certificate=certificate)
        self.requests: list[str] = []
        self.seen = bytearray()
        self.origins: list[Raw] = []
        self._question = question
        self._refusal = refusal

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def secure_url(self) -> str:
        """The URL when it was made with a certificate for this name."""
        return f"https://localhost:{self.port}"

    @property
    def transcript(self) -> bytes:
        """Everything that it was told by its clients."""
        return "".join(self.requests).encode("latin-1") + self.seen

    async def _serve(self, client: Raw) -> None:
        self.requests.append(await client.read_head())
        if self._question and header(self.requests[-1], "Proxy-Authorization") is None:
            client.write(self._question)
            self.requests.append(await client.read_head())
        if self._refusal:
            client.write(self._refusal)
            return
        await self._open(client, self.requests[-1])

    async def _open(self, client: Raw, head: str) -> None:
        target = head.split(" ")[1]
        granted = b"HTTP/1.1 200 Connection established\r\n\r\n"
        await self._tunnel(client, int(target.rpartition(":")[2]), granted)

    async def _tunnel(self, client: Raw, port: int, granted: bytes) -> None:
        origin = await connect_raw(port)
        self.origins.append(origin)
        client.write(granted)
        self._relay(client, origin, self.seen)
        self._relay(origin, client, None)

    def _relay(self, source: Raw, sink: Raw, seen: bytearray | None) -> None:
        def forward(data: bytes) -> None:
            if seen is not None:
                seen.extend(data)
            sink.write(data)

        if source.received:
            forward(bytes(source.received))
            source.received.clear()
        source.dataReceived = forward  # type: ignore[method-assign]
        source.ended().addCallback(lambda _: sink.finish())

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        for origin in self.origins:
            await origin.drop()
        await defer.succeed(None)


class RecordingSOCKS(RecordingProxy):
    """A SOCKS proxy of the same kind: SOCKS4, 4a and 5, with every password that it is told."""

    async def _serve(self, client: Raw) -> None:
        async def read(size: int) -> bytes:
            share = await client.read(size)
            self.requests[-1] += share.decode("latin-1")
            return share

        self.requests.append("")
        version, number = await read(2)
        if version == 4:
            port, address = await read(2), await read(4)
            for _ in range(2 if address[:3] == bytes(3) else 1):  # the user, and a name
                while await read(1) != b"\0":
                    pass
            granted = b"\0\x5a" + bytes(6)
        else:
            method = max(await read(number))
            client.write(bytes([5, method]))
            if method == 2:
                await read((await read(2))[1])
                await read((await read(1))[0])
                client.write(b"\1\0")
            kind = (await read(4))[3]
            await read({1: 4, 4: 16}.get(kind) or (await read(1))[0])
            port, granted = await read(2), b"\5\0\0\1" + bytes(6)
        await self._tunnel(client, int.from_bytes(port), granted)

"""Proxies: real ones as processes, and one of the test's own that writes all down."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory

from .certificates import ServerTLS
from .peers import Daemon, has_ipv6, missing, program
from .raw import Raw, RawServer, connect_raw

REALM = "a realm"
USER, PASSWORD = "anna", "s3cret.pass"
ENCODED = "s3cret%2Epass"
"""The password as it stands in a URL; that it is decoded shows where the proxy takes it."""


class Proxies:
    """Starts each kind of proxy once, when it is first asked for."""

    def __init__(self) -> None:
        # Not below pytest's own directory: squid gives its rights up, and could not read there.
        self._directory = Path(tempfile.mkdtemp(prefix="wsframe-proxies-"))
        self._directory.chmod(0o755)
        self._daemons: dict[tuple[str, bool], Daemon] = {}
        self._stunnels: list[Daemon] = []

    def get(self, kind: str, *, auth: bool) -> int:
        """Return the port of a running proxy of the kind, which is the name of a method below."""
        key = kind, auth
        if key not in self._daemons:
            command = getattr(self, f"_{kind}")(self._directory / f"{kind}-{auth}", auth)
            self._daemons[key] = Daemon(command, self._directory / f"{kind}-{auth}.log")
        return self._daemons[key].port

    def tls_before(self, port: int, certificate: ServerTLS) -> int:
        """Return the port of a stunnel that speaks TLS and passes on to another proxy's port."""
        path = program("stunnel4")
        number = len(self._stunnels)
        file = self._directory / f"stunnel-{number}"
        pem = file.with_suffix(".pem")
        pem.touch(mode=0o600)
        pem.write_bytes(certificate.pem())

        def command(own: int) -> list[str]:
            file.write_text(
                "foreground = yes\npid =\ndebug = info\n"
                f"[proxy]\naccept = 127.0.0.1:{own}\nconnect = 127.0.0.1:{port}\ncert = {pem}\n"
            )
            return [path, str(file)]

        self._stunnels.append(Daemon(command, file.with_suffix(".log")))
        return self._stunnels[-1].port

    def stop(self) -> None:
        for stunnel in self._stunnels:
            stunnel.stop()
        for daemon in self._daemons.values():
            daemon.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    @staticmethod
    def _tinyproxy(file: Path, auth: bool) -> Any:
        path = program("tinyproxy")

        def command(port: int) -> list[str]:
            lines = [f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "Timeout 60"]
            if auth:
                lines.append(f"BasicAuth {USER} {PASSWORD}")
            file.write_text("\n".join(lines) + "\n")
            return [path, "-d", "-c", str(file)]

        return command

    @classmethod
    def _squid_digest(cls, file: Path, auth: bool) -> Any:
        passwords = file.with_suffix(".digest")
        first = hashlib.md5(f"{USER}:{REALM}:{PASSWORD}".encode()).hexdigest()  # noqa: S324
        passwords.write_text(f"{USER}:{REALM}:{first}\n")
        digest = [
            f"auth_param digest program {_squid_helper('digest_file_auth')} -c {passwords}",
            "auth_param digest children 1 startup=1",
            f"auth_param digest realm {REALM}",
        ]
        return cls._squid(file, auth, digest)

    @classmethod
    def _squid_ntlm(cls, file: Path, auth: bool) -> Any:
        """Its helper in Debian goes through all legs, and takes every password."""
        helper = _squid_helper("ntlm_fake_auth")
        ntlm = [f"auth_param ntlm program {helper}", "auth_param ntlm children 1 startup=1"]
        return cls._squid(file, auth, ntlm)

    @staticmethod
    def _squid(file: Path, auth: bool, scheme: list[str] | None = None) -> Any:
        path = program("squid")
        helper = _squid_helper("basic_ncsa_auth") if auth else ""

        def command(port: int) -> list[str]:
            lines = [
                f"http_port 127.0.0.1:{port}",
                "pid_filename none",
                "access_log none",
                "cache deny all",
                "cache_mem 1 MB",
                "cache_log /dev/null",
                "max_filedescriptors 1024",
                "shutdown_lifetime 0 seconds",
                "pinger_enable off",
                "logfile_rotate 0",
                "visible_hostname test",
                "coredump_dir /nonexistent",
            ]
            if auth:
                passwords = file.with_suffix(".passwords")
                digest = hashlib.md5(PASSWORD.encode()).hexdigest()  # noqa: S324 - its format
                passwords.write_text(f"{USER}:{digest}\n")
                basic = [
                    f"auth_param basic program {helper} {passwords}",
                    "auth_param basic children 1 startup=1",
                ]
                lines += [
                    *(scheme or basic),
                    "acl known proxy_auth REQUIRED",
                    "http_access allow known",
                    "http_access deny all",
                ]
            else:
                lines.append("http_access allow all")
            file.write_text("\n".join(lines) + "\n")
            return [path, "-N", "-f", str(file)]

        return command

    @staticmethod
    def _microsocks(_: Path, auth: bool) -> Any:
        path = program("microsocks")
        login = ["-u", USER, "-P", PASSWORD] if auth else []
        return lambda port: [path, "-i", "127.0.0.1", "-p", str(port), *login]

    @staticmethod
    def _dante(file: Path, auth: bool) -> Any:
        """Dante knows the accounts of the system alone, so it gets a system with one more."""
        path = program("danted")
        prefix = _with_account(file) if auth else []

        def command(port: int) -> list[str]:
            lines = [
                "logoutput: stderr",
                f"internal: 127.0.0.1 port = {port}",
                "external: 127.0.0.1",
                *(["external: ::1"] if has_ipv6() else []),
                "clientmethod: none",
                f"socksmethod: {'username' if auth else 'none'}",
                *(["user.privileged: root", "user.unprivileged: nobody"] if auth else []),
                "client pass { from: 0/0 to: 0/0 }",
                "socks pass { from: 0/0 to: 0/0 }",
            ]
            file.write_text("\n".join(lines) + "\n")
            return [*prefix, path, "-f", str(file)]

        return command


def _with_account(file: Path) -> list[str]:
    """Return a command in front of another, which then sees one more account.

    It has a mount namespace of its own, in which two files of /etc are others; nothing outside
    sees that.
    """
    unshare, openssl = program("unshare"), program("openssl")
    hashed = subprocess.run(
        [openssl, "passwd", "-6", "-stdin"],
        input=PASSWORD,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lines = {
        "passwd": f"{USER}:x:4242:4242::/:/bin/false",
        "shadow": f"{USER}:{hashed}:19000::::::",
    }
    mounts = []
    for name, line in lines.items():
        copy = file.with_suffix(f".{name}")
        if not os.access(f"/etc/{name}", os.R_OK):
            missing("the right to give dante an account (root)")
        kept = Path("/etc", name).read_text()
        copy.touch(mode=0o644 if name == "passwd" else 0o600)
        copy.write_text(f"{kept.rstrip()}\n{line}\n")
        mounts.append(f"mount --bind {copy} /etc/{name}")
    command = [unshare, "-m", "sh", "-c"]
    if subprocess.run([*command, " && ".join(mounts)], check=False, capture_output=True).returncode:
        missing("the right to give dante an account (mount)")
    return [*command, " && ".join([*mounts, 'exec "$@"']), "sh"]


def _squid_helper(name: str) -> str:
    for directory in ("/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid"):
        path = Path(directory, name)
        if os.access(path, os.X_OK):
            return str(path)
    return str(missing(f"{name}, a part of squid"))


class TwistedSOCKS4:
    """Twisted's own SOCKS4a server: dante takes the address that announces a name for an address.

    `names` are those that it was asked for; it knows localhost.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def resolve(self, name: bytes) -> defer.Deferred[str]:
        self.names.append(name.decode())
        if name == b"localhost":
            return defer.succeed("127.0.0.1")
        return defer.fail(DNSLookupError())

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

    `address` is where it connects to whatever its client asks for; None is what was asked for.
    """

    def __init__(self, certificate: ServerTLS | None = None) -> None:
        super().__init__(self._serve, certificate=certificate)
        self.requests: list[str] = []
        self.seen = bytearray()
        self.origins: list[Raw] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def secure_url(self) -> str:
        """The URL when it was made with a certificate for this name."""
        return f"https://localhost:{self.port}"

    async def _serve(self, client: Raw) -> None:
        head = await client.read_head()
        self.requests.append(head)
        await self._open(client, head)

    async def _open(self, client: Raw, head: str) -> None:
        target = head.split(" ")[1]
        origin = await connect_raw(int(target.rpartition(":")[2]))
        self.origins.append(origin)
        client.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
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

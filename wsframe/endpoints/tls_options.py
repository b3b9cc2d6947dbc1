"""How TLS is spoken to a server or a proxy: authorities, client certificate, names, pins.

Everything ends in what Twisted, pyOpenSSL and service_identity verify. There is no option that
verifies nothing: a server whose certificate nobody issued is known by its fingerprint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from weakref import ref

from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.core.uri import to_ascii_host
from wsframe.errors import InvalidTLSOptions

__all__ = ["HostTLS", "TLSOptions", "WrongFingerprintError"]

PEM = str | os.PathLike[str] | bytes
"""The path of a file in PEM, or, as bytes, what is in it."""

_LARGEST_FILE: Final = 16 * 1024 * 1024
"""Bytes; the system's authorities, all of them, have a quarter of a MiB."""

_ALPN: Final = "alpn is a sequence of names in ASCII, of 1 to 255 bytes each"
_FINGERPRINT: Final = (
    "fingerprint is SHA-256 of the certificate in hex, or sha256// and that of its public key in"
    " base64"
)
_MOST_HOSTS: Final = 16
"""Hosts for which what was loaded is kept, the latest ones; each has a trust store of its own."""

_CERTIFICATE: Final = re.compile(
    b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)
_SPKI: Final = "sha256//"

Pin = tuple[bool, bytes]
"""Whether it is of the public key (or else of the certificate), and the digest."""


class WrongFingerprintError(Exception):
    """The certificate is none of those whose fingerprints are given."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TLSOptions:
    """How TLS is spoken; given as `tls=` to a server, as `proxy_tls=` to every https proxy.

    Files are read when the options are made, and again for a connection when they have changed
    since; a connection for which that fails is a `TLSFailed`. PEM is given as the path of a file
    or, in bytes, itself.

    Raises `InvalidTLSOptions`.
    """

    ca: PEM | Any = None
    """The authorities that are trusted: PEM with one certificate or more, or a trust root of
    Twisted's, such as `trustRootFromCertificates(...)`; None is the system's."""

    certificate: PEM | None = None
    """The client's certificate in PEM, and behind it those that lead to its authority. None
    proves nothing to the server."""

    key: PEM | None = None
    """The private key of that certificate in PEM; None is for one in the same file."""

    key_password: str | bytes | Callable[[], str | bytes] | None = None
    """What the key is encrypted with, or a function that returns it; None for a plain key."""

    alpn: tuple[str, ...] = ("http/1.1",)
    """The protocols offered by ALPN (RFC 7301). A server that also speaks HTTP/2 may choose it for
    a client that does not say, and then has no opening handshake. Empty offers none."""

    server_name: str | None = None
    """The name asked for (SNI) and compared with the certificate; None is the host of the URI, or
    the proxy's."""

    fingerprint: str | tuple[str, ...] | None = None
    """The server's certificate, or several of which it has one: SHA-256 of the certificate in hex,
    with colons or without, or "sha256//" and SHA-256 of its public key in base64, as curl's
    `--pinnedpubkey` takes it. The latter outlives a renewal. Without `ca` the fingerprint is all
    that is verified, neither issuer nor name nor date: that is for certificates that nobody
    issued. With `ca` it is verified beside all that. The check is part of the TLS handshake."""

    minimum_version: TLSVersion = TLSVersion.TLSv1_2
    """TLS 1.2 or TLS 1.3; older ones are not spoken (RFC 8996)."""

    _pins: tuple[Pin, ...] = field(default=(), init=False, compare=False)
    _made: dict[str, tuple[object, IOpenSSLClientConnectionCreator]] = field(
        default_factory=dict, init=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.minimum_version not in (TLSVersion.TLSv1_2, TLSVersion.TLSv1_3):
            raise InvalidTLSOptions("minimum_version is TLSVersion.TLSv1_2 or TLSVersion.TLSv1_3")
        if self.server_name is not None:
            object.__setattr__(self, "server_name", _host(self.server_name))
        if not isinstance(self.alpn, tuple | list):
            raise InvalidTLSOptions(_ALPN)
        object.__setattr__(self, "alpn", _protocols(self.alpn))
        if self.fingerprint is not None:
            if not isinstance(self.fingerprint, str | tuple | list):
                raise InvalidTLSOptions(_FINGERPRINT)
            given = (
                (self.fingerprint,)
                if isinstance(self.fingerprint, str)
                else tuple(self.fingerprint)
            )
            if not given:
                raise InvalidTLSOptions("fingerprint is empty, so that no server fits")
            object.__setattr__(self, "fingerprint", given)
            object.__setattr__(self, "_pins", tuple(_parse_pin(text) for text in given))
        if self.certificate is None and (self.key is not None or self.key_password is not None):
            raise InvalidTLSOptions("a key is given without its certificate")
        self._check_files()

    def _check_files(self) -> None:
        arguments = self._load()
        trusted = True
        try:
            CertificateOptions(trustRoot=arguments["trustRoot"])
        except TypeError:
            trusted = False
        if not trusted:
            raise InvalidTLSOptions(f"ca is PEM or a trust root, not {type(self.ca).__name__}")
        if "privateKey" not in arguments:
            return
        context = SSL.Context(SSL.TLS_METHOD)
        fits = True
        try:
            context.use_certificate(arguments["certificate"])
            context.use_privatekey(arguments["privateKey"])
            context.check_privatekey()
        except SSL.Error:
            fits = False
        if not fits:
            raise InvalidTLSOptions("the key is not the certificate's, or is too weak to be used")

    def for_host(self, host: str) -> HostTLS:
        """Return what connects to that host (a name or an address) as these options say.

        It is an `IOpenSSLClientConnectionCreator`, for `TLSEndpoint` and for whatever else in
        Twisted takes one.
        """
        # Neither a zone nor the root's dot is in a certificate, nor in SNI (RFC 6066 §3).
        return HostTLS(self, host.partition("%")[0].removesuffix("."))

    def elsewhere(self) -> TLSOptions:
        """Return the options for another origin: without the client's certificate and the name."""
        if self.certificate is None and self.server_name is None:
            return self
        return replace(self, certificate=None, key=None, key_password=None, server_name=None)

    def creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        """Return what connects to that host, with the files as they are now."""
        signature = self._signature()
        known = self._made.pop(host, None)
        if known is None or known[0] != signature:
            known = (signature, self._create(self.server_name or host, self._load()))
        self._made[host] = known
        while len(self._made) > _MOST_HOSTS:
            del self._made[next(iter(self._made))]
        return known[1]

    def _create(self, name: str, arguments: dict[str, Any]) -> IOpenSSLClientConnectionCreator:
        protocols = [protocol.encode("ascii") for protocol in self.alpn]
        if not self._pins:
            root = arguments.pop("trustRoot")
            return optionsForClientTLS(
                name, root, acceptableProtocols=protocols, extraCertificateOptions=arguments
            )
        if self.ca is None:
            del arguments["trustRoot"]
        options = CertificateOptions(acceptableProtocols=protocols, **arguments)
        return _Pinned(options, name, self._pins, issued=self.ca is not None)

    def _signature(self) -> object:
        """Return what changes with the files, as far as can be told without reading them."""
        found = []
        for name in ("ca", "certificate", "key"):
            value = getattr(self, name)
            if isinstance(value, str | os.PathLike):
                try:
                    status = Path(value).stat()
                    found.append((status.st_mtime_ns, status.st_size, status.st_ino))
                except OSError:
                    found.append((0, 0, 0))
        return tuple(found)

    def _load(self) -> dict[str, Any]:
        """Return what Twisted's CertificateOptions take; raise `InvalidTLSOptions`."""
        arguments: dict[str, Any] = {"raiseMinimumTo": self.minimum_version, "trustRoot": self.ca}
        if isinstance(self.ca, str | os.PathLike | bytes):
            authorities = _certificates("ca", self.ca)
            arguments["trustRoot"] = trustRootFromCertificates(
                [Certificate(certificate) for certificate in authorities]
            )
        if self.certificate is not None:
            own, *chain = _certificates("certificate", self.certificate)
            # pyOpenSSL's own objects are deprecated where they are used.
            arguments["certificate"] = own.to_cryptography()
            arguments["extraCertChain"] = [each.to_cryptography() for each in chain]
            source = self.certificate if self.key is None else self.key
            arguments["privateKey"] = _private_key(source, self.key_password)
        return arguments

    def __repr__(self) -> str:
        # Keys and passwords may be among the values: only the names are shown.
        names = ("ca", "certificate", "key", "server_name", "fingerprint")
        given = ", ".join(name for name in names if getattr(self, name) is not None)
        return f"<TLSOptions {given or 'by default'}>"


def _protocols(given: Iterable[object]) -> tuple[str, ...]:
    names = (None,) if isinstance(given, str) else tuple(given)
    checked = tuple(
        name for name in names if isinstance(name, str) and name.isascii() and 0 < len(name) < 256
    )
    if len(checked) != len(names):
        raise InvalidTLSOptions(_ALPN)
    return checked


def _host(name: object) -> str:
    host = ""
    if isinstance(name, str):
        try:
            host = to_ascii_host(name).removesuffix(".")
        except ValueError:
            host = ""
    if not host:
        raise InvalidTLSOptions("server_name is not the name of a host, nor its address")
    return host


def _parse_pin(text: object) -> Pin:
    digest = b""
    of_key = False
    if isinstance(text, str):
        of_key = text.startswith(_SPKI)
        try:
            if of_key:
                digest = base64.b64decode(text.removeprefix(_SPKI), validate=True)
            else:
                digest = bytes.fromhex(text.replace(":", ""))
        except (ValueError, binascii.Error):
            digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise InvalidTLSOptions(_FINGERPRINT)
    return of_key, digest


def _read(name: str, source: PEM) -> bytes:
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | os.PathLike):
        raise InvalidTLSOptions(f"{name} is a path or PEM, not {type(source).__name__}")
    data: bytes | None = None
    why = ""
    try:
        with Path(source).open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or "its path is not one"
    if data is None:
        raise InvalidTLSOptions(f"{name}: {os.fspath(source)!r} cannot be read: {why}")
    if len(data) > _LARGEST_FILE:
        raise InvalidTLSOptions(f"{name}: {os.fspath(source)!r} is too large to be PEM")
    return data


def _certificates(name: str, source: PEM) -> list[crypto.X509]:
    found = _CERTIFICATE.findall(_read(name, source))
    loaded: list[crypto.X509] = []
    try:
        loaded = [crypto.load_certificate(crypto.FILETYPE_PEM, text) for text in found]
    except crypto.Error:
        loaded = []
    if not loaded:
        raise InvalidTLSOptions(f"{name} is not PEM with a certificate")
    return loaded


def _private_key(source: PEM, password: str | bytes | Callable[[], str | bytes] | None) -> Any:
    data = _read("key", source)
    given = password() if callable(password) else password or b""
    encoded = given.encode() if isinstance(given, str) else given
    loaded = None
    try:
        # A function, because without one OpenSSL asks at the terminal.
        loaded = crypto.load_privatekey(crypto.FILETYPE_PEM, data, lambda *_: encoded)
    except (crypto.Error, ValueError, TypeError):
        loaded = None
    if loaded is None:
        raise InvalidTLSOptions("key is not PEM with a private key, or key_password is not its own")
    return loaded.to_cryptography_key()


@implementer(IOpenSSLClientConnectionCreator)
class HostTLS:
    """`TLSOptions` for one host."""

    def __init__(self, options: TLSOptions, host: str) -> None:
        self._options = options
        self._host = host

    def current(self) -> IOpenSSLClientConnectionCreator:
        """Return what connects, with the files as they are now; raise `InvalidTLSOptions`."""
        return self._options.creator(self._host)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Twisted: make the connection."""
        return self.current().clientConnectionForTLS(tlsProtocol)


@implementer(IOpenSSLClientConnectionCreator)
class _Pinned:
    """Connects to a server by its fingerprint; `issued` says whether all else is verified too."""

    def __init__(
        self, options: CertificateOptions, name: str, pins: Iterable[Pin], *, issued: bool
    ) -> None:
        self._options = options
        self._name = name
        self._pins = tuple(pins)
        self._issued = issued
        self._is_address = isIPAddress(name) or isIPv6Address(name)
        kind: Any = IPAddress_ID if self._is_address else DNS_ID
        self._identity: ServiceID = kind(name)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Twisted: make the connection."""
        connection: SSL.Connection = self._options.clientConnectionForTLS(tlsProtocol)
        if not self._is_address:
            connection.set_tlsext_host_name(self._name.encode("ascii"))

        # A callback that held the protocol would keep both from going when they are done with.
        protocol = ref(tlsProtocol)

        def verify(
            _: SSL.Connection, certificate: crypto.X509, __: int, depth: int, valid: int
        ) -> bool:
            if depth > 0 or (self._issued and not valid):
                return bool(valid) or not self._issued
            wrong: Exception | None = None
            try:
                if self._issued:
                    verify_service_identity(extract_patterns(certificate), [self._identity], [])
                if not self._fits(certificate):
                    wrong = WrongFingerprintError(
                        "the certificate is not the one of the fingerprint"
                    )
            except VerificationError as mismatch:
                wrong = mismatch
            except Exception as failure:  # noqa: BLE001 - OpenSSL's callbacks can raise nothing
                wrong = failure
            found = protocol()
            if wrong is not None and found is not None:
                found.failVerification(Failure(wrong))
            return wrong is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection

    def _fits(self, certificate: crypto.X509) -> bool:
        whole = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        key = crypto.dump_publickey(crypto.FILETYPE_ASN1, certificate.get_pubkey())
        digests = {False: hashlib.sha256(whole).digest(), True: hashlib.sha256(key).digest()}
        return any(hmac.compare_digest(digests[of_key], digest) for of_key, digest in self._pins)

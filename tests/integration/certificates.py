"""Certificates made for a test: an authority of its own, and what it issues or does not."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

DAY = dt.timedelta(days=1)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate(
    subject: str,
    issuer: str,
    public_key: Any,
    signing_key: Any,
    names: tuple[str, ...],
    expired: bool,
    authority: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * DAY)
        .not_valid_after(now - DAY if expired else now + DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signing_key, hashes.SHA256())


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """What a server offers: a key and its certificate; `names` is what each client asked for.

    Twisted's own CertificateOptions use a call that pyOpenSSL has deprecated.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.names: list[str | None] = []
        self.offered: list[list[str]] = []
        self.clients: list[str] = []
        self._key, self._certificate = key, certificate
        self._pems = (
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            certificate.public_bytes(serialization.Encoding.PEM),
        )
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_privatekey(key)
        self._context.use_certificate(certificate)
        self._context.set_tlsext_servername_callback(self._note)

    def renew(self, other: ServerTLS) -> None:
        """Offer the other's certificate from now on."""
        self._context = other._context

    def pem(self) -> bytes:
        """Return the key and the certificate, for another program to serve with."""
        return b"".join(self._pems)

    def certificate_pem(self) -> bytes:
        """Return the certificate alone."""
        return self._pems[1]

    def key_pem(self, password: str | None = None) -> bytes:
        """Return the key alone, encrypted where there is a password."""
        encryption: Any = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password.encode())
        encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self._key.private_bytes(encoding, kind, encryption)

    def fingerprint(self) -> str:
        """Return SHA-256 of the certificate, as `openssl x509 -fingerprint` writes it."""
        return self._certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def key_fingerprint(self) -> str:
        """Return SHA-256 of the public key, as curl wants it."""
        spki = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return "sha256//" + base64.b64encode(hashlib.sha256(spki).digest()).decode()

    def demand(self, authority: Authority) -> None:
        """Ask every client for a certificate of the authority's; `clients` are their names."""
        store: Any = self._context.get_cert_store()
        store.add_cert(crypto.X509.from_cryptography(authority.certificate))

        def verified(_: Any, certificate: Any, error: int, depth: int, valid: int) -> bool:
            if valid and depth == 0:
                names = certificate.to_cryptography().subject
                found = names.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
                if found not in self.clients:
                    self.clients.append(str(found))
            return bool(valid)

        self._context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verified)

    def choose(self, *protocols: str) -> None:
        """Choose the first of these that a client offers by ALPN; `offered` is all of theirs."""

        def select(_: SSL.Connection, offered: list[bytes]) -> Any:
            names = [name.decode() for name in offered]
            self.offered.append(names)
            chosen = next((name for name in protocols if name in names), None)
            return SSL.NO_OVERLAPPING_PROTOCOLS if chosen is None else chosen.encode()

        self._context.set_alpn_select_callback(select)

    def at_most(self, version: int) -> None:
        """Speak no newer version of TLS."""
        self._context.set_max_proto_version(version)

    def _note(self, connection: SSL.Connection) -> None:
        name = connection.get_servername()
        self.names.append(None if name is None else name.decode())

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class Authority:
    """A certificate authority that only the clients of the test trust."""

    def __init__(self, name: str = "test CA") -> None:
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key()
        self.certificate = _certificate(name, name, public, self._key, (), False, True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.root = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(self.pem)])

    def issue(self, *names: str, expired: bool = False) -> ServerTLS:
        """Return what a server offers: a certificate for these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(
            names[0], self._name, key.public_key(), self._key, names, expired, False
        )
        return ServerTLS(key, certificate)

    def client(self, name: str) -> Any:
        """Return what a client verifies with: this authority, and that name."""
        return ssl.optionsForClientTLS(name, trustRoot=self.root)

    def verify_proxy(self, proxy: Any) -> Any:
        """Return what a client verifies a proxy with: for use as `proxy_tls`."""
        return self.client(proxy.host)


def self_signed(*names: str) -> ServerTLS:
    """Return what a server offers: a certificate that nobody issued."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(names[0], names[0], key.public_key(), key, names, False, False)
    return ServerTLS(key, certificate)


BAD_CERTIFICATES = ["wrong name", "expired", "self-signed", "unknown authority"]


def bad_certificate(kind: str, authority: Authority) -> tuple[ServerTLS, str]:
    """Return one that a client of that authority refuses for localhost, and what is said of it."""
    if kind == "wrong name":
        return authority.issue("other.example"), "not for this host name"
    if kind == "expired":
        return authority.issue("localhost", expired=True), "expired"
    if kind == "self-signed":
        return self_signed("localhost"), "self[- ]signed"
    return Authority("other CA").issue("localhost"), "unable to get local issuer certificate"

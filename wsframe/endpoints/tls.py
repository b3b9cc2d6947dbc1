"""The TLS link: done when its handshake is, with the reason when it is not."""

from __future__ import annotations

from typing import Any, Final, cast

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.core.timing import Observe
from wsframe.endpoints.link import Link, Watch, connect_link
from wsframe.endpoints.tls_options import HostTLS, WrongFingerprintError
from wsframe.errors import (
    InvalidTLSOptions,
    Phase,
    TLSFailed,
)
from wsframe.tls_transport import TLSFactory

__all__ = ["TLSEndpoint"]

_NO_TLS: Final = "wrong version number"
"""What OpenSSL says of bytes that are no TLS at all."""


@implementer(IHandshakeListener)
class _TLSLink(Link):
    def __init__(self, factory: IProtocolFactory, watch: Watch, to: str, phase: Phase) -> None:
        super().__init__(factory, watch, to)
        self.phase = phase

    def handshakeCompleted(self) -> None:
        if not self._finished:
            self.detail = _agreed_text(cast(Any, self.transport).getHandle())
            self.succeed(b"")

    def advance(self, data: bytes) -> bytes | None:
        raise TLSFailed("data before the end of the TLS handshake", phase=self.phase)

    def ended(self, reason: Failure) -> Exception:
        text = _tls_text(reason)
        certificate = _is_the_certificates(reason.value)
        verified = _verification_text(cast(Any, self.transport).getHandle())
        if verified and isinstance(reason.value, SSL.Error):
            text = f"the certificate is not accepted: {verified}"
        return TLSFailed(f"TLS handshake failed: {text}", phase=self.phase, certificate=certificate)


def _is_the_certificates(error: BaseException | None) -> bool:
    """Return whether it was this side that did not accept the other's certificate.

    An alert about ours has a reason of its own, such as "tlsv1 alert unknown ca".
    """
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return any(entry[-1] == "certificate verify failed" for entry in error.args[0])
    return isinstance(error, VerificationError | WrongFingerprintError)


def _agreed_text(connection: SSL.Connection) -> str:
    """Return what both sides agreed on: version, cipher and, where there is one, the protocol."""
    agreed = [connection.get_protocol_version_name(), connection.get_cipher_name()]
    protocol = connection.get_alpn_proto_negotiated()
    if protocol:
        agreed.append(f"ALPN {protocol.decode('ascii', 'backslashreplace')}")
    return ", ".join(filter(None, agreed))


def _tls_text(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, VerificationError):
        return "the certificate is not for this host name"
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        text = "; ".join(entry[-1] for entry in error.args[0])
        hint = " (perhaps it speaks no TLS, but ws:// or http://)" if _NO_TLS in text else ""
        return text + hint
    return str(reason.getErrorMessage())


def _verification_text(connection: Any) -> str:
    """Return what OpenSSL found wrong with the certificate ("certificate has expired"), or "".

    pyOpenSSL says "certificate verify failed" for everything. It has no public name for the
    reason, and a verification callback would take the place of the user's own: hence its private
    ones, without which the text is just poorer.
    """
    try:
        library, ffi = cast(Any, SSL)._lib, cast(Any, SSL)._ffi
        code = library.SSL_get_verify_result(connection._ssl)
        if code == 0:
            return ""
        return str(ffi.string(library.X509_verify_cert_error_string(code)).decode())
    except AttributeError:
        return ""


@implementer(IStreamClientEndpoint)
class TLSEndpoint:
    """Speaks TLS over what another endpoint connects; fires when the handshake is complete.

    Twisted's `wrapClientTLS` fires before it, and a wrong certificate comes as a lost connection.
    `creator` says what is verified: `TLSOptions.for_host(host)`, or what Twisted's own
    `twisted.internet.ssl.optionsForClientTLS(host, trustRoot=...)` returns. `phase` is what
    its errors say: "tls", or "proxy-tls" where a proxy is spoken to. `observe` is called when the
    phase is done, and told that it was about `to`, such as host:port; see `PhaseDone`.

    Raises TypeError for a creator that does not verify the host name. `connect` fails with
    `TLSFailed`, or as the endpoint below does.
    """

    def __init__(
        self,
        creator: IOpenSSLClientConnectionCreator,
        endpoint: IStreamClientEndpoint,
        *,
        clock: IReactorTime | None = None,
        phase: Phase = "tls",
        observe: Observe | None = None,
        to: str = "",
    ) -> None:
        creates = IOpenSSLClientConnectionCreator.providedBy(creator)
        if not creates or isinstance(creator, CertificateOptions):
            # CertificateOptions would connect, and compare no host name.
            raise TypeError(
                "TLS is given by TLSOptions(...).for_host(host), or by "
                "twisted.internet.ssl.optionsForClientTLS(host, trustRoot=...), not by "
                f"{type(creator).__name__}"
            )
        self._creator = creator
        self._endpoint = endpoint
        self._clock = clock
        self._phase = phase
        self._watch = Watch(clock, observe)
        self._to = to

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built."""
        creator = self._creator
        if isinstance(creator, HostTLS):
            try:
                creator = creator.current()
            except InvalidTLSOptions as error:
                return fail(TLSFailed(f"TLS cannot begin: {error}", phase=self._phase))
        return connect_link(
            self._endpoint,
            _TLSLink(factory, self._watch, self._to, self._phase),
            lambda inner: TLSFactory(creator, True, inner, clock=self._clock),
        )

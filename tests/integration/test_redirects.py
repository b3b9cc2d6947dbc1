"""Redirects of an opening handshake: followed on request, and never with what is another's.

And cookies, which come with them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from http.cookiejar import Cookie, CookieJar
from typing import Any

import pytest
import pytest_twisted

from wsframe import FROM_ENVIRONMENT, GENERATED
from wsframe.client import connect
from wsframe.endpoints import TLSOptions
from wsframe.errors import HandshakeRefused, OpenTimeout, TLSFailed
from wsframe.options import ClientOptions

from .certificates import Authority, ServerTLS
from .proxies import RecordingProxy
from .raw import Raw, RawServer, Stepped, header, switching

FOLLOWING = ClientOptions(max_redirects=5)


class Server(RawServer):
    """Answers each request with what `answer` says of it, and keeps the heads in `heads`."""

    def __init__(
        self, answer: Callable[[str], bytes], certificate: ServerTLS | None = None
    ) -> None:
        super().__init__(self._serve, certificate=certificate)
        self._answer = answer
        self.heads: list[str] = []

    async def _serve(self, raw: Raw) -> None:
        head = await raw.read_head()
        self.heads.append(head)
        raw.write(self._answer(head))

    @property
    def url(self) -> str:
        return f"{'ws' if self._certificate is None else 'wss'}://localhost:{self.port}"


def redirect(location: str, *extra: str, status: int = 302) -> bytes:
    lines = [f"HTTP/1.1 {status} Elsewhere", f"Location: {location}", *extra, "Content-Length: 4"]
    return ("\r\n".join(lines) + "\r\n\r\nthere").encode()


def by_target(answers: dict[str, bytes]) -> Callable[[str], bytes]:
    """Answer the targets named so, and open the WebSocket at all others."""
    return lambda head: answers.get(head.split(" ")[1]) or switching(head)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest_twisted.ensureDeferred
async def test_redirect_is_followed_on_request(status: int) -> None:
    async with Server(by_target({"/a": redirect("/b?c=d", status=status)})) as server:
        async with connect(f"{server.url}/a", options=FOLLOWING) as connection:
            assert str(connection.uri) == f"{server.url}/b"
            assert connection.request.target == "/b?c=d"
            connection.abort()
        assert [head.split(" ")[1] for head in server.heads] == ["/a", "/b?c=d"]


@pytest.mark.parametrize("status", [300, 304, 305, 400])
@pytest_twisted.ensureDeferred
async def test_other_status_is_a_refusal(status: int) -> None:
    async with Server(by_target({"/a": redirect("/b", status=status)})) as server:
        with pytest.raises(HandshakeRefused) as caught:
            await connect(f"{server.url}/a", options=FOLLOWING)
        assert caught.value.status == status
        assert len(server.heads) == 1


@pytest_twisted.ensureDeferred
async def test_redirect_is_a_refusal_by_default() -> None:
    async with Server(by_target({"/a": redirect("/b")})) as server:
        with pytest.raises(HandshakeRefused) as caught:
            await connect(f"{server.url}/a")
        assert dict(caught.value.headers)["Location"] == "/b"
        assert str(caught.value) == "server answered 302 Found"
        assert len(server.heads) == 1


@pytest.mark.parametrize("limit", [1, 3])
@pytest_twisted.ensureDeferred
async def test_loop_ends_at_the_limit(limit: int) -> None:
    async with Server(by_target({"/a": redirect("/a")})) as server:
        with pytest.raises(HandshakeRefused, match=f"comes after {limit}, and no more") as caught:
            await connect(f"{server.url}/a", options=ClientOptions(max_redirects=limit))
        assert caught.value.status == 302
        assert len(server.heads) == limit + 1


@pytest.mark.parametrize(
    ("location", "why"),
    [("ws://localhost/", "from wss to ws"), ("http://localhost/", "from wss to ws")],
)
@pytest_twisted.ensureDeferred
async def test_nobody_is_led_from_tls_to_plain_text(location: str, why: str) -> None:
    authority = Authority()
    certificate = authority.issue("localhost")
    async with Server(by_target({"/a": redirect(location)}), certificate) as server:
        with pytest.raises(HandshakeRefused, match=why) as caught:
            await connect(f"{server.url}/a", options=FOLLOWING, tls=TLSOptions(ca=authority.pem))
        assert (caught.value.status, caught.value.body) == (302, b"ther")


@pytest.mark.parametrize("location", ["ftp://localhost/", "/a b", ""])
@pytest_twisted.ensureDeferred
async def test_location_for_no_websocket_is_a_refusal(location: str) -> None:
    async with Server(by_target({"/a": redirect(location)})) as server:
        with pytest.raises(HandshakeRefused, match="is not followed"):
            await connect(f"{server.url}/a", options=FOLLOWING)
        assert len(server.heads) == 1


SECRETS = [
    ("Authorization", "Bearer planted"),
    ("Cookie", "session=planted"),
    ("X-Api-Key", "planted"),
    ("Host", "planted.example"),
    ("user-agent", "mine"),
    ("Sec-WebSocket-Extensions", None),
]


@pytest_twisted.ensureDeferred
async def test_within_the_origin_everything_is_said_again() -> None:
    async with Server(by_target({"/a": redirect("/b")})) as server:
        async with connect(f"{server.url}/a", headers=SECRETS, options=FOLLOWING) as connection:
            connection.abort()
        first, second = (head.split("\r\n", 1)[1] for head in server.heads)
        assert _keyless(first) == _keyless(second)
        assert "planted.example" in second


def _keyless(head: str) -> str:
    return head.replace(header("\r\n" + head, "Sec-WebSocket-Key") or "?", "")


@pytest.mark.parametrize("how", ["headers", "uri"])
@pytest_twisted.ensureDeferred
async def test_another_origin_is_told_no_secret(how: str) -> None:
    """Another port is one. What is no secret, and what is left out, stays as it was."""
    async with (
        Server(switching) as other,
        Server(by_target({"/a": redirect(f"{other.url}/b")})) as server,
    ):
        url = f"{server.url}/a"
        if how == "uri":
            url = url.replace("://", "://planted:planted@")
        headers: Any = SECRETS if how == "headers" else [("user-agent", "mine")]
        async with connect(
            url, headers=headers, subprotocols=["v1"], options=FOLLOWING
        ) as connection:
            connection.abort()
        assert "planted" in server.heads[0] or "Authorization: Basic" in server.heads[0]
        (head,) = other.heads
        assert "planted" not in head
        assert "Authorization" not in head
        assert header(head, "Host") == f"localhost:{other.port}"
        assert "\r\nuser-agent: mine\r\n" in head
        assert header(head, "Sec-WebSocket-Protocol") == "v1"


@pytest_twisted.ensureDeferred
async def test_back_at_the_first_origin_the_secrets_stay_dropped() -> None:
    """Who led away and back may have chosen the path."""
    async with Server(by_target({})) as other, Server(by_target({})) as server:
        other._answer = lambda head: redirect(f"{server.url}/b")
        server._answer = by_target({"/a": redirect(f"{other.url}/x")})
        async with connect(f"{server.url}/a", headers=SECRETS, options=FOLLOWING) as connection:
            connection.abort()
        assert "planted" not in server.heads[1]


@pytest_twisted.ensureDeferred
async def test_from_plain_text_to_tls_is_followed_and_verified() -> None:
    authority = Authority()
    async with (
        Server(switching, authority.issue("localhost")) as secure,
        Server(by_target({"/a": redirect(f"{secure.url.replace('wss', 'https')}/b")})) as server,
    ):
        tls = TLSOptions(ca=authority.pem)
        async with connect(f"{server.url}/a", tls=tls, options=FOLLOWING) as connection:
            assert str(connection.uri) == f"{secure.url}/b"
            connection.abort()
        with pytest.raises(TLSFailed):
            await connect(f"{server.url}/a", options=FOLLOWING)


@pytest_twisted.ensureDeferred
async def test_another_origin_is_not_shown_the_client_certificate() -> None:
    authority, clients = Authority(), Authority("authority of clients")
    first, second = authority.issue("localhost"), authority.issue("localhost")
    first.demand(clients)
    second.demand(clients)
    tls = TLSOptions(ca=authority.pem, certificate=clients.issue("robot-7").pem())
    async with (
        Server(switching, second) as other,
        Server(by_target({"/a": redirect(f"{other.url}/b")}), first) as server,
    ):
        with pytest.raises(Exception, match="alert"):
            await connect(f"{server.url}/a", tls=tls, options=FOLLOWING)
        assert (first.clients, second.clients) == (["robot-7"], [])
        assert other.heads == []


@pytest_twisted.ensureDeferred
async def test_tls_for_one_name_is_not_used_for_another_origin() -> None:
    """A creator of Twisted's verifies the one name that it was made for."""
    authority = Authority()
    async with (
        Server(switching, authority.issue("localhost")) as other,
        Server(
            by_target({"/a": redirect(f"{other.url}/b")}), authority.issue("localhost")
        ) as server,
    ):
        with pytest.raises(HandshakeRefused, match="another origin than tls= is for"):
            await connect(f"{server.url}/a", tls=authority.client("localhost"), options=FOLLOWING)
        assert other.connections == []


@pytest_twisted.ensureDeferred
async def test_proxy_is_chosen_anew() -> None:
    async with (
        RecordingProxy() as proxy,
        Server(switching) as other,
        Server(by_target({"/a": redirect(f"{other.url}/b")})) as server,
    ):
        proxies = {f"ws://localhost:{other.port}": proxy.url}
        async with connect(f"{server.url}/a", proxies=proxies, options=FOLLOWING) as connection:
            connection.abort()
        assert len(proxy.requests) == 1
        assert proxy.requests[0].startswith(f"CONNECT localhost:{other.port} ")
        assert len(server.heads) == len(other.heads) == 1


@pytest.mark.parametrize("why", ["bind_address", "environment"])
@pytest_twisted.ensureDeferred
async def test_way_that_cannot_be_is_a_refusal(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the redirect leads cannot be reached as the caller wants it reached."""
    arguments: dict[str, Any] = {"bind_address": ("127.0.0.1", 0)}
    location = "ws://[::1]:9/"
    if why == "environment":
        monkeypatch.setenv("no_proxy", "localhost")
        monkeypatch.setenv("ws_proxy", "planted://")
        arguments = {"proxies": FROM_ENVIRONMENT}
        location = "ws://other.example/"
    async with Server(by_target({"/a": redirect(location)})) as server:
        with pytest.raises(HandshakeRefused, match="is not followed") as caught:
            await connect(f"{server.url}/a", options=FOLLOWING, **arguments)
        assert "planted" not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_redirects_have_one_deadline_for_all() -> None:
    clock = Stepped()
    async with RawServer() as server:
        opening = connect(
            f"ws://127.0.0.1:{server.port}/",
            options=ClientOptions(open_timeout=10, max_redirects=9),
            reactor=clock,  # type: ignore[arg-type]
        )
        for number in range(3):
            raw = await server.accepted()
            await raw.read_head()
            clock.advance(3)
            if number < 2:
                raw.write(redirect("/again"))
        clock.advance(1.5)
        with pytest.raises(OpenTimeout):
            await opening
        assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_redirect_that_is_cut_short_by_the_deadline_is_not_followed() -> None:
    """Its head is there, its body is not: it is told, and nothing begins after the end."""
    clock = Stepped()
    async with RawServer() as server:
        opening = connect(
            f"ws://127.0.0.1:{server.port}/",
            options=ClientOptions(open_timeout=10, max_redirects=9),
            reactor=clock,  # type: ignore[arg-type]
        )
        raw = await server.accepted()
        await raw.read_head()
        raw.write(b"HTTP/1.1 302 Elsewhere\r\nLocation: /b\r\nContent-Length: 9\r\n\r\nhalf")
        while not opening.called:
            await _turn()
            clock.advance(5)
        with pytest.raises(HandshakeRefused):
            await opening
        assert clock.getDelayedCalls() == []
        assert len(server.connections) == 1


async def _turn() -> None:
    from .raw import turns

    await turns(5)


# ----------------------------------------------------------------------------------------- cookies


def cookies(jar: CookieJar) -> dict[str, str | None]:
    return {cookie.name: cookie.value for cookie in jar}


def cookie(name: str, domain: str, *, path: str = "/", secure: bool = False) -> Cookie:
    return Cookie(
        0,
        name,
        "1",
        None,
        False,
        domain,
        True,
        False,
        path,
        True,
        secure,
        None,
        False,
        None,
        None,
        {},
    )


@pytest.mark.parametrize("status", [101, 403])
@pytest_twisted.ensureDeferred
async def test_cookies_of_an_answer_are_kept_and_sent(status: int) -> None:
    """Of a refusal as well: that is how a login works."""
    lines = ("Set-Cookie: a=1; Path=/", "Set-Cookie: b=2; Path=/other", "set-cookie: c=3; Path=/")

    def answer(head: str) -> bytes:
        if status == 101:
            return switching(head, *lines)
        return ("\r\n".join(["HTTP/1.1 403 No", *lines, "Content-Length: 0"]) + "\r\n\r\n").encode()

    jar = CookieJar()
    async with Server(answer) as server:
        for _ in range(2):
            with suppress(HandshakeRefused):
                (await connect(f"{server.url}/a", cookies=jar)).abort()
        assert header(server.heads[0], "Cookie") is None
        assert header(server.heads[1], "Cookie") == "a=1; c=3"
    assert cookies(jar) == {"a": "1", "b": "2", "c": "3"}


@pytest_twisted.ensureDeferred
async def test_cookies_of_a_redirect_are_sent_to_where_it_leads() -> None:
    first = redirect("/b", "Set-Cookie: a=1; Path=/")
    async with Server(by_target({"/a": first})) as server:
        async with connect(f"{server.url}/a", cookies=CookieJar(), options=FOLLOWING) as connection:
            connection.abort()
        assert [header(head, "Cookie") for head in server.heads] == [None, "a=1"]


@pytest_twisted.ensureDeferred
async def test_jar_says_which_cookies_are_whose() -> None:
    """By domain, path and scheme: to it ws is http, and wss https."""
    jar = CookieJar()
    jar.set_cookie(cookie("plain", "localhost.local"))
    jar.set_cookie(cookie("secret", "localhost.local", secure=True))
    jar.set_cookie(cookie("elsewhere", "other.example"))
    jar.set_cookie(cookie("below", "localhost.local", path="/below"))
    authority = Authority()
    async with (
        Server(switching) as server,
        Server(switching, authority.issue("localhost")) as secure,
    ):
        tls = TLSOptions(ca=authority.pem)
        (await connect(f"{server.url}/", cookies=jar)).abort()
        (await connect(f"{server.url}/below/x", cookies=jar)).abort()
        (await connect(f"{secure.url}/", cookies=jar, tls=tls)).abort()
        assert [header(head, "Cookie") for head in (*server.heads, *secure.heads)] == [
            "plain=1",
            "below=1; plain=1",
            "plain=1; secret=1",
        ]


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({"cookie": "mine=2"}, "mine=2"),
        ({"Cookie": None}, None),
        ([("X", "1"), ("COOKIE", GENERATED)], "a=1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_cookie_header_given_stands_for_the_jars(headers: Any, sent: str | None) -> None:
    jar = CookieJar()
    jar.set_cookie(cookie("a", "localhost.local"))
    async with Server(switching) as server:
        (await connect(f"{server.url}/", cookies=jar, headers=headers)).abort()
        assert header(server.heads[0], "Cookie") == sent


def test_what_is_no_jar_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="CookieJar"):
        connect("ws://127.0.0.1:9/", cookies={"a": "1"})  # type: ignore[arg-type]

"""The command lines: what is accepted, and how what is not is answered."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.peers import has_ipv6, missing
from integration.raw import connect_raw, open_raw, turns, within
from twisted.python import usage

from wsframe.options import DEFAULT_CLIENT_OPTIONS, DEFAULT_SERVER_OPTIONS
from wsframe.services import agent, broadcast, echo, monitor
from wsframe.services.listening import ListeningService, cut_on_next_signal
from wsframe.services.workers import in_workers

TOKEN = "tok.Secret_0123456789"
LISTENING = [echo, broadcast, monitor]
BEYOND = "without --token-file a service listens on this machine only"


def parse(service: Any, *arguments: str) -> Any:
    options = service.Options()
    options.parseOptions(list(arguments))
    return options


def complaint(service: Any, *arguments: str) -> str:
    """Return what is said about a wrong command line; any other error would be a traceback."""
    with pytest.raises(usage.UsageError) as caught:
        parse(service, *arguments)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"web1:{TOKEN}\nweb2:{TOKEN}.2\n")
    path.chmod(0o600)
    return str(path)


# ---------------------------------------------------------------- every listening service


@pytest.mark.parametrize("service", LISTENING)
def test_defaults(service: Any) -> None:
    options = parse(service)
    assert options["listen"] == ["tcp:8765:interface=127.0.0.1"]
    assert options.tokens is None
    assert options.loopback_only
    assert options.server_options == DEFAULT_SERVER_OPTIONS


@pytest.mark.parametrize("service", LISTENING)
def test_every_option_reaches_the_server(service: Any, tokens: str) -> None:
    options = parse(
        service,
        *("--listen", "tcp:1:interface=127.0.0.1", "--listen", "unix:/tmp/s"),
        *("--token-file", tokens),
        *("--origin", "https://a.example", "--origin", "http://b.example:8080"),
        *("--host", "a.example", "--host", "[::1]"),
        *("--max-message-size", "4096"),
        *("--ping-interval", "1.5"),
        *("--ping-timeout", "2"),
    )
    assert options["listen"] == ["tcp:1:interface=127.0.0.1", "unix:/tmp/s"]
    assert options.tokens == {"web1": TOKEN, "web2": TOKEN + ".2"}
    made = options.server_options
    assert made.origins == ("https://a.example", "http://b.example:8080")
    assert made.hosts == ("a.example", "[::1]")
    assert (made.max_message_size, made.ping_interval, made.ping_timeout) == (4096, 1.5, 2.0)


def test_a_ping_interval_of_zero_sends_none() -> None:
    assert parse(echo, "--ping-interval", "0").server_options.ping_interval is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("max-message-size", value) for value in ("", "x", "0", "-1", "1.5", "1e6", "9" * 5000)],
        *[("ping-interval", value) for value in ("", "x", "-1", "nan", "inf", "1e999", "4e7")],
        *[("ping-timeout", value) for value in ("", "x", "0", "-1", "nan", "inf", "1e-999")],
        *[("origin", value) for value in ("", "example.org", "https://a/b", "https://a:x", "null")],
        *[("host", value) for value in ("", "a:80", "a b", "::1", "http://a")],
        *[("token-file", value) for value in ("", "/none", "/", "/dev/zero", "/etc/passwd")],
        *[("listen", value) for value in ("", "x", "nothing:1", "tcp", "tcp:", "tcp:x", "tcp:-1")],
        *[("listen", f"tcp:{end}") for end in ("65536:interface=127.0.0.1", "port=70000", "1:x=y")],
        *[("listen", f"ssl:0:{end}") for end in ("privateKey=/none", "privateKey=/etc/passwd")],
        *[
            ("listen", f"ssl:0:{end}")
            for end in ("privateKey=/", "certKey=/dev/null", "sslmethod=x")
        ],
        *[
            ("listen", f"systemd:{end}")
            for end in ("domain=INET:index=0", "domain=INET:name=x", "")
        ],
        *[("listen", value) for value in ("unix", "unix:/a:mode=x", "tcp6", "haproxy:tcp")],
    ],
)
@pytest.mark.parametrize("service", LISTENING)
def test_a_wrong_value_is_answered_with_the_name_of_its_option(
    service: Any, option: str, value: str
) -> None:
    text = complaint(service, f"--{option}", value)
    assert text.startswith(f"--{option}")
    assert len(text.removeprefix(f"--{option}").strip(": ")) > 5


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("max-message-size", "1MB", ": '1MB' is not a whole number of bytes, at least 1"),
        ("max-message-size", "0", ": '0' is not a whole number of bytes, at least 1"),
        *[
            (
                "listen",
                value,
                f" {value}: a description begins with the kind of endpoint, as in tcp:8765",
            )
            for value in ("8765", "127.0.0.1:8765", ":8765")
        ],
        *[
            (
                "listen",
                value,
                f" {value}: the port is to be a whole number from 0 to 65535, as in tcp:8765",
            )
            for value in ("tcp", "tcp:x", "tcp:-1", "ssl:99999", "tcp:interface=::1:port=99999")
        ],
        ("listen", "tcp:8765:interfce=1", " tcp:8765:interfce=1: tcp has no argument 'interfce'"),
        ("listen", "unix:/tmp/s:mod=600", " unix:/tmp/s:mod=600: unix has no argument 'mod'"),
    ],
)
def test_a_slip_is_answered_with_what_is_right(option: str, value: str, said: str) -> None:
    assert complaint(echo, f"--{option}", value) == f"--{option}{said}"


def test_the_port_of_a_description_may_stand_anywhere() -> None:
    for listen in ("tcp:interface=127.0.0.1:8765", "tcp:interface=127.0.0.1:port=8765"):
        assert parse(echo, "--listen", listen)["listen"] == [listen]


WORKERS = ["", "x", "0", "-1", "1.5", "257", "10000", "9" * 5000]


@pytest.mark.parametrize("value", WORKERS)
@pytest.mark.parametrize("service", LISTENING)
def test_a_wrong_number_of_workers_is_refused(service: Any, value: str) -> None:
    assert complaint(service, "--workers", value).endswith("is not a whole number from 1 to 256")


@pytest.mark.parametrize("service", [broadcast, monitor])
def test_connections_that_share_state_are_not_spread_over_workers(service: Any) -> None:
    assert parse(service, "--workers", "1").workers == 1
    text = complaint(service, "--workers", "2")
    assert text.startswith("--workers 2: ")
    assert "there is no backplane" in text


@pytest.mark.parametrize(
    "listen", ["haproxy:tcp:0:interface=127.0.0.1", "haproxy:unix:/tmp/socket"]
)
def test_several_workers_listen_on_what_they_can_share_only(listen: str) -> None:
    assert parse(echo, "--listen", listen)
    text = complaint(
        echo, "--listen", "tcp:0:interface=127.0.0.1", "--listen", listen, "--workers=2"
    )
    assert text.startswith(f"--listen {listen}: several workers can listen on tcp, tcp6 and ssl")
    assert text.endswith("and on unix and systemd, where they share one")
    assert parse(echo, "--listen", "unix:/tmp/tcp:mode=600", "--workers=2")


def test_a_service_that_does_not_hand_itself_to_workers_says_so() -> None:
    with pytest.raises(RuntimeError, match="in_workers"):
        echo.build(parse(echo, "--workers", "2"))


def test_workers_find_the_service_by_its_name() -> None:
    options = parse(echo, "--workers", "2")
    nameless: Any = lambda _: None  # noqa: E731
    with pytest.raises(TypeError, match="cannot be imported by that name"):
        in_workers(options, nameless)
    made = echo.Options()
    made["workers"] = 2
    made.postOptions()
    with pytest.raises(ValueError, match="parseOptions"):
        in_workers(made, echo.build)


def test_workers_leave_the_trace_to_be_opened_by_each(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    parse(echo, "--workers", "2", "--trace", str(path))
    assert list(tmp_path.iterdir()) == []
    assert "both" in complaint(echo, "--workers=2", "--trace=a", "--trace-on-signal=b")


@pytest.mark.parametrize("service", [*LISTENING, agent])
def test_what_is_no_option_is_refused(service: Any) -> None:
    assert "--bogus" in complaint(service, "--bogus")
    assert "arguments" in complaint(service, "surplus")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666])
def test_a_token_file_that_others_can_read_is_refused(tokens: str, mode: int) -> None:
    Path(tokens).chmod(mode)
    assert f"mode {mode:o}" in complaint(echo, "--token-file", tokens)


def test_a_malformed_token_file_is_refused_without_its_tokens(tokens: str) -> None:
    Path(tokens).write_text(f"web1 {TOKEN}\n")
    assert "line 1" in complaint(echo, "--token-file", tokens)


@pytest.mark.parametrize("service", [*LISTENING, agent])
def test_the_help_names_every_option_of_the_service(service: Any) -> None:
    text = service.Options().getUsage()
    for name in service.Options().longOpt:
        assert f"--{name.rstrip('=')}" in text


# ---------------------------------------------------------------- where it may listen

LOCAL = [
    "tcp:0:interface=127.0.0.1",
    "tcp:0:interface=127.8.8.8",
    "tcp:0:interface=localhost",
    "tcp:port=0:interface=127.0.0.1",
    "tcp:0:backlog=5:interface=127.0.0.1",
    r"tcp6:0:interface=\:\:1",
    r"tcp:0:interface=\:\:1",
    "unix:/tmp/socket",
    "unix:address=/tmp/socket",
]
PUBLIC = [
    "tcp:0",
    "tcp:8765",
    "tcp:0:interface=",
    "tcp:0:interface=0.0.0.0",
    "tcp:0:interface=192.0.2.1",
    "tcp:0:interface=example.org",
    "tcp:0:interface=localhost.example.org",
    "tcp:0:backlog=127",
    "tcp6:0",
    r"tcp6:0:interface=\:\:",
    r"tcp6:0:interface=\:\:ffff\:192.0.2.1",
    r"tcp6:0:interface=2001\:db8\:\:1",
]


@pytest.mark.parametrize("listen", LOCAL)
def test_loopback_and_unix_sockets_need_no_tokens(listen: str) -> None:
    assert parse(echo, "--listen", listen)["listen"] == [listen]


@pytest.mark.parametrize("listen", PUBLIC)
def test_listening_beyond_this_machine_needs_tokens_or_the_users_word(
    listen: str, tokens: str
) -> None:
    text = complaint(echo, "--listen", listen)
    assert text.startswith(f"--listen {listen}: {BEYOND}")
    assert "--allow-anonymous" in text
    assert parse(echo, "--listen", listen, "--allow-anonymous")["listen"] == [listen]
    assert parse(echo, "--listen", listen, "--token-file", tokens)["listen"] == [listen]


def test_one_public_endpoint_among_local_ones_is_enough() -> None:
    arguments = [part for listen in (*LOCAL, "tcp:0") for part in ("--listen", listen)]
    assert complaint(echo, *arguments).startswith("--listen tcp:0: ")


def test_tls_needs_tokens_like_all_else(tmp_path: Path) -> None:
    """Encryption says nothing about who connects."""
    pem = tmp_path / "both.pem"
    certificate(pem)
    listen = f"ssl:0:privateKey={pem}"
    assert BEYOND in complaint(echo, "--listen", listen)
    assert parse(echo, "--listen", f"{listen}:interface=127.0.0.1")
    assert parse(echo, "--listen", listen, "--allow-anonymous")


def certificate(path: Path) -> None:
    """Write a key and a certificate that nobody issued."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))


# ---------------------------------------------------------------- and where it does listen

HIDDEN = [
    # Twisted takes the last of two.
    "tcp:0:interface=127.0.0.1:interface=0.0.0.0",
    "haproxy:tcp:0",
]


@pytest.mark.parametrize("listen", HIDDEN)
@pytest_twisted.ensureDeferred
async def test_what_a_description_hides_is_found_when_it_listens(
    listen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and nobody can connect to what was opened for a moment."""
    service = echo.makeService(parse(echo, "--listen", listen))
    assert isinstance(service, ListeningService)
    listened: list[Any] = []
    started = ListeningService.started

    def note(self: Any, server: Any) -> None:
        listened.extend(server.addresses)
        started(self, server)

    monkeypatch.setattr(ListeningService, "started", note)
    with pytest.raises(RuntimeError, match="reachable from elsewhere"):
        service.startService()
    assert service.server is None
    (address,) = listened
    await turns(2)
    with pytest.raises(Exception, match="refused"):
        await connect_raw(address.port)
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_an_inherited_socket_is_judged_by_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As systemd passes them; their description does not say where they listen."""
    from twisted.internet import endpoints
    from twisted.python.systemd import ListenFDs

    parser = next(
        plugin
        for plugin in endpoints.getPlugins(endpoints.IStreamServerEndpointStringParser)
        if plugin.prefix == "systemd"
    )
    for host, allowed in (("127.0.0.1", True), ("0.0.0.0", False)):
        inherited = socket.socket()
        inherited.bind((host, 0))
        inherited.listen()
        port = inherited.getsockname()[1]
        # Whoever adopts it closes it.
        monkeypatch.setattr(parser, "_sddaemon", ListenFDs([inherited.detach()]))
        service = echo.makeService(parse(echo, "--listen", "systemd:domain=INET:index=0"))
        if allowed:
            service.startService()
            raw = await open_raw(port)
            await raw.drop()
        else:
            with pytest.raises(RuntimeError, match="reachable from elsewhere"):
                service.startService()
        await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_it_listens_on_ipv6_loopback() -> None:
    if not has_ipv6():
        missing("IPv6 on loopback")
    service = echo.makeService(parse(echo, "--listen", r"tcp6:0:interface=\:\:1"))
    service.startService()
    assert service.server.addresses[0].host == "::1"  # type: ignore[attr-defined]
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_stopping_leaves_the_signals_as_they_were() -> None:
    """While it drains a second one is immediate; a service in another's process gives them back."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    service = echo.makeService(parse(echo, "--listen", "tcp:0:interface=127.0.0.1"))
    service.startService()
    port = service.server.addresses[0].port  # type: ignore[attr-defined]
    raw = await open_raw(port)
    await turns(2)
    stopping = service.stopService()
    assert signal.getsignal(signal.SIGTERM) != before[0]
    os.kill(os.getpid(), signal.SIGTERM)
    await within(stopping)
    await within(raw.ended())
    # The one that came is at its default now: a third would be final.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before[1]
    signal.signal(signal.SIGTERM, before[0])
    await within(service.stopService())


def test_signals_that_somebody_changed_meanwhile_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    restore = cut_on_next_signal(lambda: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    restore()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == before[1]
    signal.signal(signal.SIGTERM, before[0])


# ---------------------------------------------------------------- the monitor


def test_the_monitors_client_timeout() -> None:
    assert parse(monitor).client_timeout == 30
    assert parse(monitor, "--client-timeout", "0.5").client_timeout == 0.5


@pytest.mark.parametrize("value", ["", "x", "0", "-1", "nan", "inf", "86401"])
def test_a_wrong_client_timeout_is_refused(value: str) -> None:
    assert complaint(monitor, "--client-timeout", value).startswith("--client-timeout")


# ---------------------------------------------------------------- the agent

SERVER = ("--server", "ws://127.0.0.1:8765")


@pytest.fixture(autouse=True)
def _no_proxies_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_the_agents_defaults() -> None:
    options = parse(agent, *SERVER)
    assert str(options.uri) == "ws://127.0.0.1:8765/agent"
    assert options.interval == 2
    assert options.token is None
    assert options.sampler.sample().name == os.uname().nodename
    assert options.client_options == DEFAULT_CLIENT_OPTIONS
    assert options.proxies.choose(options.uri).direct


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({"all_proxy": "socks5h://gw"}, "socks5h://gw:1080"),
        ({"HTTP_PROXY": "http://gw:3128", "all_proxy": "http://other"}, "http://gw:3128"),
        ({"HTTP_PROXY": "http://gw:3128", "NO_PROXY": "127.0.0.0/8"}, None),
        ({"HTTP_PROXY": "http://gw:3128", "no_proxy": "*"}, None),
        ({"https_proxy": "http://gw:3128"}, None),
    ],
)
def test_the_agent_takes_its_proxy_from_the_environment_by_default(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = parse(agent, *SERVER)
    (way,) = options.proxies.choose(options.uri).ways
    assert [str(each) for each in way] == ([] if proxy is None else [proxy])
    options = parse(agent, *SERVER, "--proxy", "http://said:1")
    (way,) = options.proxies.choose(options.uri).ways
    assert [str(each) for each in way] == ["http://said:1"]


def test_a_malformed_proxy_of_the_environment_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:{TOKEN}@h:99999")
    assert "environment variable http_proxy" in complaint(agent, *SERVER)
    assert parse(agent, *SERVER, "--proxy", "http://said:1").proxies


def test_every_option_reaches_the_agent(tokens: str, tmp_path: Path) -> None:
    auth = tmp_path / "proxy"
    auth.write_text("puser:p:w\n")
    auth.chmod(0o600)
    options = parse(
        agent,
        *("--server", "wss://monitor.example/elsewhere?x=1"),
        *("--token-file", tokens),
        *("--name", "web2"),
        *("--interval", "0.5"),
        *("--proxy", "http://proxy.example:3128"),
        *("--proxy-auth-file", str(auth)),
        *("--ping-interval", "0"),
        *("--ping-timeout", "3"),
    )
    assert options.uri.target == "/elsewhere?x=1"
    assert options.token == TOKEN + ".2"
    assert options.sampler.sample().name == "web2"
    assert options.interval == 0.5
    ((proxy,),) = options.proxies.choose(options.uri).ways
    assert (str(proxy), proxy.user, proxy.password) == (
        "http://proxy.example:3128",
        "puser",
        "p:w",
    )
    made = options.client_options
    assert (made.ping_interval, made.ping_timeout) == (None, 3.0)


def test_the_only_token_of_a_file_is_sent_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text(f"all:{TOKEN}")
    path.chmod(0o600)
    assert parse(agent, *SERVER, "--name", "x", "--token-file", str(path)).token == TOKEN


def test_of_several_tokens_the_one_for_the_name_is_needed(tokens: str) -> None:
    text = complaint(agent, *SERVER, "--name", "web3", "--token-file", tokens)
    assert text.startswith("--token-file")
    assert "web3" in text


def test_the_agent_needs_a_server() -> None:
    assert complaint(agent) == "--server is required"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[
            ("server", value)
            for value in ("", "host", "http://h/", "ws://", "ws://h:x", "ws://h/#")
        ],
        ("server", f"ws://user:{TOKEN}@h:99999/"),
        *[("interval", value) for value in ("", "x", "0", "-1", "nan", "inf", "86401")],
        *[("name", value) for value in ("", "a b", "a/b", "ä", "x" * 65)],
        *[("proxy", value) for value in ("", "h:1", "socks://h:1", "http://h:x", "http://h/p")],
        ("proxy", f"http://user:{TOKEN}@h:99999"),
        ("proxy", f"http://user:{TOKEN}/@h:1"),
        *[("ping-interval", value) for value in ("x", "-1", "nan")],
        *[("ping-timeout", value) for value in ("x", "0", "nan")],
        *[("token-file", value) for value in ("", "/none", "/", "/etc/passwd")],
        ("proxy-auth-file", "/none"),
    ],
)
def test_a_wrong_value_of_the_agents_is_answered_with_the_name_of_its_option(
    option: str, value: str
) -> None:
    assert complaint(agent, *SERVER, f"--{option}", value).startswith(f"--{option}: ")


def test_proxy_credentials_from_a_file_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    proxy = (*SERVER, "--proxy", "http://h:1", "--proxy-auth-file", str(path))
    for content, mode, text in (
        ("user:pass", 0o644, "mode 644"),
        (TOKEN, 0o600, "user:password"),
        ("a:b\nc:d\n", 0o600, "user:password"),
    ):
        path.write_text(content)
        path.chmod(mode)
        assert text in complaint(agent, *proxy)


@pytest.mark.parametrize("option", ["ca", "certificate"])
def test_the_agent_reads_its_certificates_when_it_starts(option: str, tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    certificate(pem)
    secure = ("--server", "wss://127.0.0.1:8765")
    options = parse(agent, *secure, f"--{option}", str(pem))
    assert getattr(options.tls, option) == str(pem)
    assert f"--{option}" in complaint(agent, *SERVER, f"--{option}", str(pem))
    for wrong in (tmp_path / "missing.pem", tmp_path):
        assert complaint(agent, *secure, f"--{option}", str(wrong)).startswith(f"--{option}: ")


def test_the_agent_trusts_an_authority_for_its_proxy(tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    certificate(pem)
    options = parse(agent, *SERVER, "--proxy-ca", str(pem))
    assert options.proxy_tls.ca == str(pem)
    assert complaint(agent, *SERVER, "--proxy-ca", "/nowhere").startswith("--proxy-ca: ")

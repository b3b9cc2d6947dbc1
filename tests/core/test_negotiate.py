"""Several legs: which 407 asks for the next one, when all starts again, and when it is over."""

import base64
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http_connect import MAX_SKIPPED_BODY, HTTPConnect
from wsframe.core.negotiate import MAX_LEGS, ContextFailed, Leg, Negotiation
from wsframe.core.proxy import Proxy
from wsframe.core.proxy_auth import BadChallenge, Challenge, parse_challenges
from wsframe.core.tunnel import Step
from wsframe.errors import (
    BadProxyAnswer,
    InvalidProxy,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyCredentialsFailed,
    ProxyError,
)

SEARCHED = settings(max_examples=200, deadline=None, database=None)
NTLM = Proxy("proxy.example", 3128, "us3r", "s3cret", auth="ntlm")
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"


class Context:
    """A security context of so many legs, which notes what it is told."""

    def __init__(self, legs=2, error=None):
        self.legs = legs
        self.error = error
        self.told = []

    @property
    def complete(self):
        return len(self.told) >= self.legs

    def step(self, token):
        self.told.append(token)
        if self.error is not None and len(self.told) == self.legs:
            raise self.error
        return b"leg %d" % len(self.told)


class Contexts:
    """Makes contexts, and keeps them."""

    def __init__(self, legs=2, error=None):
        self.made = []
        self._arguments = legs, error

    def __call__(self):
        self.made.append(Context(*self._arguments))
        return self.made[-1]


def encoded(data):
    return base64.b64encode(data).decode()


def challenge(token=b""):
    return parse_challenges([f"NTLM {encoded(token)}".rstrip()])


def legs_of(negotiation, *answers):
    """Return what is said to these answers, which are pairs of a token and `kept`; or None."""
    said = []
    for token, kept in answers:
        leg = negotiation.answer(challenge(token), kept=kept)
        said.append(None if leg is None else negotiation.say(leg.run()))
    return said


# --- the rules ------------------------------------------------------------------------------------


def test_legs_go_on_with_the_proxys_tokens():
    """On the same connection, in one context."""
    contexts = Contexts()
    negotiation = Negotiation("ntlm", contexts)
    assert not negotiation.sent
    said = legs_of(negotiation, (b"", True), (b"t1", True))
    assert said == [f"NTLM {encoded(b'leg 1')}", f"NTLM {encoded(b'leg 2')}"]
    assert [context.told for context in contexts.made] == [[None, b"t1"]]
    assert negotiation.sent


def test_scheme_is_written_as_it_is_known():
    """Some proxies compare it by its letters."""
    negotiation = Negotiation("negotiate", Contexts())
    leg = negotiation.answer((Challenge("negotiate"),), kept=True)
    assert negotiation.say(leg.run()).startswith("Negotiate ")


@pytest.mark.parametrize(
    "values",
    [[], ["Basic realm=x"], ["Digest realm=x, nonce=n"], ["Bearer"], ["Negotiate"], ["NTLMv2"]],
)
def test_other_scheme_is_not_answered(values):
    """A proxy cannot talk us down to a weaker one; nor does a ticket go out for NTLM."""
    contexts = Contexts()
    assert Negotiation("ntlm", contexts).answer(parse_challenges(values), kept=True) is None
    assert contexts.made == []


def test_scheme_is_found_among_others():
    """In any case, in any place."""
    offered = parse_challenges(['Basic realm="a, b", nTlM', "Negotiate"])
    assert Negotiation("ntlm", Contexts()).answer(offered, kept=True) is not None


def test_token_before_the_first_leg_is_not_given_to_the_context():
    """It would be a hint, which nobody needs."""
    contexts = Contexts()
    legs_of(Negotiation("ntlm", contexts), (b"hint", True))
    assert contexts.made[0].told == [None]


def test_question_without_a_token_is_a_refusal_once_something_was_said():
    """After the first leg as after the last."""
    for answers in ([(b"", True), (b"", True)], [(b"", True), (b"t", True), (b"", True)]):
        assert legs_of(Negotiation("ntlm", Contexts()), *answers)[-1] is None


def test_context_that_is_complete_says_nothing_more():
    """Whatever the proxy asks."""
    answers = [(b"", True), (b"t", True), (b"t", True)]
    assert legs_of(Negotiation("ntlm", Contexts()), *answers)[-1] is None


def test_connection_that_ends_in_between_starts_all_again():
    """Said in the answer, or just done."""
    contexts = Contexts()
    negotiation = Negotiation("ntlm", contexts)
    legs_of(negotiation, (b"", True), (b"t1", False))
    negotiation.say(negotiation.again().run())
    legs_of(negotiation, (b"t2", True))
    assert [context.told for context in contexts.made] == [[None], [None], [None, b"t2"]]


def test_nothing_starts_again_after_the_second_leg():
    """It proves a password, which would be wrong once more."""
    for legs in (2, 3):
        negotiation = Negotiation("ntlm", Contexts(legs))
        legs_of(negotiation, (b"", True), (b"t", True))
        assert negotiation.again() is None
        assert legs_of(negotiation, (b"t", False)) == [None]


def test_single_leg_starts_again():
    """A ticket proves no password; the connection may have been closed before it arrived."""
    negotiation = Negotiation("ntlm", Contexts(1))
    legs_of(negotiation, (b"", True))
    assert negotiation.again() is not None


def test_nothing_starts_again_that_did_not_start():
    """Then the end of the connection is only that."""
    assert Negotiation("ntlm", Contexts()).again() is None


@pytest.mark.parametrize("kept", [True, False])
def test_legs_are_counted(kept):
    """Over all contexts; a proxy that asks for ever is given up."""
    negotiation = Negotiation("ntlm", Contexts(1000))
    said = legs_of(negotiation, *[(b"t", kept)] * (MAX_LEGS + 2))
    assert said.count(None) == 2
    assert said[-2:] == [None, None]
    assert negotiation.again() is None


@pytest.mark.parametrize("token", ["=", "a", "abc", "-_-_", "ab.c", "a~bc", "abc=="])
def test_token_that_is_not_base64_is_a_bad_challenge(token):
    """The alphabet for URLs is another one; the text quotes none of it."""
    negotiation = Negotiation("ntlm", Contexts())
    legs_of(negotiation, (b"", True))
    with pytest.raises(BadChallenge) as caught:
        negotiation.answer((Challenge("ntlm", token68=token),), kept=True)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ContextFailed("why"), "why"),
        (ValueError("s3cret"), "ValueError"),
        (type("Ticket", (Exception,), {})("us3r"), "Ticket"),
    ],
)
def test_step_that_fails_says_why_and_no_more(error, text):
    """Other exceptions than the one for it may have anything in their text."""
    outcome = Leg(Context(1, error)).run()
    assert isinstance(outcome, ContextFailed)
    assert str(outcome) == text
    assert (outcome.__context__, outcome.__cause__) == (None, None)


@pytest.mark.parametrize("nothing", [None, b""])
def test_step_that_returns_nothing_is_a_failure(nothing):
    """The proxy asks for more, and there is none."""
    context = Context()
    context.step = lambda token: nothing
    assert str(Leg(context).run()) == "there is nothing left to say"


def test_leg_shows_no_token():
    """Nor does the step that has it."""
    assert "s3cret" not in repr(Leg(None, b"s3cret"))


# --- in the handshake -----------------------------------------------------------------------------


def connect(contexts, proxy=NTLM, **options):
    return HTTPConnect(
        proxy, "example.org", 443, max_head=900, max_body=20, new_context=contexts, **options
    )


def asked(token=b"", *lines, body=b"", scheme="NTLM"):
    """Return a 407."""
    head = [
        "HTTP/1.1 407 Who",
        f"Proxy-Authenticate: {scheme} {encoded(token)}".rstrip(),
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def after(step):
    """Return the step that follows from the work of one."""
    assert step.work is not None
    assert (step.send, step.leftover, step.reconnect) == (b"", None, False)
    return step.work()()


def value_of(request):
    """Return the value of Proxy-Authorization, None where there is none."""
    lines = request.decode().split("\r\n")
    return next((line[21:] for line in lines if line.startswith("Proxy-Authorization: ")), None)


def test_tunnel_opens_after_two_legs():
    """The first request says nothing; each leg is a whole CONNECT."""
    handshake = connect(Contexts())
    assert value_of(handshake.request) is None
    for answer, leg in ((asked(body=b"page"), b"leg 1"), (asked(b"t"), b"leg 2")):
        step = after(handshake.receive(answer))
        assert value_of(step.send) == f"NTLM {encoded(leg)}"
        assert step.send.startswith(b"CONNECT example.org:443 HTTP/1.1\r\nHost: ")
        assert not step.reconnect
    step = handshake.receive(OPEN + b"\x16")
    assert step == Step(leftover=b"\x16")
    assert step.detail == "HTTP 200, NTLM"


def test_nothing_is_worked_out_by_the_handshake_itself():
    """Its caller chooses the thread; what is given up is never begun."""
    contexts = Contexts()
    connect(contexts).receive(asked())
    assert contexts.made[0].told == []


def test_nothing_is_sent_unasked():
    """Neither Basic nor a token, whatever the option says."""
    assert value_of(connect(Contexts(), unasked=True).request) is None


def test_proxy_that_opens_at_once_gets_nothing():
    """No credentials where none are asked for."""
    contexts = Contexts()
    assert connect(contexts).receive(OPEN) == Step(leftover=b"")
    assert contexts.made == []


@pytest.mark.parametrize("line", ["Connection: close", "Proxy-Connection: Close"])
def test_first_leg_goes_out_on_a_new_connection_where_the_proxy_closes(line):
    """As the first request there."""
    handshake = connect(Contexts())
    step = after(handshake.receive(asked(b"", line)))
    assert (step.send, step.reconnect) == (b"", True)
    assert value_of(handshake.request) == f"NTLM {encoded(b'leg 1')}"
    assert value_of(after(handshake.receive(asked(b"t"))).send) == f"NTLM {encoded(b'leg 2')}"
    assert handshake.receive(OPEN).leftover == b""


def test_connection_that_ends_after_the_first_leg_starts_again():
    """With a new context, on a new connection."""
    contexts = Contexts()
    handshake = connect(contexts)
    after(handshake.receive(asked()))
    assert after(handshake.receive(b"")).reconnect
    assert value_of(handshake.request) == f"NTLM {encoded(b'leg 1')}"
    assert len(contexts.made) == 2


def test_connection_that_ends_after_the_second_leg_is_bad():
    """The password is not sent once more."""
    handshake = connect(Contexts())
    after(handshake.receive(asked()))
    after(handshake.receive(asked(b"t")))
    with pytest.raises(BadProxyAnswer):
        handshake.receive(b"")


@pytest.mark.parametrize("legs", [0, 1, 2])
def test_refusal_is_told_from_a_question(legs):
    """By what was sent."""
    handshake = connect(Contexts())
    answers = [asked(), asked(b"t")]
    for answer in answers[:legs]:
        after(handshake.receive(answer))
    kind = ProxyAuthRefused if legs else ProxyAuthRequired
    with pytest.raises(kind) as caught:
        handshake.receive(asked(scheme="Basic", body=b"x" * 30))
    assert (caught.value.status, caught.value.body) == (407, b"x" * 20)


def test_status_401_is_a_refusal_once_something_was_sent():
    """As with the other schemes, and is not answered."""
    handshake = connect(Contexts())
    after(handshake.receive(asked()))
    with pytest.raises(ProxyAuthRefused):
        handshake.receive(asked(b"t").replace(b"407", b"401"))


def test_larger_body_is_read_past():
    """Up to a limit; beyond it there is a new connection, as the rest is not waited for."""
    handshake = connect(Contexts())
    assert not after(handshake.receive(asked(body=b"x" * (MAX_SKIPPED_BODY - 1)))).reconnect
    handshake = connect(Contexts())
    assert after(handshake.receive(asked(body=b"x" * MAX_SKIPPED_BODY + b"yz"))).reconnect


def test_context_that_cannot_begin_is_no_fault_of_the_proxys():
    """There is no ticket, or no KDC; the proxy was given nothing."""
    handshake = connect(Contexts(1, ContextFailed("NoTicket")))
    with pytest.raises(ProxyCredentialsFailed, match=r"\(ntlm\) cannot begin: NoTicket$") as caught:
        after(handshake.receive(asked()))
    assert caught.value.proxy == "http://proxy.example:3128"
    assert caught.value.phase == "proxy"


def test_context_that_cannot_go_on_is_a_bad_answer():
    """It was the proxy's token that it was given."""
    handshake = connect(Contexts(2, ContextFailed("BadToken")))
    after(handshake.receive(asked()))
    with pytest.raises(BadProxyAnswer, match="its token for ntlm cannot be used: BadToken"):
        after(handshake.receive(asked(b"t")))


@pytest.mark.parametrize("value", ["NTLM ***", "NTLM abc", "NTLM " + "A" * 1200, 'NTLM "'])
def test_malformed_token_is_a_bad_answer(value):
    """Not in Base64, or larger than a head may be."""
    handshake = connect(Contexts())
    after(handshake.receive(asked()))
    with pytest.raises(BadProxyAnswer):
        handshake.receive(asked(b"t").replace(b"NTLM dA==", value.encode()))


def test_handshake_needs_a_context_where_the_proxy_is_marked():
    """Said when it is made."""
    with pytest.raises(InvalidProxy):
        HTTPConnect(NTLM, "example.org", 443, max_head=900, max_body=20)


ANSWERS = st.one_of(
    st.binary(max_size=40),
    st.builds(
        asked,
        st.binary(max_size=20),
        st.sampled_from(["X: y", "Connection: close", "Proxy-Connection: close"]),
        body=st.binary(max_size=30),
        scheme=st.sampled_from(["NTLM", "Negotiate", "Basic realm=x, NTLM"]),
    ),
    st.just(b""),
)


@SEARCHED
@given(st.lists(ANSWERS, max_size=30), st.integers(1, 4), st.booleans())
def test_any_answers_end_in_a_typed_error_or_wait(answers, legs, fails):
    """After a bounded number of legs; and no text has the credentials or what a context raised."""
    error = ValueError("us3r s3cret") if fails else None
    contexts = Contexts(legs, error)
    handshake = connect(contexts)
    caught = None
    try:
        for answer in answers:
            step = handshake.receive(answer)
            if step.work is not None:
                step = step.work()()
    except ProxyError as error:
        caught = error
    shown = "".join(traceback.format_exception(caught))
    assert "us3r" not in shown
    assert sum(len(context.told) for context in contexts.made) <= MAX_LEGS + 1

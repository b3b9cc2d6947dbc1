"""ws-agent comes back, whatever the monitor says."""

import pytest

from wsframe.core.retry import judge
from wsframe.errors import ConnectionClosed, HandshakeRefused, NameLookupFailed
from wsframe.services.agent import PATIENCE, RETRIES


@pytest.mark.parametrize(
    ("failure", "after"),
    [
        (HandshakeRefused(401, "No", (), b""), PATIENCE),
        (ConnectionClosed.of(1008, "", by="remote", clean=True), PATIENCE),
        (ConnectionClosed.of(1012, "", by="remote", clean=True), 0.0),
        (NameLookupFailed("no address"), 0.0),
    ],
)
def test_it_never_gives_up_and_is_patient_with_what_will_not_pass_by_itself(
    failure: Exception, after: float
) -> None:
    verdict = judge(RETRIES, failure, 0.0)
    assert (verdict.gives_up, verdict.after) == (False, after)

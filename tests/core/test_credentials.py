"""The credentials that a callable returns: what they may be, and that they are not shown."""

import pytest

from wsframe.core.credentials import ProxyCredentials


def test_fields_are_none_where_they_are_not_given():
    """The token is given by name."""
    both = ProxyCredentials("u", "p")
    assert (both.user, both.password, both.token) == ("u", "p", None)
    assert ProxyCredentials(token="t") == ProxyCredentials(None, None, token="t")
    assert ProxyCredentials("u") != ProxyCredentials("v")


@pytest.mark.parametrize("fields", [{"user": b"s3cret"}, {"password": 1}, {"token": ["s3cret"]}])
def test_field_of_another_type_is_a_type_error(fields):
    """Which names the field and the type, and not the value."""
    with pytest.raises(TypeError) as caught:
        ProxyCredentials(**fields)
    assert str(caught.value).startswith(f"{next(iter(fields))} is a text or None, not ")
    assert "s3cret" not in str(caught.value)


def test_nothing_is_shown():
    """Not even which of them there are."""
    shown = f"{ProxyCredentials('us3r', 's3cret')} {ProxyCredentials(token='s3cret')!r}"
    assert shown == "<ProxyCredentials> <ProxyCredentials>"

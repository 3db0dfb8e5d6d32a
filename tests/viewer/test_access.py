"""Where the viewer may listen, and what it then asks of a request."""

from __future__ import annotations

import pytest

from mendscan.errors import SettingsError
from mendscan.viewer.access import Access, is_loopback, new_token, open_to

TOKEN = "a-token-of-some-length"


def status(access: Access, **headers: str) -> int:
    refusal = access.refusal("GET", "/api/results", "", {"host": "127.0.0.1:8765", **headers})
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_this_machines_own_address_needs_no_token(host) -> None:
    assert is_loopback(host)
    assert open_to(host, 8765, None).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "machine.example", "", "127.0.0.1.example"])
def test_any_other_address_has_a_token(host) -> None:
    assert not is_loopback(host)
    access = open_to(host, 8765, None)
    assert access.token is not None
    assert len(access.token) >= 32
    assert open_to(host, 8765, TOKEN).token == TOKEN


def test_tokens_are_made_on_request_and_differ() -> None:
    assert open_to("127.0.0.1", 1, "auto").token != open_to("127.0.0.1", 1, "auto").token
    assert new_token() != new_token()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "short",
        "x" * 129,
        "a token with some spaces",
        'quote"quote"quote',
        "ünïcödé-ünïcödé-",
        "a;b;c;d;e;f;g;h;i",
        "x" * 16 + "\n",
    ],
)
def test_a_token_that_cannot_be_used_is_refused(token) -> None:
    with pytest.raises(SettingsError, match="the token cannot be used"):
        open_to("127.0.0.1", 8765, token)


@pytest.mark.parametrize(
    ("listens", "host", "expected"),
    [
        ("0.0.0.0", "192.168.1.5:8765", 200),
        ("0.0.0.0", "[fe80::1]:8765", 200),
        ("0.0.0.0", "localhost:8765", 200),
        ("0.0.0.0", "machine.example:8765", 403),
        ("0.0.0.0", "192.168.1.5:80", 403),
        ("0.0.0.0", "192.168.1.5", 403),
        ("machine.example", "machine.example:8765", 200),
        ("machine.example", "other.example:8765", 403),
        ("192.168.1.5", "192.168.1.5:8765", 200),
        ("192.168.1.5", "192.168.1.6:8765", 403),
        ("fe80::1", "[fe80::1]:8765", 200),
        ("127.0.0.2", "127.0.0.2:8765", 200),
        ("127.0.0.2", "localhost:8765", 200),
        ("127.0.0.2", "127.0.0.3:8765", 403),
    ],
)
def test_a_server_for_others_answers_to_its_address_only(listens, host, expected) -> None:
    access = open_to(listens, 8765, TOKEN)
    assert status(access, host=host, authorization=f"Bearer {TOKEN}") == expected
    assert status(access, host=host) == (403 if expected == 403 else 401)


def test_port_80_may_be_left_out() -> None:
    assert status(Access(80), host="127.0.0.1") == 200
    assert status(Access(8765), host="127.0.0.1") == 403


def test_a_token_is_compared_whatever_it_is_made_of() -> None:
    access = Access(8765, token=TOKEN)
    for cookie in (
        f"mendscan_8765={TOKEN}x",
        "mendscan_8765=",
        "mendscan_8765",
        "=",
        ";;;",
        "mendscan_8765=\xff\udc80",
    ):
        assert status(access, cookie=cookie) == 401
    assert not access.introduces("/", f"token={TOKEN}&token={TOKEN}")
    assert not access.introduces("/api/results", f"token={TOKEN}")
    assert access.introduces("/", f"token={TOKEN}")

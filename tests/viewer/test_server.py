"""The viewer answers its own page, and nobody else: paths, hosts, origins, methods, bodies, tokens."""

from __future__ import annotations

import gzip
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mendscan.viewer import patience
from viewer.asking import asking, send
from viewer_results import CANARY, build_results, viewer_over

TRAVERSALS = [
    "/../../etc/passwd",
    "/%2e%2e%2f%2e%2e%2fetc/passwd",
    "/..%5c..%5cetc%5cpasswd",
    "//etc/passwd",
    "/etc/passwd",
    "/static/../../../../../etc/passwd",
    "/static/%2e%2e/server.py",
    "/static/..%2fserver.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/vendor/../../server.py",
    "/static/index.html%00.js",
    "/static/",
    "/static",
    "/static/vendor/VENDORED.md",
    "/api/cases/../../scores.csv",
    "/api/cases/0/..%2f..%2fscores.csv",
    "/api/cases/%2fetc%2fpasswd/scan",
    "/api/cases/0/scan/../../../scores.csv",
    "/api/cases/0/figures",
    "/scores.csv",
    "/results.json",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/api",
    "/api/",
    "/api/cases",
    "/api/cases/",
    "/favicon.ico",
    "/api/cases/0/scan%00",
    "/api/cases/0\\scan",
    "/%ff%fe",
    "/api/results/",
    "/static/js",
    "/./",
    "/.git/config",
]
NUMBERS = [
    "-1",
    "5",
    "999999",
    "1e99",
    "NaN",
    "q",
    "0.5",
    "0x0",
    " 0",
    "%30%20",
    "1" * 5000,
    "٣",
    "true",
    "<b>x</b>",
    "",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_what_is_served(ask, path) -> None:
    answer = ask(path)
    assert answer.status in (400, 404, 422), answer.body
    assert b"root:" not in answer.body
    assert b"anomalous" not in answer.body
    assert b"create_app" not in answer.body


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_that_is_none_is_told_without_repeating_it(ask, number) -> None:
    for path in (f"/api/cases/{number.replace(' ', '%20')}", f"/api/cases/{number.replace(' ', '%20')}/scan"):
        answer = ask(path.encode().decode("latin-1"))
        assert answer.status in (400, 404, 422)
        if answer.headers["content-type"] == "application/json":
            assert answer.json["error"] in ("there is nothing at this address", "the address is not understood")


@pytest.mark.parametrize(
    "query", ["a=1", "slice=-1", "slice=NaN", "token=", "token=x", "?", "%00", "a=%0d%0aset-cookie:x"]
)
def test_a_query_is_refused(ask, query) -> None:
    for path in ("/", "/api/results", "/api/cases/0/scan"):
        answer = ask(f"{path}?{query}")
        assert (answer.status, answer.headers.get("set-cookie")) == (400, None)
        assert query.encode() not in answer.body


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1:{port}.evil.example",
        "127.0.0.1:{port}:1",
        "localhost.evil.example:{port}",
        "127.0.0.1@evil.example:{port}",
        "127.0.0.2:{port}",
        "0.0.0.0:{port}",
        "[::]:{port}",
        "user@127.0.0.1:{port}",
        "127.0.0.1:{port}/",
        "127.0.0.1 :{port}",
        ":{port}",
        "x" * 4000,
        "[::1:{port}",
        "127.1:{port}",
    ],
)
def test_another_host_is_refused(ask, port, host) -> None:
    answer = ask("/api/results", host=host.format(port=port))
    assert answer.status in (400, 403)
    assert b"anomalous" not in answer.body


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_its_own_names_are_answered(ask, port, host) -> None:
    assert ask("/api/results", host=host.format(port=port)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:{port}"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost:{port}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"},
        {"sec_fetch_site": "odd"},
    ],
)
def test_another_origin_is_refused_and_no_answer_can_be_shared(ask, port, headers) -> None:
    answer = ask("/api/results", **{name: value.format(port=port) for name, value in headers.items()})
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_its_own_origin_and_a_link_of_another_local_page_are_answered(ask, port) -> None:
    own = {"origin": f"http://127.0.0.1:{port}", "sec_fetch_site": "same-origin"}
    assert ask("/api/results", **own).status == 200
    link = {"sec_fetch_site": "same-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask("/", **link).status == 200
    assert ask("/api/results", **link).status == 403
    assert ask("/", **(link | {"sec_fetch_dest": "iframe"})).status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"])
def test_only_get_and_head_are_answered(ask, method) -> None:
    for path in ("/", "/api/results", "/api/cases/0/scan", "/nothing"):
        assert ask(path, method=method).status == 405
    assert ask("/", method=method).headers["allow"] == "GET, HEAD"


def test_head_says_what_get_would(ask) -> None:
    for path in ("/", "/static/js/main.js", "/api/results", "/api/cases/0", "/api/cases/0/map"):
        got, asked = ask(path), ask(path, method="HEAD")
        assert (asked.status, asked.body) == (200, b"")
        assert asked.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


def test_a_body_is_refused(ask) -> None:
    assert ask("/", body=b"x" * 5, content_length="5").status == 413
    assert ask("/", content_length="99999999999").status == 413
    assert ask("/", transfer_encoding="chunked").status == 413
    assert ask("/", body=gzip.compress(b"0" * 10**6), content_length="1000", content_encoding="gzip").status == 413
    assert ask("/", content_length="-1").status == 400
    assert ask("/", content_length="0").status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\r\nX: y HTTP/1.1\r\n\r\n",
        b"A" * 40_000,
    ],
)
def test_what_is_no_request_is_refused(port, request_bytes) -> None:
    assert send(port, request_bytes).status in (400, 403)


def test_a_header_of_another_answer_cannot_be_made(ask) -> None:
    answer = ask("/static/%0d%0aset-cookie:%20a=b")
    assert answer.status == 404
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/", "/static/js/main.js", "/api/results", "/api/cases/0", "/api/cases/0/scan", "/nothing", "/?x"]
)
def test_every_answer_says_what_a_page_may_do(ask, path) -> None:
    headers = ask(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
    assert "server" not in headers


def test_volumes_come_as_they_are_stored_and_in_parts(ask, results) -> None:
    number = next(c["number"] for c in ask("/api/results").json["cases"] if c["name"] == "anomalous")
    stored = (results / "maps" / "anomalous.nii.gz").read_bytes()
    path = f"/api/cases/{number}/map"
    whole = ask(path)
    assert (whole.status, whole.body, whole.headers["accept-ranges"]) == (200, stored, "bytes")
    assert whole.headers["content-type"] == "application/octet-stream"
    assert "content-encoding" not in whole.headers
    part = ask(path, range="bytes=10-19")
    assert (part.status, part.body) == (206, stored[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(stored)}"
    assert ask(path, range="bytes=-7").body == stored[-7:]
    assert ask(path, range=f"bytes={len(stored)}-").status == 416
    for damage in ("bytes=9-1", "bytes=a-b", "lines=1-2", "bytes=", "bytes=" + "0-1," * 2000):
        assert ask(path, range=damage).status in (200, 206, 400, 416)


def test_no_answer_holds_what_the_header_of_a_scan_held(ask, results) -> None:
    sources = list((results.parent / "sources").iterdir())
    assert all(CANARY.encode() in path.read_bytes() for path in sources)
    paths = ["/", "/api/results"]
    for number in range(5):
        paths += [f"/api/cases/{number}", *(f"/api/cases/{number}/{kind}" for kind in ("scan", "map", "restored"))]
    for path in paths:
        body = ask(path).body
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" and not _is_damaged(body) else body
        assert CANARY.encode() not in body
        assert str(results).encode() not in body


def _is_damaged(stored: bytes) -> bool:
    try:
        gzip.decompress(stored)
    except gzip.BadGzipFile:
        return True
    return False


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = build_results(tmp_path / "results")
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes((folder / "scans" / "plain.nii.gz").read_bytes())
    (folder / "scans" / "plain.nii.gz").unlink()
    (folder / "scans" / "plain.nii.gz").symlink_to(secret)
    (folder / "maps" / "warned.nii.gz").unlink()
    (folder / "maps" / "warned.nii.gz").symlink_to("warned.nii.gz")
    with viewer_over(folder) as port:
        ask = asking(port)
        numbers = {case["name"]: case["number"] for case in ask("/api/results").json["cases"]}
        assert ask(f"/api/cases/{numbers['plain']}/scan").status == 404
        assert ask(f"/api/cases/{numbers['warned']}/map").status == 404
        assert "scan" not in ask(f"/api/cases/{numbers['plain']}").json["volumes"]
        assert ask(f"/api/cases/{numbers['anomalous']}/scan").status == 200


def test_a_damaged_row_is_told_for_its_scan_alone(tmp_path: Path) -> None:
    folder = build_results(tmp_path / "results")
    text = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(text.replace(",15.0,", ",much,", 1))
    with viewer_over(folder) as port:
        answers = [asking(port)(f"/api/cases/{number}") for number in range(5)]
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 500]
    assert "damaged" in next(answer for answer in answers if answer.status == 500).json["error"]


def test_with_a_token_every_request_needs_it(results: Path) -> None:
    token = "t0ken-of-more-than-16-letters"
    with viewer_over(results, token=token) as port:
        ask = asking(port)
        for path in (
            "/",
            "/static/js/main.js",
            "/api/results",
            "/api/cases/0/scan",
            "/nothing",
            "/?token=wrong",
            f"/api/results?token={token}",
        ):
            answer = ask(path)
            assert (answer.status, "set-cookie" in answer.headers) == (401, False)
            assert token.encode() not in answer.body
        first = ask(f"/?token={token}")
        assert (first.status, first.headers["location"]) == (303, "/")
        cookie, *attributes = first.headers["set-cookie"].split("; ")
        assert {each.lower() for each in attributes} == {"httponly", "path=/", "samesite=strict"}
        assert ask("/api/results", cookie=f"other=1; {cookie}").status == 200
        assert ask("/api/results", cookie=f"mendscan_{port}=wrong").status == 401
        assert ask("/api/results", cookie=f"mendscan_1={token}").status == 401
        assert ask("/api/results", authorization=f"Bearer {token}").status == 200
        assert ask("/api/results", authorization=f"Basic {token}").status == 401
        assert ask("/api/results", authorization=f"Bearer {token}", host="evil.example").status == 403


def test_a_client_that_says_nothing_is_sent_away(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_SECONDS", 0.3)
    with viewer_over(results) as port:
        silent, slow = (socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(2))
        with silent, slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
            assert silent.recv(10) == slow.recv(10) == b""


def test_many_connections_are_bounded_and_do_not_stay(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_SECONDS", 3.0)
    with viewer_over(results) as port, ExitStack() as opened:
        ask, statuses = asking(port), []
        while 503 not in statuses and len(statuses) < 30:
            for _ in range(16):
                opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            statuses.append(ask("/api/results").status)
        assert set(statuses) == {200, 503}
        deadline = time.monotonic() + 20
        while ask("/api/results").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)

# ruff: noqa: E501 - a row of the table is a line
"""Rows 78 to 87: what other pages, other machines and hand-made clients may ask of the viewer."""

from __future__ import annotations

import atexit
import functools
import gzip
import json
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from attacks.attack import Attack, Outcome, commanded
from mendscan.viewer import patience
from mendscan.viewer.serving import listen
from mendscan.volumes.remarks import remarks_kept
from viewer.asking import Answer, asking, send
from viewer.test_serving import answered, leave_early, said_at_last, started
from viewer_results import CANARY, build_results, viewer_over

SECRETS = (b"root:", b"def create_app", b"the secret", CANARY.encode())
"""Of other files, of the program, of the results' neighbours and of the header of each scan."""
TOKEN = "t0ken-of-more-than-16-letters"


@functools.cache
def results() -> Path:
    """The results that are viewed, until the tests end."""
    made = tempfile.TemporaryDirectory()
    atexit.register(made.cleanup)
    (Path(made.name) / "neighbour.csv").write_text("the secret")
    with remarks_kept():
        return build_results(Path(made.name) / "results")


@functools.cache
def port() -> int:
    """A viewer that stands all attacks, one after the other."""
    until_the_end = ExitStack()
    atexit.register(until_the_end.close)
    return until_the_end.enter_context(viewer_over(results()))


def viewer(row: int, name: str, expected: str, request: Callable[[], Answer], why: str = "") -> Attack:
    """An attack that is one request."""
    return Attack(row, f"viewer: {name}", expected, lambda _: request, why, told)


def told(request: Callable[[], Answer]) -> Outcome:
    """Let a request be answered; the viewer goes on as before."""
    answer = request()
    body = gzip.decompress(answer.body) if answer.body.startswith(b"\x1f\x8b") else answer.body
    assert not [secret for secret in SECRETS if secret in body]
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "set-cookie"]
    if answer.headers["content-type"] == "application/json":
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert asking(port())("/api/results").status == 200
    return outcome_of(answer)


def outcome_of(answer: Answer) -> Outcome:
    if answer.status < 400:
        return Outcome("", "")
    words = answer.body.decode()
    is_json = answer.headers["content-type"] == "application/json"
    return Outcome(str(answer.status), json.loads(words)["error"] if words and is_json else words)


def ask(path: str = "/api/results", **options: object) -> Callable[[], Answer]:
    """A request whose headers may name the port."""

    def request() -> Answer:
        known = {
            name: value.format(port=port()) if isinstance(value, str) else value for name, value in options.items()
        }
        return asking(port())(path, **known)

    return request


def raw(request: bytes) -> Callable[[], Answer]:
    return lambda: send(port(), request)


def slowly(said: bytes) -> Callable[[Path], Outcome]:
    """Begin a request and never end it."""

    def wait(_: Path) -> Outcome:
        impatient = mock.patch.object(patience, "_SECONDS", 0.3)
        with impatient, viewer_over(results()) as own, socket.create_connection(("127.0.0.1", own), 20) as client:
            client.sendall(said)
            assert client.recv(10) == b""
        return Outcome("closed", "the connection is closed; a client has ten seconds to say what it wants")

    return wait


def crowd(_: Path) -> Outcome:
    """Open connections that say nothing, while another asks, and again when they have gone."""
    with viewer_over(results()) as own_port:
        with ExitStack() as opened:
            for _ in range(300):
                opened.enter_context(socket.create_connection(("127.0.0.1", own_port), timeout=20))
            crowded = asking(own_port)("/api/results")
        while asking(own_port)("/api/results").status != 200:  # the test has a limit of its own
            time.sleep(0.05)
    return outcome_of(crowded)


def with_link(folder: Path) -> Path:
    """Results in which a scan is a link to a file elsewhere."""
    with remarks_kept():
        made = build_results(folder / "results")
    scan = made / "scans" / "plain.nii.gz"
    scan.rename(folder / "elsewhere.nii.gz")
    scan.symlink_to(folder / "elsewhere.nii.gz")
    return made


def asked_for_plain(folder: Path) -> Outcome:
    with viewer_over(folder) as own_port:
        own = asking(own_port)
        (number,) = (case["number"] for case in own("/api/results").json["cases"] if case["name"] == "plain")
        return outcome_of(own(f"/api/cases/{number}/scan"))


def without_token(_: Path) -> Outcome:
    with viewer_over(results(), token=TOKEN) as own_port:
        answer = asking(own_port)("/api/results", cookie=f"mendscan_{own_port}=wrong")
        assert TOKEN.encode() not in answer.body
        assert asking(own_port)("/api/results", authorization=f"Bearer {TOKEN}").status == 200
        return outcome_of(answer)


def port_taken(_: Path) -> Outcome:
    with listen("127.0.0.1", 0) as taken:
        number = taken.getsockname()[1]
        came = commanded(["view", "-i", results(), "--port", number])
    return Outcome(came.code, came.message.replace(str(number), "PORT"))


def two_viewers(_: Path) -> None:
    with listen("127.0.0.1", None) as one, listen("127.0.0.1", None) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


def command(*options: str, meanwhile: Callable[[int], Outcome]) -> Callable[[Path], Outcome]:
    """Run the command itself, let something happen, end it as Ctrl-C does, and see that it says no more than it should."""

    def run(_: Path) -> Outcome:
        process, line = started("-i", results(), "--port", 0, *options)
        try:
            came = meanwhile(int(line.split("127.0.0.1:")[1].split("/")[0]))
        finally:
            process.send_signal(signal.SIGINT)
            said = " ".join(said_at_last(process).split())
        assert said.startswith("Research use only; not a medical device.")
        assert ("warning: other machines can reach this page" in said) == ("--host" in options)
        assert "Traceback" not in said
        return came

    return run


def left_early(own_port: int) -> Outcome:
    for _ in range(5):
        leave_early(own_port, "/static/vendor/niivue.umd.js")
    assert answered(own_port, "/") == 200
    return Outcome("", "")


def from_another_machine(own_port: int) -> Outcome:
    return outcome_of(asking(own_port)("/"))


def refused(*options: object) -> Callable[[Path], Outcome]:
    return lambda _: commanded(["view", "-i", results(), "--port", 0, *options])


def upload() -> Answer:
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="<img src=x onerror=alert(1)>.nii"\r\n\r\nx\r\n--x--\r\n'
    return asking(port())(
        "/", method="POST", body=body, content_type="multipart/form-data; boundary=x", content_length=str(len(body))
    )


BOMB = gzip.compress(bytes(10**7))
NO_WORD = "the command says nothing of it"
WEB_LEVEL = (
    viewer(78, "up: /../../etc/passwd", "404", ask("/../../etc/passwd")),
    viewer(78, "up, escaped: /%2e%2e%2f%2e%2e%2fetc/passwd", "404", ask("/%2e%2e%2f%2e%2e%2fetc/passwd")),
    viewer(78, "up, by backslashes: /..%5c..%5cetc%5cpasswd", "404", ask("/..%5c..%5cetc%5cpasswd")),
    viewer(78, "two slashes: //etc/passwd", "404", ask("//etc/passwd")),
    viewer(78, "a program's file: /static/../server.py", "404", ask("/static/../server.py")),
    viewer(78, "the same escaped: /static/%2e%2e%2fserver.py", "404", ask("/static/%2e%2e%2fserver.py")),
    viewer(78, "NUL: /static/index.html%00.js", "404", ask("/static/index.html%00.js")),
    viewer(78, "an absolute path as a scan: /api/cases/%2fetc%2fpasswd/scan", "404", ask("/api/cases/%2fetc%2fpasswd/scan")),
    viewer(78, "a neighbour of the results: /api/cases/0/../../neighbour.csv", "404", ask("/api/cases/0/../../neighbour.csv")),
    viewer(78, "a table of the results: /scores.csv", "404", ask("/scores.csv")),
    Attack(78, "viewer: a scan that is a link to a file elsewhere", "404", with_link, "", asked_for_plain),
    viewer(79, "host evil.example (DNS rebinding)", "403", ask(host="evil.example")),
    viewer(79, "the same with the port", "403", ask(host="evil.example:{port}")),
    viewer(79, "host 127.0.0.1:PORT.evil.example", "403", ask(host="127.0.0.1:{port}.evil.example")),
    viewer(79, "host 127.0.0.1@evil.example", "403", ask(host="127.0.0.1@evil.example:{port}")),
    viewer(79, "host 127.0.0.1, another port", "403", ask(host="127.0.0.1:1")),
    viewer(79, "host 0.0.0.0", "403", ask(host="0.0.0.0:{port}")),
    viewer(79, "no host", "400", ask(host="")),
    viewer(79, "two hosts", "400", raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n")),
    viewer(80, "POST of another site", "405", ask(method="POST", origin="http://evil.example")),
    viewer(80, "origin of another site", "403", ask(origin="http://evil.example")),
    viewer(80, "origin null", "403", ask(origin="null")),
    viewer(80, "origin of another local server", "403", ask(origin="http://127.0.0.1:1")),
    viewer(80, "a script or picture of another site (Sec-Fetch-Site)", "403", ask(sec_fetch_site="cross-site")),
    viewer(80, "a frame of another local server", "403", ask("/", sec_fetch_site="same-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe")),
    Attack(80, "viewer: a wrong token", "401", lambda folder: folder, "", without_token),
    viewer(81, "body", "413", ask(body=b"x" * 9, content_length="9")),
    viewer(81, "body of 100 GB announced", "413", ask(content_length="99999999999")),
    viewer(81, "body of -1 bytes", "400", ask(content_length="-1")),
    viewer(81, "body of no announced length", "413", ask(transfer_encoding="chunked")),
    viewer(81, "head of 40 kB without an end", "400", raw(b"A" * 40_000)),
    Attack(81, "viewer: silence", "closed", lambda folder: folder, "", slowly(b"")),
    Attack(81, "viewer: a request that never ends (slowloris)", "closed", lambda folder: folder, "", slowly(b"GET / HTTP/1.1\r\nHost: ")),
    Attack(81, "viewer: 300 connections", "503", lambda folder: folder, "", crowd),
    viewer(82, "scan -1", "404", ask("/api/cases/-1")),
    viewer(82, "scan 999999", "404", ask("/api/cases/999999")),
    viewer(82, "scan NaN", "404", ask("/api/cases/NaN")),
    viewer(82, "scan 1e99", "404", ask("/api/cases/1e99")),
    viewer(82, "scan of 5 000 digits", "404", ask(f"/api/cases/{'1' * 5000}")),
    viewer(82, "scan ٣, a digit of another script", "404", ask("/api/cases/%D9%A3")),
    viewer(82, "volume q", "422", ask("/api/cases/0/q")),
    viewer(82, "?slice=-1", "400", ask("/api/cases/0/scan?slice=-1")),
    viewer(82, "?axis=q", "400", ask("/api/cases/0/scan?axis=q")),
    viewer(83, "upload of a file <img onerror>", "405", upload),
    viewer(83, "line breaks in an address, to make a header", "404", ask("/static/%0d%0aset-cookie:%20a=b")),
    viewer(83, "line breaks in a query, to make a header", "400", ask("/?a=%0d%0aset-cookie:%20a=b")),
    viewer(83, "a script in an address", "404", ask("/static/<script>alert(1)</script>")),
    viewer(83, "a scan with a patient's name in its header", "", ask("/api/cases/0/scan"), "voxels and geometry alone are kept of a header"),
    Attack(84, "viewer: port taken", "exit 2", lambda folder: folder, "", port_taken),
    Attack(84, "viewer: two at once", "", lambda folder: folder, "the second takes a free port", two_viewers),
    Attack(84, "viewer: the browser closed within an answer", "", lambda folder: folder, NO_WORD, command(meanwhile=left_early)),
    Attack(85, "viewer: --host 0.0.0.0, asked by one without the token", "401", lambda folder: folder, "", command("--host", "0.0.0.0", meanwhile=from_another_machine)),
    Attack(85, "viewer: --host of another machine", "exit 2", lambda folder: folder, "", refused("--host", "203.0.113.9")),
    Attack(85, "viewer: a short --token", "exit 2", lambda folder: folder, "", refused("--token", "short")),
    viewer(86, "HEAD", "", ask(method="HEAD"), "answered as GET, without the body"),
    viewer(86, "OPTIONS", "405", ask(method="OPTIONS")),
    viewer(86, "TRACE", "405", ask(method="TRACE")),
    viewer(86, "a method of no kind", "405", ask(method="BREW")),
    viewer(86, "garbage in place of a request", "400", raw(b"\x00\xff" * 99 + b"\r\n\r\n")),
    viewer(86, "TLS in place of HTTP", "400", raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")),
    viewer(86, "a request line cut off", "400", raw(b"GET\r\n\r\n")),
    viewer(87, "gzip bomb as a body", "413", ask(body=BOMB, content_length=str(len(BOMB)), content_encoding="gzip")),
)  # fmt: skip

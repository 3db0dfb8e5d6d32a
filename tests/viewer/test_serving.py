"""The command: where it listens, what it prints, how it ends."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.errors import SettingsError
from mendscan.viewer.access import open_to
from mendscan.viewer.serving import address_of, listen


def started(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "mendscan", "view", *(str(each) for each in arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


def said_at_last(process: subprocess.Popen[str]) -> str:
    process.wait(timeout=20)
    assert process.stdout is not None
    with process.stdout:
        return process.stdout.read()


def answered(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def leave_early(port: int, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert connection.recv(100)


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_this_machine_only_and_ends_quietly(results: Path, ends: int) -> None:
    process, line = started("-i", results, "--port", 0)
    found = re.search(r"http://127\.0\.0\.1:(\d+)/ ", line)
    assert found, line
    port = int(found[1])
    assert answered(port, "/api/results") == 200
    others = [address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in {each for each in others if not each.startswith("127.")}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, port), timeout=5)
    leave_early(port, "/static/vendor/niivue.umd.js")
    assert answered(port, "/") == 200
    process.send_signal(ends)
    rest = said_at_last(process)
    assert process.returncode == (0 if ends == signal.SIGINT else -ends)
    assert rest.strip() == "Research use only; not a medical device."


def test_another_address_prints_a_token_and_a_warning(results: Path) -> None:
    process, line = started("-i", results, "--port", 0, "--host", "0.0.0.0")
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/\?token=[\w-]{32,}) ", line)
    assert found, line
    assert (answered(int(found[1]), "/"), answered(int(found[1]), found[2])) == (401, 303)
    process.send_signal(signal.SIGINT)
    rest = said_at_last(process)
    assert "warning: other machines can reach this page" in rest
    assert "unencrypted" in rest


def test_a_taken_port_is_told_and_the_default_gives_way(results: Path) -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        shown = CliRunner().invoke(app, ["view", "-i", str(results), "--port", str(port)])
        assert shown.exit_code == 2
        assert "the port is taken; give another --port" in re.sub(r"\s+", " ", shown.output)
    with listen("127.0.0.1", None) as one, listen("127.0.0.1", None) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "words"),
    [("203.0.113.9", "cannot listen on this address"), ("no such name", "cannot listen on this address")],
)
def test_an_address_of_another_machine_is_told(host, words) -> None:
    with pytest.raises(SettingsError, match=words):
        listen(host, 0)


def test_what_is_no_results_folder_is_told(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["view", "-i", str(tmp_path), "--port", "0"])
    assert (shown.exit_code, "not a results folder" in shown.output) == (2, True)
    shown = CliRunner().invoke(app, ["view", "-i", str(tmp_path), "--token", "short"])
    assert (shown.exit_code, "the token cannot be used" in shown.output) == (2, True)


def test_without_the_extra_the_remedy_is_told(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    shown = CliRunner().invoke(app, ["view", "-i", str(results)])
    assert shown.exit_code == 2
    assert "pip install 'mendscan[viewer]'" in re.sub(r"\s+", " ", shown.output)


def test_addresses_can_be_opened() -> None:
    token = "sixteen-letters-"
    assert address_of("127.0.0.1", open_to("127.0.0.1", 80, None)) == "http://127.0.0.1:80/"
    assert address_of("::1", open_to("::1", 81, None)) == "http://[::1]:81/"
    assert address_of("0.0.0.0", open_to("0.0.0.0", 82, token)) == f"http://127.0.0.1:82/?token={token}"


def test_viewing_does_not_import_torch() -> None:
    code = "import sys, mendscan.viewer.server, mendscan.viewer.serving; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0

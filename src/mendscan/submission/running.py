"""Run one script and watch it: exit code, messages, when each prediction appeared, and how much memory was used."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Run", "watch"]

_EVERY_SECONDS = 0.05
_GRACE_SECONDS = 10.0
_SESSION = 3
"""Field of ``/proc/PID/stat``, counted after the command's name."""


@dataclass(frozen=True)
class Run:
    """How a script ran.

    Attributes:
        exit_code: 0 = it succeeded; None = it took too long and was ended.
        messages: What it wrote to stderr.
        seconds: How long it took.
        case_seconds: For each prediction, in order of appearance: time since the one before, or since the start, which
            for the first includes loading the model.
        case_bytes: The most memory that all its processes held in that time; empty where the system does not tell.
    """

    exit_code: int | None
    messages: str
    seconds: float
    case_seconds: Mapping[str, float]
    case_bytes: Mapping[str, int]


def watch(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    expected: Sequence[str],
    log: Path,
    limit_seconds: float,
) -> Run:
    """Run a command and watch the files that it should write.

    Args:
        command: Program and arguments.
        environment: All its variables.
        folder: Where predictions appear.
        expected: Their names.
        log: Gets what the command writes to stderr; stdout is dropped.
        limit_seconds: After this it is ended, with all processes of its session.
    """
    started = last = time.monotonic()
    seconds, peaks, peak = dict[str, float](), dict[str, int](), 0
    waiting = set(expected)
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
            start_new_session=True, cwd="/",
        )  # fmt: skip
        try:
            while (exit_code := process.poll()) is None and time.monotonic() - started < limit_seconds:
                time.sleep(_EVERY_SECONDS)
                peak = max(peak, _session_bytes(process.pid))
                for name in sorted(name for name in waiting if (folder / name).exists()):
                    waiting.discard(name)
                    seconds[name], peaks[name] = time.monotonic() - last, peak
                    last, peak = time.monotonic(), 0
        finally:
            _end(process)
    for name in sorted(name for name in waiting if (folder / name).exists()):  # in the last moment
        seconds[name], peaks[name] = time.monotonic() - last, peak
        last, peak = time.monotonic(), 0
    messages = log.read_text(encoding="utf-8", errors="replace")
    return Run(exit_code, messages, time.monotonic() - started, seconds, {n: b for n, b in peaks.items() if b})


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its session: first as a container is stopped, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _session_bytes(session: int) -> int:
    """Return the resident memory of all processes of a session; 0 where the system does not tell."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[_SESSION]) == session:
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            continue
    return total

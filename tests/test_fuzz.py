"""Damaged files of every format: read rightly or refused, never anything else.  `benchmarks/fuzz.py` runs many more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import fuzz  # noqa: E402

RUNS = {"dicom": 60, "zip": 100, "model": 60}
"""Of the formats that take long; 300 of the others."""


@pytest.mark.fuzz
@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_nothing_escapes(name: str, tmp_path: Path) -> None:
    told = tmp_path / "fuzz.json"
    command = [sys.executable, fuzz.__file__, "--format", name, "--runs", str(RUNS.get(name, 300)), "--json", str(told)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAXTYPING": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(told.read_text())
    assert row["escaped"] == []
    assert row["accepted"] + row["typed"] == RUNS.get(name, 300)
    assert row["typed"] > 0


def test_escapes_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a reader must not do, done on purpose."""

    class Bad(fuzz.Nii):
        todo = iter((lambda: 1 / 0, lambda: all(True for _ in iter(int, 1)), lambda: None))

        def read(self) -> None:
            next(self.todo)()

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    fuzz.signal.signal(fuzz.signal.SIGPROF, fuzz._too_slow)
    target = Bad(tmp_path)
    outcomes = [fuzz._outcome(target, "nii", 0, run)["outcome"] for run in range(3)]
    assert outcomes == ["escape ZeroDivisionError: division by zero", "escape: more than two seconds", "accepted"]


def test_a_run_is_the_same_every_time() -> None:
    raw = bytes(range(256)) * 4
    one, other = ([fuzz.damaged(fuzz.random.Random(n), raw) for n in range(50)] for _ in range(2))
    assert one == other
    assert len(set(one)) > 40

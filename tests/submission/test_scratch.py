"""Whatever looks for a place to write finds the hidden folder, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mendscan.errors import WriteError
from mendscan.submission.scratch import scratch_inside

HOLD = """
import sys, tempfile, time
from pathlib import Path
from mendscan.submission.scratch import scratch_inside
with scratch_inside(Path(sys.argv[1])):
    Path(tempfile.mkstemp()[1]).write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_every_cache_leads_inside_and_all_is_as_before_afterwards(tmp_path: Path) -> None:
    before, temporary = dict(os.environ), tempfile.gettempdir()
    with scratch_inside(tmp_path / "pred") as scratch:
        assert scratch.parent == tmp_path / "pred"
        assert scratch.name.startswith(".")
        names = ("TMPDIR", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME", "JOBLIB_TEMP_FOLDER")
        assert {os.environ[name] for name in names} == {str(scratch)}
        assert Path.home() == Path(tempfile.gettempdir()) == scratch
        assert sys.dont_write_bytecode
        Path(tempfile.mkdtemp(), "x").write_text("x")
    assert dict(os.environ) == before
    assert tempfile.gettempdir() == temporary
    assert list((tmp_path / "pred").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_removed_on_failure(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with scratch_inside(tmp_path):
            Path(tempfile.mkstemp()[1]).write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_it_is_removed_when_the_container_is_stopped(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.rglob("*"))) == 2
        process.send_signal(signal.SIGTERM)
        for _ in range(600):
            if process.poll() is not None:
                break
            time.sleep(0.1)
        assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="cannot be written"), scratch_inside(tmp_path / "file"):
        pass

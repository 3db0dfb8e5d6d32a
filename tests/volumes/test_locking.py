import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mendscan.errors import WriteError
from mendscan.volumes import locking
from mendscan.volumes.locking import LOCK_NAME, locked

HOLD = """
import sys
from pathlib import Path
from mendscan.volumes.locking import locked
with locked(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with pytest.raises(WriteError, match=f"process {process.pid} on .*, training") as caught, locked(tmp_path, "mine"):
        pass
    assert caught.value.code == "E_LOCKED"
    process.communicate("")
    with locked(tmp_path, "mine"):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["work"] == "mine"
    assert not list(tmp_path.iterdir())


def test_a_lock_left_by_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    with locked(tmp_path, "mine"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_ends_with_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path, "mine"):
        raise RuntimeError
    with locked(tmp_path, "mine"):
        pass


def test_a_file_that_was_removed_by_its_last_holder_is_not_held(tmp_path: Path, monkeypatch) -> None:
    """Between opening and locking, the last holder may remove the file: the lock on it would keep nobody out."""
    lock, path = locking._lock, tmp_path / LOCK_NAME
    removed = []

    def lock_after_removal(descriptor: int, where: Path) -> None:
        if not removed:
            removed.append(where.unlink())
        lock(descriptor, where)

    monkeypatch.setattr(locking, "_lock", lock_after_removal)
    with locked(tmp_path, "mine"):
        assert path.exists()
        with pytest.raises(WriteError, match="another run"), locked(tmp_path, "other"):
            pass


@pytest.mark.parametrize("record", ["[" * 4096, "", "[]", "no json", '{"pid": "x"}'])
def test_a_damaged_record_does_not_matter(tmp_path: Path, record: str) -> None:
    (tmp_path / LOCK_NAME).write_text(record)
    with locked(tmp_path, "mine"):
        pass


def test_without_locks_the_record_decides(tmp_path: Path, monkeypatch, caplog) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", unsupported)
    with locked(tmp_path, "mine"):
        assert "no lock on this file system" in caplog.text
        with pytest.raises(WriteError, match=f"process {os.getpid()}"), locked(tmp_path, "other"):
            pass
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    host = locking.platform.node()
    (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": int(finished.stdout), "host": host, "work": "training"}))
    with locked(tmp_path, "mine"):
        pass


def test_a_folder_that_is_missing_or_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(WriteError, match="cannot be written to"), locked(folder, "mine"):
            pass

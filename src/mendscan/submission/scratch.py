"""The one place where a container of the challenge may write: a hidden folder beside its predictions, for a while."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mendscan.errors import WriteError

__all__ = ["SCRATCH_PREFIX", "scratch_inside"]

SCRATCH_PREFIX = ".mendscan-"
_TERMINATED = 143
_FOLDERS = (
    "TMPDIR", "TEMP", "TMP", "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR", "TORCH_HOME",
    "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "JOBLIB_TEMP_FOLDER", "LOKY_TEMP_FOLDER",
    "NUMBA_CACHE_DIR", "PYTHONPYCACHEPREFIX",
)  # fmt: skip
"""What libraries ask for a place to write."""


@contextmanager
def scratch_inside(folder: Path) -> Iterator[Path]:
    """Send every temporary file and cache into a hidden folder, and remove it in the end, however that comes about.

    To be entered before libraries that look for their caches are imported.  SIGTERM, with which containers are
    stopped, ends the block as an error does; only SIGKILL leaves the folder behind.

    Raises:
        WriteError: If the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=folder.absolute()))
    except OSError as error:
        raise WriteError(
            "predictions cannot be written", where=folder, found=error.strerror, remedy="mount a writable folder"
        ) from None
    before = {name: os.environ.get(name) for name in (*_FOLDERS, "PYTHONDONTWRITEBYTECODE")}
    bytecode, temporary = sys.dont_write_bytecode, tempfile.tempdir
    try:
        with _ended_by_sigterm():
            os.environ.update(dict.fromkeys(_FOLDERS, str(scratch)) | {"PYTHONDONTWRITEBYTECODE": "1"})
            sys.dont_write_bytecode, tempfile.tempdir = True, str(scratch)
            yield scratch
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        sys.dont_write_bytecode, tempfile.tempdir = bytecode, temporary
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""Standard streams that cost no work: who stops listening, or was never there, does not stop a batch of hours."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

__all__ = ["make_streams_patient", "what_was_lost"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _PatientFile(io.FileIO):
    """A file that takes all that is written to it, and remembers what a full disk refused."""

    lost: OSError | None = None

    def write(self, data: object) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            # A pipe or terminal whose other end has gone is no fault of this run; a file that lacks text is.
            if error.errno in _FULL:
                self.lost = error
            return memoryview(data).nbytes  # type: ignore[arg-type]


def make_streams_patient() -> None:
    """Have standard output and error take what is printed, whether or not somebody reads it.

    What a terminal cannot show becomes "?".  A stream that is closed leads nowhere: its number would else be
    that of the first file opened, and whatever prints would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = _patient(sys.stdout, 1), _patient(sys.stderr, 2)


def what_was_lost() -> str | None:
    """Return why something that was printed is lost, or None: the words of the system."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if isinstance(raw, _PatientFile) and raw.lost is not None:
            return raw.lost.strerror
    return None


def _patient(stream: TextIO | None, number: int) -> io.TextIOWrapper:
    raw = _PatientFile(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="replace",
        line_buffering=number == 2 or raw.isatty(),
    )

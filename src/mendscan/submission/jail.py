"""Run a command with one writable folder: the rest of the file system read-only, and no network.

Run as a program inside new namespaces (``unshare``), which it has to itself: it changes how file systems are mounted,
then proves that they are, then becomes the command.  It needs nothing but the standard library.

Usage: ``python jail.py WRITABLE PROBED:PROBED… COMMAND…``
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

__all__ = ["NOT_HELD", "main"]

NOT_HELD = 97
"""Exit code if file system or network could not be shut off."""
_MOUNT_POINT, _OPTIONS = 4, 5
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_NOWHERE = ("192.0.2.1", 9)
"""An address that is for documentation only (RFC 5737)."""


def main(arguments: list[str]) -> None:
    """Shut everything off but the first argument's folder, and become the command."""
    writable, probed, *command = arguments
    _mount("--bind", writable, writable)
    for point, options in _mounts():
        if point != writable:
            # What was forbidden stays forbidden: within a user namespace the kernel refuses to drop such options.
            _mount("-o", ",".join(["remount", "bind", "ro", *options]), point)
    open_still = [place for place in probed.split(os.pathsep) if _can_write(Path(place))]
    if open_still or _has_route() or not _can_write(Path(writable)):
        sys.stderr.write("file system or network cannot be shut off\n")
        sys.exit(NOT_HELD)
    os.execvp(command[0], command)  # noqa: S606


def _mounts() -> list[tuple[str, list[str]]]:
    """Return every mount point, and its options but for rw and ro."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = os.fsdecode(_ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), os.fsencode(fields[_MOUNT_POINT])))
        found.append((point, [option for option in fields[_OPTIONS].split(",") if option not in ("rw", "ro")]))
    return found


def _mount(*arguments: str) -> None:
    # A failure shows when writing is tried: not every mount can be changed, and not every one could be written to.
    subprocess.run(["mount", *arguments], check=False, capture_output=True)  # noqa: S607


def _has_route() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_NOWHERE)  # sends nothing; only asks for a route
        except OSError:
            return False
    return True


def _can_write(folder: Path) -> bool:
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])

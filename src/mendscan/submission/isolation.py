"""Run a script as in the challenge's container, without a container: what it may write, and whom it may call.

=============  ========================================================================================================
isolation      what holds
=============  ========================================================================================================
``shut``       namespaces of the kernel: every file system is read-only but the predictions, and there is no network
``offline``    a network namespace: no network; that nothing else was written is seen by comparing digests
``guarded``    neither: Python's connections are refused and proxies lead nowhere; writing is seen by comparing digests
=============  ========================================================================================================

In all three HOME and TMPDIR lead to folders without permission to write, which root may ignore where nothing is shut.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mendscan.errors import ResultsError
from mendscan.submission import jail

__all__ = ["Isolation", "Room", "make_room"]

Isolation = Literal["shut", "offline", "guarded"]

_PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SYSTEMROOT")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
_NO_PROXY = "http://127.0.0.1:9"
_PROBE_SECONDS = 60
_REFUSE_CONNECTIONS = """\
import socket

_connect = socket.socket.connect


def _refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise OSError("there is no network in the challenge's container")
    return _connect(self, address)


socket.socket.connect = socket.socket.connect_ex = _refuse
"""


@dataclass(frozen=True)
class Room:
    """Where scripts run: the submission's own package, and folders that cannot be written to.

    Attributes:
        folder: What is below it was made for this check.
        isolation: What holds in it.
        prefix: The command that shuts things off; takes a writable folder, folders to probe, and a command.
    """

    folder: Path
    isolation: Isolation
    prefix: tuple[str, ...]

    @property
    def watched(self) -> tuple[Path, ...]:
        """Folders of the room in which nothing may change."""
        return tuple(self.folder / name for name in ("home", "tmp", "site", "bin"))

    def command(self, script: Path, data: Path, predictions: Path) -> list[str]:
        """Return the command that runs a script of the challenge."""
        call = ["sh", str(script), str(data), str(predictions)]
        if self.isolation != "shut":
            return [*self.prefix, *call]
        probed = [script.parent, data, self.folder, self.folder / "home", self.folder / "tmp", Path("/"), Path("/tmp")]  # noqa: S108
        return [*self.prefix, str(predictions), os.pathsep.join(map(str, probed)), *call]

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of a container, and no others."""
        variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        home, tmp = str(self.folder / "home"), str(self.folder / "tmp")
        return variables | {
            "PATH": os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(self.folder / "site"),
            "HOME": home,
            "TMPDIR": tmp,
            **dict.fromkeys((*_PROXIES, *map(str.upper, _PROXIES)), _NO_PROXY),
        }


def make_room(folder: Path, submission: Path, *, strictest: Isolation = "shut") -> Room:
    """Unpack a submission's package and find out what the system lets us shut off.

    Args:
        folder: An empty folder.
        submission: A folder that `write_submission` filled.
        strictest: Try nothing stricter than this.

    Raises:
        ResultsError: If the submission does not hold exactly one wheel of mendscan.
    """
    for name in ("site", "bin", "home", "tmp", "probe"):
        (folder / name).mkdir()
    _unpack(submission, folder / "site")
    program = folder / "bin" / "mendscan"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mendscan "$@"\n')
    program.chmod(0o755)
    isolation, prefix = _strictest(folder, strictest)
    if isolation == "guarded":
        (folder / "site" / "sitecustomize.py").write_text(_REFUSE_CONNECTIONS)
    for name in ("home", "tmp", "site", "bin"):
        (folder / name).chmod(0o555)
    return Room(folder, isolation, prefix)


def _unpack(submission: Path, site: Path) -> None:
    wheels = sorted(submission.glob("mendscan-*.whl"))
    if len(wheels) != 1:
        raise ResultsError(
            "not one wheel of mendscan", where=submission, found=len(wheels), remedy="write the submission again"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        for entry in archive.infolist():
            target = site / entry.filename
            if not target.resolve().is_relative_to(site.resolve()):
                raise ResultsError("a path that leads out of the wheel", where=wheels[0], found=entry.filename)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))


def _strictest(folder: Path, strictest: Isolation) -> tuple[Isolation, tuple[str, ...]]:
    unshare = shutil.which("unshare")
    if unshare is None or strictest == "guarded":
        return "guarded", ()
    # A user namespace gives others than root the right to make the other two; root needs none, and would lose rights.
    users = ("", "--map-root-user") if hasattr(os, "geteuid") and os.geteuid() == 0 else ("--map-root-user",)
    for user in users:
        shut = (unshare, *filter(None, [user]), "--mount", "--net", sys.executable, "-I", str(Path(jail.__file__)))
        probe = [*shut, str(folder / "probe"), str(folder), "true"]
        if strictest == "shut" and _works(probe):
            return "shut", shut
    for user in users:
        offline = (unshare, *filter(None, [user]), "--net")
        if _works([*offline, "true"]):
            return "offline", offline
    return "guarded", ()


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=_PROBE_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False

"""The challenge's names and rules: two anatomies, two tasks, four scripts, what a prediction is called.

Facts from the challenge's repository (MIC-DKFZ/mood): a script is called as ``sh /workspace/run_TASK_ANATOMY.sh
/mnt/data /mnt/pred``.  ``sample`` writes one number to ``NAME.nii.gz.txt``, ``pixel`` a map of the scan's shape to
``NAME.nii.gz``; both lie in [0, 1], higher = more anomalous.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from mendscan.errors import CohortError

__all__ = ["ANATOMIES", "MODES", "Anatomy", "Mode", "cases_in", "prediction_name", "script_name"]

Anatomy = Literal["brain", "abdom"]
Mode = Literal["sample", "pixel"]
ANATOMIES: tuple[Anatomy, ...] = get_args(Anatomy)
MODES: tuple[Mode, ...] = get_args(Mode)


def script_name(mode: Mode, anatomy: Anatomy) -> str:
    """Return the name of a script.

    Example:
        >>> script_name("pixel", "abdom")
        'run_pixel_abdom.sh'
    """
    return f"run_{mode}_{anatomy}.sh"


def prediction_name(scan: Path, mode: Mode) -> str:
    """Return the name of a scan's prediction.

    Example:
        >>> prediction_name(Path("toy/toy_0.nii.gz"), "sample")
        'toy_0.nii.gz.txt'
    """
    return f"{scan.name}.txt" if mode == "sample" else scan.name


def cases_in(data: Path) -> list[Path]:
    """Return the scans that lie directly in a folder, by name; other files are not cases.

    Raises:
        CohortError: If the folder is missing or holds no scan.
    """
    try:
        names = sorted(path for path in data.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise CohortError(
            "the folder of scans cannot be listed", where=data, code="E_ACCESS", found=error.strerror
        ) from None
    cases = [path for path in names if path.name.endswith(".nii.gz")]
    if not cases:
        raise CohortError(
            "no scans found", where=data, code="E_NO_SCANS", expected="NAME.nii.gz files", remedy="check the path"
        )
    return cases

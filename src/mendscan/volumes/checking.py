"""Which of many scans can be used, and what is odd about the others: asked of all at once, before any work.

Training and detection ask it too, of the same scans in the same words.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from nibabel.orientations import aff2axcodes

from mendscan.errors import CohortError, MendscanError, one_line
from mendscan.failures import as_error
from mendscan.parallel import available_cores, each_outcome
from mendscan.progress import Progress, Silent
from mendscan.shapes import Affine
from mendscan.volumes.finding import FoundScans, look_through, same_names
from mendscan.volumes.reading import STANDARD_READER, ScanReader
from mendscan.volumes.remarks import Remark, remarks_kept
from mendscan.volumes.volume import Volume

__all__ = ["CheckReport", "CheckedScan", "check_each", "check_scans", "checked", "few_values", "in_few_lines"]

_FEW_VALUES = 16
"""A scan of so few different intensities may be a label map."""
_PLAUSIBLE_EXTENT_MM = (10.0, 3000.0)
"""Sides of a field of view; a mouse and a whole person lie within."""
_SHEAR_DEGREES = 0.5
_SCANS_PER_PROCESS = 4
"""Fewer are read sooner than another process has started."""


@dataclass(frozen=True)
class CheckedScan:
    """What a check found out about one scan.

    Attributes:
        path: As it was given, or found in the folder given.
        status: ``ok`` or ``failed``.
        code: What is wrong, such as ``E_TRUNCATED``; empty if nothing is.
        message: The same in one line.
        warnings: What is odd although the scan can be used.
        shape: Voxels along the file's own axes; None if it cannot be used, as the rest.
        spacing_mm: Voxel size along them.
        orientation: Where they lead, such as ``LAS``; ``???`` if the file does not say.
        content_hash: SHA-256 of voxels and affine, the same in any format.
    """

    path: str
    status: str
    code: str = ""
    message: str = ""
    warnings: tuple[Remark, ...] = ()
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    content_hash: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """What a check found out.

    Attributes:
        scans: Every scan, in the order of the paths given, then the paths where none is found.
        notes: What was left out of a folder, or is odd about it, with its path.
        passed_over: Files that are no scans.
    """

    scans: tuple[CheckedScan, ...]
    notes: tuple[tuple[str, str], ...]
    passed_over: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many scans cannot be used."""
        return sum(scan.status == "failed" for scan in self.scans)

    def as_json(self) -> dict[str, Any]:
        """Return the report as dictionaries and lists."""
        return {
            "format": 1,
            "usable": len(self.scans) - self.failed,
            "failed": self.failed,
            "scans": [asdict(scan) for scan in self.scans],
            "notes": [{"path": path, "message": message} for path, message in self.notes],
            "passed_over": list(self.passed_over),
        }


def check_scans(
    paths: Sequence[str | os.PathLike[str]],
    *,
    reader: ScanReader = STANDARD_READER,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Read every scan as training and detection would, and say of each whether it can be used.

    A scan fails too if another of the same folder has its case name, for both commands would refuse the folder.  Scans
    of equal content are warned of.

    Args:
        paths: Scans and folders.
        reader: What is refused.
        workers: Processes; None = one per core, 0 = none beside this one.
        progress: Told of every scan.

    Returns:
        The report; a path of which nothing can be read is a failed scan in it.
    """
    progress = progress or Silent()
    found, failed = _found(paths, progress)
    scans = list(dict.fromkeys(path for each in found for path in each.scans))
    rows = check_each([(path, None) for path in scans], reader, workers=workers, progress=progress)
    return CheckReport(
        (*_with_same_content(_with_same_names(rows, found)), *failed),
        tuple((os.fspath(folder), note) for each in found for folder, note in each.notes),
        tuple(os.fspath(path) for each in found for path in each.others),
    )


def check_each(
    scans: Sequence[tuple[Path, str | None]], reader: ScanReader, *, workers: int | None, progress: Progress
) -> list[CheckedScan]:
    """Check scans, in as many processes as are worth it.

    Args:
        scans: Where each is, and what it is called if its path must not be told.
        reader: What is refused.
        workers: The most processes; None = one per core, 0 = none beside this one.
        progress: Told of every scan.
    """
    progress.begin("check", len(scans))
    processes = min(available_cores() if workers is None else workers, len(scans) // _SCANS_PER_PROCESS)
    rows: dict[int, CheckedScan] = {}
    jobs = [(path, reader, name) for path, name in scans]
    for index, outcome in each_outcome(_check_one, jobs, workers=processes):
        path, name = scans[index]
        shown = os.fspath(path) if name is None else name
        rows[index] = _failure(shown, as_error(outcome, shown)) if isinstance(outcome, Exception) else outcome
        progress.advance()
    return [rows[index] for index in range(len(scans))]


def checked(path: Path, reader: ScanReader, *, name: str | None = None) -> tuple[CheckedScan, Volume]:
    """Read a scan; return it with what is odd about it.

    Args:
        path: The scan.
        reader: What is refused.
        name: What it is called, if its path must not be told.

    Raises:
        ScanError: If it cannot be used.
    """
    with remarks_kept() as remarks:
        volume = reader(path, name=name)
    remarks += _oddities(volume, remarks)
    native = volume.native
    unknown = any(each.code == "W_ORIENTATION" for each in remarks)
    row = CheckedScan(
        os.fspath(path) if name is None else name,
        "ok",
        warnings=tuple(remarks),
        shape=native.shape,
        spacing_mm=tuple(
            float(f"{side * native.mm_per_unit:.6g}") for side in np.linalg.norm(native.affine[:3, :3], axis=0)
        ),
        orientation="???" if unknown else "".join(code or "?" for code in aff2axcodes(native.affine)),
        content_hash=volume.content_hash,
    )
    return row, volume


def in_few_lines(rows: Sequence[CheckedScan]) -> list[str]:
    """Return what is odd about scans, a line for each code however many scans it is about.

    Example:
        >>> odd = Remark("W_UNIT", "the spatial unit is not the millimetre")
        >>> in_few_lines([CheckedScan("a.nii", "ok", warnings=(odd,)), CheckedScan("b.nii", "ok")])
        ['warning: a.nii: the spatial unit is not the millimetre (W_UNIT)']
    """
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        for each in row.warnings:
            found[each.code].append((row.path, each.message))
    lines = []
    for code, scans in sorted(found.items()):
        (first, message), more = scans[0], len(scans) - 1
        others = f", and {more} more scan{'s' * (more > 1)} likewise" if more else ""
        lines.append(f"warning: {one_line(first)}: {one_line(message)} ({code}){others}")
    return lines


def few_values(voxels_XYZ: Float[np.ndarray, "X Y Z"]) -> int | None:
    """Return the number of different intensities if it is at most 16; most scans are told by a thousand voxels."""
    flat = voxels_XYZ.ravel()
    if len(np.unique(flat[:: max(1, flat.size // 1000)])) > _FEW_VALUES:
        return None
    count = len(np.unique(flat))
    return count if count <= _FEW_VALUES else None


def _found(paths: Sequence[str | os.PathLike[str]], progress: Progress) -> tuple[list[FoundScans], list[CheckedScan]]:
    found: list[FoundScans] = []
    failed: list[CheckedScan] = []
    for path in paths:
        try:
            found.append(look_through(path, progress))
        except CohortError as error:
            failed.append(_failure(path, error))
    return found, failed


def _check_one(path: Path, reader: ScanReader, name: str | None) -> CheckedScan:
    with remarks_kept() as remarks:
        try:
            return checked(path, reader, name=name)[0]
        except MendscanError as error:
            return _failure(name or path, error, remarks)


def _failure(path: str | os.PathLike[str], error: MendscanError, remarks: Sequence[Remark] = ()) -> CheckedScan:
    return CheckedScan(os.fspath(path), "failed", error.code, str(error), tuple(remarks))


def _oddities(volume: Volume, known: Sequence[Remark]) -> list[Remark]:
    """Return what a reader need not care about, but the user may."""
    found = []
    low, high = _PLAUSIBLE_EXTENT_MM
    if not all(low <= side <= high for side in volume.extent_mm):
        sides = " x ".join(f"{side:.3g}" for side in volume.extent_mm)
        found.append(Remark("W_EXTENT", f"the field of view is {sides} mm; is the voxel size right?"))
    degrees = _shear_degrees(volume.affine)
    if degrees > _SHEAR_DEGREES and not any(each.code == "W_SHEAR" for each in known):
        message = f"the axes are sheared by {degrees:.1f} degrees; some programs cannot show a sheared map"
        found.append(Remark("W_SHEAR", message))
    values = few_values(volume.voxels_XYZ)
    if values is not None:
        found.append(Remark("W_LABELS", f"only {values} different values: a label map or a mask?"))
    return found


def _shear_degrees(affine: Affine) -> float:
    """Return by how much the angle between two axes differs most from a right one."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes)[np.triu_indices(3, 1)]
    return math.degrees(math.asin(min(1.0, float(cosines.max()))))


def _with_same_names(rows: Sequence[CheckedScan], found: Sequence[FoundScans]) -> list[CheckedScan]:
    others: dict[str, list[str]] = {}
    for each in found:
        for paths in same_names(each.scans):
            texts = list(map(os.fspath, paths))
            others |= {text: [other for other in texts if other != text] for text in texts}
    return [_name_taken(row, others[row.path]) if row.path in others and not row.code else row for row in rows]


def _name_taken(row: CheckedScan, others: Sequence[str]) -> CheckedScan:
    error = CohortError(
        "another scan has the same case name",
        where=row.path,
        code="E_DUPLICATE_NAME",
        found=" and ".join(others),
        expected="one file per name",
        remedy="rename them or run them apart",
    )
    return replace(row, status="failed", code=error.code, message=str(error))


def _with_same_content(rows: Sequence[CheckedScan]) -> list[CheckedScan]:
    same: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.content_hash:
            same[row.content_hash].append(row.path)
    return [_content_repeated(row, same.get(row.content_hash or "", [])) for row in rows]


def _content_repeated(row: CheckedScan, same: Sequence[str]) -> CheckedScan:
    if len(same) < 2:
        return row
    first = next(path for path in same if path != row.path)
    more = f" and {len(same) - 2} more" if len(same) > 2 else ""
    repeated = Remark("W_SAME_CONTENT", f"the same voxels at the same place as {first}{more}")
    return replace(row, warnings=(*row.warnings, repeated))

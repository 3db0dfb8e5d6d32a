"""Is a prediction what the challenge asks for?  One file at a time, all problems at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mendscan.errors import GeometryError, ScanError
from mendscan.submission.challenge import Mode
from mendscan.volumes.chunks import open_voxels

__all__ = ["Inspected", "inspect_prediction"]

_CHUNK_VOXELS = 1 << 20
_HALF_VALUES = 1 << 16
_LONGEST_TEXT = 200


@dataclass
class Inspected:
    """What is known of one prediction.

    Attributes:
        problems: What is wrong with it; empty = nothing.
        remarks: What is allowed and worth knowing.
        highest: Its largest value.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    highest: float = math.nan


def inspect_prediction(prediction: Path, scan: Path, mode: Mode) -> Inspected:
    """Check a prediction: its shape, type, place, range and number of values.

    Args:
        prediction: The file.
        scan: The scan that it belongs to.
        mode: ``sample`` or ``pixel``.
    """
    found = Inspected()
    if prediction.is_symlink() or not prediction.is_file():
        found.problems.append("the prediction is missing" if not prediction.exists() else "not a regular file")
    elif mode == "sample":
        _inspect_number(prediction, found)
    else:
        _inspect_map(prediction, scan, found)
    return found


def _inspect_number(prediction: Path, found: Inspected) -> None:
    try:
        text = prediction.read_text(encoding="ascii")
        words = text.split()
        value = float(words[0]) if len(words) == 1 else math.nan
    except (OSError, ValueError):
        found.problems.append("the file holds no number")
        return
    if len(words) != 1:
        shown = " ".join(words)[:_LONGEST_TEXT]
        found.problems.append(f"{len(words)} values instead of one number ({shown})")
        return
    found.highest = value
    _check_range(value, value, not math.isfinite(value), found)
    if value == 1.0:
        found.remarks.append("the score is 1: higher ones would be tied with it")
    if value == 0.0:
        found.remarks.append("the score is 0, as where a scan cannot be worked on")


def _inspect_map(prediction: Path, scan: Path, found: Inspected) -> None:
    shape: tuple[int, ...] | None = None
    affine: np.ndarray | None = None
    try:
        with open_voxels(scan) as stream:
            shape, affine = stream.stored_shape, stream.affine
    except ScanError as error:
        found.remarks.append(f"the scan itself cannot be compared with: {error.problem}")
    try:
        with open_voxels(prediction) as stream:
            if shape is not None and stream.stored_shape != shape:
                found.problems.append(f"shape {_times(stream.stored_shape)} instead of {_times(shape)}")
            if stream.dtype.kind != "f":
                found.problems.append(f"voxels are {stream.dtype.name}, not floating point: ranks are lost")
            if affine is not None and not _same_place(stream.affine, affine):
                found.problems.append("the affine is not the scan's")
            _inspect_values([_counted(chunk) for chunk in stream.chunks(_CHUNK_VOXELS)], found)
    except GeometryError as error:
        found.problems.append(f"its place makes no sense: {error.problem}")
    except ScanError as error:
        found.problems.append(f"the prediction cannot be read: {error.problem}")


def _same_place(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-3))


def _counted(chunk: np.ndarray) -> tuple[float, float, int, np.ndarray]:
    """Return lowest, highest, how many are not finite, and how often each float16 value occurs."""
    finite = chunk[np.isfinite(chunk)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.inf, -math.inf)
    patterns = np.clip(finite, 0, 1).astype(np.float16).view(np.uint16)
    return low, high, chunk.size - finite.size, np.bincount(patterns, minlength=_HALF_VALUES)


def _inspect_values(parts: list[tuple[float, float, int, np.ndarray]], found: Inspected) -> None:
    low, high = min(part[0] for part in parts), max(part[1] for part in parts)
    found.highest = high
    _check_range(low, high, sum(part[2] for part in parts), found)
    counts = np.sum([part[3] for part in parts], axis=0)
    tied = int(counts[np.float16(1).view(np.uint16)])
    if tied:
        found.remarks.append(f"{tied} voxels are 1 as float16 and cannot be told apart")
    if high == 0:
        found.remarks.append("the map is 0 everywhere, as where a scan cannot be worked on")
    else:
        found.remarks.append(f"{int(np.count_nonzero(counts))} different values as float16")


def _check_range(low: float, high: float, not_finite: int, found: Inspected) -> None:
    if not_finite:
        found.problems.append(f"{not_finite} values are NaN or infinite" if not_finite > 1 else "NaN or infinite")
    if low < 0 or high > 1:
        found.problems.append(f"values from {low:.6g} to {high:.6g} instead of 0 to 1")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))

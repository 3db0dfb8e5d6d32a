"""What the page is told: a results folder as values for JSON, scans addressed by number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mendscan.errors import MendscanError, ScanError
from mendscan.results import Details, Finding, ResultCase, Results
from mendscan.results.planes import PLANES
from mendscan.volumes.chunks import VoxelStream, open_voxels
from mendscan.volumes.reading import DEFAULT_MAX_BYTES
from mendscan.volumes.volume import NativeGeometry

__all__ = ["KINDS", "case_page", "overview", "volume_file"]

KINDS = ("scan", "map", "restored")
"""The volumes of a scan that can be asked for."""
_WHAT = {"scan": "the scan", "map": "the anomaly map", "restored": "the restoration"}
_RUN = (
    "notice",
    "mendscan",
    "model",
    "map_threshold",
    "false_positive_rate",
    "score_threshold",
    "calibration_scans",
    "smallest_p_value",
    "restorations",
    "scores",
    "maps",
)
_SAME_GRID_MM = 1e-3


def overview(results: Results) -> dict[str, Any]:
    """Return what the list of scans shows, in the order of `Results.cases`."""
    return {
        "run": {key: _plain(results.run.get(key)) for key in _RUN},
        "cases": [_listed(case, number) for number, case in enumerate(results.cases)],
    }


def case_page(results: Results, number: int) -> dict[str, Any]:
    """Return all about one scan but its voxels; what cannot be read is told in `problems`, in words.

    Args:
        results: The results.
        number: Place of the scan in `Results.cases`.
    """
    case, problems = results.cases[number], []
    try:
        details = case.details()
    except MendscanError as error:
        details = None
        problems.append(str(error.at("the details of this scan")))
    shown, geometry = _volumes(results.folder, case, problems)
    return {
        **_listed(case, number),
        "parts": {
            name: {"value": _number(case, name), "p_value": _number(case, f"{name}_p_value")}
            for name in ("local", "acquisition")
        },
        "strangest": case.row["strangest"],
        "paper_score": _number(case, "paper_score"),
        "map_max": _number(case, "map_max"),
        "listed": [_finding(finding) for finding in case.findings],
        "problems": problems,
        "volumes": shown,
        "geometry": None if geometry is None else _geometry(geometry),
        "profile": None if details is None or geometry is None else _profile(details, geometry),
        "statistics": [] if details is None else _statistics(details.statistics),
    }


def volume_file(folder: Path, case: ResultCase, kind: str) -> Path | None:
    """Return the file of a scan's volume; None if there is none, or if it lies outside of the results folder.

    Args:
        folder: The results folder.
        case: One of its scans.
        kind: One of `KINDS`.
    """
    path = {"scan": case.scan_path, "map": case.map_path, "restored": case.restored_path}[kind]
    try:
        resolved = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # ValueError: a name with a zero byte; RuntimeError: links in a circle
        return None
    return resolved if resolved.is_relative_to(folder.resolve()) and resolved.is_file() else None


def _listed(case: ResultCase, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "name": case.name,
        "failed": case.failed,
        "score": _finite(case.score),
        "p_value": _finite(case.p_value),
        "flagged": case.flagged,
        "part": case.row["part"],
        "findings": len(case.findings),
        "warnings": [text for text in case.row["warnings"].split("; ") if text],
        "code": case.row["code"],
        "message": case.row["message"],
    }


def _volumes(
    folder: Path, case: ResultCase, problems: list[str]
) -> tuple[dict[str, dict[str, Any]], NativeGeometry | None]:
    shown: dict[str, dict[str, Any]] = {}
    geometry: NativeGeometry | None = None
    for kind in KINDS if not case.failed else ():
        path = volume_file(folder, case, kind)
        if path is None or (kind != "scan" and geometry is None):
            continue
        try:
            with open_voxels(path, max_bytes=DEFAULT_MAX_BYTES, where=_WHAT[kind]) as stream:
                _check_overlay(stream, geometry, kind)
                geometry = geometry or stream.native
                shown[kind] = _stored(stream, path)
        except ScanError as error:
            problems.append(str(error))
    if not case.failed and not problems:
        problems += _missing(folder, case)
    return shown, geometry


def _check_overlay(stream: VoxelStream, scan: NativeGeometry | None, kind: str) -> None:
    if scan is None:
        return
    same = stream.shape == scan.shape and np.allclose(stream.native.affine, scan.affine, atol=_SAME_GRID_MM)
    if not same:
        raise ScanError("it does not overlay the scan", where=_WHAT[kind], code="E_GRID")


def _missing(folder: Path, case: ResultCase) -> list[str]:
    missing = [_WHAT[kind] for kind in KINDS if volume_file(folder, case, kind) is None]
    if not missing:
        return []
    return [
        f"the results folder does not hold {' or '.join(missing)}: mendscan detect --no-maps, an earlier version or a "
        "copy of a part wrote it; run mendscan detect again to see them"
    ]


def _stored(stream: VoxelStream, path: Path) -> dict[str, Any]:
    return {
        "type": stream.dtype.newbyteorder("=").str[1:],
        "big_endian": stream.dtype.newbyteorder("<") != stream.dtype and stream.dtype.itemsize > 1,
        "slope": stream.slope,
        "intercept": stream.intercept,
        "bytes": path.stat().st_size,
    }


def _geometry(native: NativeGeometry) -> dict[str, Any]:
    """Voxel grid of the file: shape, affine to mm in RAS+, and the RAS+ axis and direction of each of its axes."""
    affine = np.diag([native.mm_per_unit] * 3 + [1.0]) @ native.affine
    return {
        "shape": list(native.shape),
        "affine": affine.tolist(),
        "orientation": [[int(axis), int(direction)] for axis, direction in native.orientation],
        "known": bool(native.sform_code or native.qform_code),
    }


def _profile(details: Details, native: NativeGeometry) -> dict[str, Any]:
    """Score of every scored slice, at its voxel along the RAS+ axis that slices cut."""
    axis = "XYZ".index(details.slice_axis)
    native_axis = [ras_axis for ras_axis, _ in native.orientation].index(axis)
    order = np.argsort(details.positions, kind="stable")
    return {
        "axis": axis,
        "plane": PLANES[details.slice_axis][0],
        "length": native.shape[native_axis],
        "positions": [_finite(value) for value in details.positions[order]],
        "scores": [_finite(value) for value in details.slice_scores[order]],
    }


def _statistics(values: Mapping[str, float]) -> list[dict[str, Any]]:
    ordered = sorted(values.items(), key=lambda item: -abs(item[1]) if math.isfinite(item[1]) else math.inf)
    return [{"name": name, "value": _finite(value)} for name, value in ordered]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "volume_mm3": _finite(finding.volume_mm3),
        "voxels": finding.voxels,
        "peak": _finite(finding.peak),
        "mean": _finite(finding.mean),
        "expected_false": _finite(finding.expected_false),
        "centre_mm": [_finite(value) for value in finding.centre_mm],
    }


def _number(case: ResultCase, column: str) -> float | None:
    return _finite(case.number(column))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> str | int | float | None:
    return _finite(value) if isinstance(value, float) else value if isinstance(value, str | int | None) else None

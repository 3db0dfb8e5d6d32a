"""A baseline over a folder of scans, into the same results folder that the model's own detection writes."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mendscan
from mendscan.baselines.calibrating import MAP_THRESHOLD, Calibrated
from mendscan.cohort.preparing import prepare
from mendscan.detection.batch import BatchSummary
from mendscan.errors import MendscanError
from mendscan.parallel import each_in_processes
from mendscan.progress import Progress, Silent
from mendscan.results import forget_case, write_results
from mendscan.volumes.finding import find_scans
from mendscan.volumes.maps import write_map
from mendscan.volumes.reading import case_name, read_volume
from mendscan.volumes.writing import make_folder

__all__ = ["detect_with"]


def detect_with(
    baseline: Calibrated,
    scans: str | Path,
    results: str | Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> BatchSummary:
    """Score and map every scan of a folder with a baseline.

    ``results.json`` is written last: where it is, the folder is complete.  Findings and restorations are left out.

    Args:
        baseline: Fitted and calibrated.
        scans: A scan, or a folder of scans at any depth.
        results: The results folder; files of the same cases in it are replaced.
        workers: Processes; None = one per core on the CPU, none beside an accelerator; 0 = none.
        progress: Told how far the work is.

    Returns:
        The rows of ``scores.csv``, and how many scans failed; these have no score.

    Raises:
        CohortError: If there is no scan.
        WriteError: If the results cannot be written.
    """
    progress, folder, paths = progress or Silent(), Path(results), find_scans(scans)
    make_folder(folder / "maps")
    (folder / "results.json").unlink(missing_ok=True)
    progress.begin(f"detect with {baseline.baseline.name}", len(paths))
    outcomes = each_in_processes(
        _detect_one,
        [(path, folder) for path in paths],
        expected=MendscanError,
        initializer=_take_baseline,
        initargs=(baseline,),
        workers=workers if baseline.baseline.device.type == "cpu" else 0,
    )
    rows = []
    for index, outcome in outcomes:
        rows.append(_failed_row(paths[index], outcome) if isinstance(outcome, MendscanError) else outcome)
        progress.advance()
    _BASELINE.clear()
    write_results(folder, rows, [], _run_facts(baseline))
    failed = sum(row["status"] == "failed" for row in rows)
    return BatchSummary(tuple(sorted(rows, key=lambda row: str(row["case"]))), failed)


_BASELINE: list[Calibrated] = []
"""The baseline of this process, set once."""


def _take_baseline(baseline: Calibrated) -> None:
    _BASELINE[:] = [baseline]


def _detect_one(path: Path, folder: Path) -> dict[str, Any]:
    forget_case(folder, case_name(path))
    baseline, started = _BASELINE[0], time.perf_counter()
    volume = read_volume(path)
    prepared = prepare(volume, baseline.settings.preparation)
    scored = baseline.scored(prepared)
    map_XYZ = np.clip(prepared.to_scan(scored.map_SHW), 0, 1)
    write_map(folder / "maps" / f"{volume.name}.nii.gz", map_XYZ, volume)
    return {
        "case": volume.name,
        "status": "ok",
        "score": round(scored.score, 6),
        "p_value": round(baseline.p_value(scored.score), 6),
        "map_max": round(float(map_XYZ.max()), 6),
        "seconds": round(time.perf_counter() - started, 2),
    }


def _failed_row(path: Path, error: MendscanError) -> dict[str, Any]:
    return {"case": case_name(path), "status": "failed", "code": error.code, "message": str(error.at(path.name))}


def _run_facts(baseline: Calibrated) -> dict[str, Any]:
    return {
        "format": 1,
        "mendscan": mendscan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "method": baseline.baseline.name,
        "seed": baseline.settings.seed,
        "steps": baseline.baseline.steps,
        "map_threshold": MAP_THRESHOLD,
        "calibration_scans": len(baseline.healthy_scores),
        "settings": baseline.settings.model_dump(mode="json"),
        "notice": "Research use only; not a medical device. Higher = less like the healthy training scans.",
    }

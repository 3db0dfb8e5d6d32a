"""A baseline over a folder of scans, into the same results folder that the model's own detection writes."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mendscan
from mendscan.baselines.calibrating import MAP_THRESHOLD, Calibrated
from mendscan.cohort.preparing import prepare
from mendscan.detection.batch_work import BatchSummary, held_results, summary_of, take_outcomes
from mendscan.detection.case_work import Case, CaseDone
from mendscan.detection.conformal import flagged, smallest_p_value
from mendscan.detection.stopping import stopped_in_good_order
from mendscan.errors import WriteError
from mendscan.failures import told_apart
from mendscan.parallel import each_outcome
from mendscan.progress import Progress, Silent
from mendscan.results import forget_case
from mendscan.results.layout import MAPS, MODEL_CARD, SUBFOLDERS, remove
from mendscan.results.records import CaseRecord, digest_of, read_record, scan_digest, write_record
from mendscan.results.tables import Tables
from mendscan.volumes.apart import keep_apart
from mendscan.volumes.finding import find_scans
from mendscan.volumes.maps import write_map
from mendscan.volumes.reading import case_name, read_volume
from mendscan.volumes.writing import make_folder

__all__ = ["detect_with"]

_FALSE_POSITIVE_RATE = 0.05
"""As in `detect_folder`, by default."""


def detect_with(
    baseline: Calibrated,
    scans: str | Path,
    results: str | Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> BatchSummary:
    """Score and map every scan of a folder with a baseline; findings and restorations are left out.

    Whatever happens to one scan, or to the process that works on it, costs that scan only.  When the batch is stopped,
    whole results of the scans done are there, and nothing of an earlier run.

    Args:
        baseline: Fitted and calibrated.
        scans: A scan, or a folder of scans at any depth.
        results: The results folder; results of the same cases in it are replaced.
        workers: Processes; None = one per core on the CPU, none beside an accelerator; 0 = none.
        progress: Told of every scan.

    Returns:
        The rows of ``scores.csv``, and how many scans failed; these have no score.

    Raises:
        CohortError: If there is no scan, or two have the same name.
        SettingsError: If the results would lie among the scans (E_OUTPUT_AMONG_INPUTS).
        WriteError: If the results cannot be written, or another run is at work in the folder (E_LOCKED).
        Interrupted: If SIGINT, SIGTERM, SIGHUP or SIGUSR1 came; the tables have all scans done.
    """
    progress, folder = progress or Silent(), Path(results)
    keep_apart(scans, folder, subfolders=SUBFOLDERS)
    with stopped_in_good_order("detect again"):
        cases = [Case(path, case_name(path), None) for path in find_scans(scans, progress)]
        run = _run_facts(baseline)
        request = digest_of([run, baseline.scale, baseline.healthy_scores])
        with held_results(folder):
            tables = _emptied(folder, cases, run)
            outcomes = each_outcome(
                _detect_one,
                [(case, folder, request) for case in cases],
                initializer=_take_baseline,
                initargs=(baseline,),
                workers=workers if baseline.baseline.device.type == "cpu" else 0,
            )
            progress.begin(f"detect with {baseline.baseline.name}", len(cases))
            try:
                take_outcomes(cases, outcomes, tables, progress, partial(_take, tables))
            finally:
                _BASELINE.clear()
    return summary_of(tables)


def _emptied(folder: Path, cases: Sequence[Case], run: dict[str, Any]) -> Tables:
    """Return tables without rows, which are written: with results of an earlier run, these cases would be mixed."""
    for case in cases:
        forget_case(folder, case.name)
    remove(folder / MODEL_CARD)
    tables = Tables(folder, run, partial(_records, folder, cases))
    tables.write()
    return tables


def _records(folder: Path, cases: Sequence[Case]) -> list[CaseRecord]:
    return [record for case in cases if (record := read_record(folder, case.name)) is not None]


def _take(tables: Tables, case: Case, done: CaseDone) -> None:
    tables.add(done.record.row, done.record.findings, seconds=done.seconds)


_BASELINE: list[Calibrated] = []
"""The baseline of this process, set once."""


def _take_baseline(baseline: Calibrated) -> None:
    _BASELINE[:] = [baseline]


def _detect_one(case: Case, folder: Path, request: str) -> CaseDone:
    baseline, started = _BASELINE[0], time.perf_counter()
    volume = read_volume(case.path)
    prepared = prepare(volume, baseline.settings.preparation)
    scored = baseline.scored(prepared)
    map_XYZ = np.clip(prepared.to_scan(scored.map_SHW), 0, 1)
    try:
        write_map(make_folder(folder / MAPS) / f"{case.name}.nii.gz", map_XYZ, volume)
    except WriteError as error:
        raise told_apart(error) from error.__cause__
    p_value = baseline.p_value(scored.score)
    row = {
        "case": case.name,
        "status": "ok",
        "score": round(scored.score, 6),
        "p_value": round(p_value, 6),
        "flagged": flagged(p_value, len(baseline.healthy_scores), false_positive_rate=_FALSE_POSITIVE_RATE),
        "map_max": round(float(map_XYZ.max()), 6),
    }
    seconds = time.perf_counter() - started
    record = write_record(folder, case.name, request=request, scan=scan_digest(volume), row=row, findings=[])
    return CaseDone(record, seconds)


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
        "false_positive_rate": _FALSE_POSITIVE_RATE,
        "smallest_p_value": smallest_p_value(len(baseline.healthy_scores)),
        "calibration_scans": len(baseline.healthy_scores),
        "settings": baseline.settings.model_dump(mode="json"),
        "notice": "Research use only; not a medical device. Higher = less like the healthy training scans.",
    }

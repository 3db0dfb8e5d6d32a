"""Detection over a folder of scans: one process per core, and a bad scan fails alone."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import mendscan
from mendscan.detection.calibration import Calibration, Scores
from mendscan.detection.conformal import counted_at_most, smallest_p_value
from mendscan.detection.detector import Detector
from mendscan.detection.devices import choose_device
from mendscan.detection.networks import Precision
from mendscan.detection.restoration import Schedule
from mendscan.errors import MendscanError, SettingsError
from mendscan.parallel import available_cores, each_in_processes
from mendscan.progress import Progress, Silent
from mendscan.results import Detection, forget_case, write_results
from mendscan.results.layout import MODEL_CARD
from mendscan.volumes.pseudonyms import pseudonymised_scans, read_or_make_key
from mendscan.volumes.reading import case_name, find_scans, read_volume
from mendscan.volumes.writing import make_folder, write_text

__all__ = ["BatchSummary", "detect_folder", "one_after_the_other"]

AfterSave = Callable[[Detection, Path], None]


@dataclass(frozen=True)
class BatchSummary:
    """How a batch went.

    Attributes:
        rows: Rows of ``scores.csv``.
        failed: How many scans failed.
    """

    rows: tuple[dict[str, Any], ...]
    failed: int


@dataclass(frozen=True)
class _Case:
    path: Path
    name: str
    pseudonym: str | None


@dataclass(frozen=True)
class _Options:
    restorations: int | None
    seed: int
    maps: bool
    schedule: Schedule
    precision: Precision
    false_positive_rate: float
    false_positives_per_scan: float | None
    scores: Scores
    strict: bool


def detect_folder(
    model: str | Path,
    scans: str | Path,
    results: str | Path,
    *,
    restorations: int | None = None,
    seed: int = 0,
    device: str = "auto",
    maps: bool = True,
    schedule: Schedule = "incremental",
    precision: Precision = "exact",
    false_positive_rate: float = 0.05,
    false_positives_per_scan: float | None = None,
    scores: Scores = "auto",
    strict: bool = False,
    workers: int | None = None,
    pseudonymise: str | Path | None = None,
    after_save: AfterSave | None = None,
    progress: Progress | None = None,
) -> BatchSummary:
    """Detect in every scan of a folder and write a results folder.

    A scan's result depends on the scan, the model and the seed; not on the other scans, their order or `workers`.

    Args:
        model: A model folder.
        scans: A scan, or a folder of scans at any depth, in any format that `read_volume` knows.
        results: The results folder; files of the same cases in it are replaced.
        restorations: R; None for the model's setting.
        seed: Seed of the restorations.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        maps: Whether to restore and map, or only to score.
        schedule: How restored codes are computed; all give the same, the others far more slowly.
        precision: ``fast`` restores in bfloat16 where the processor has it: same scores, slightly other maps.
        false_positive_rate: Scans are flagged so that at most this share of healthy scans is.  Where there are too few
            calibration scans for it none is flagged or cleared, and `progress` is told.
        false_positives_per_scan: Keep only findings so strong that a healthy scan has at most this many, on average;
            None keeps all.
        scores: ``auto``: score and map as the model's settings have them; ``paper``: the paper's.
        strict: Refuse scans that do not look like the training scans; they are scored, with a warning, otherwise.
        workers: Cores to use; None = all on the CPU, and no process beside an accelerator.  Scans are shared out to
            processes, the slices of each scan to the cores that are left.
        pseudonymise: A file with a key, made if there is none: cases are named by a keyed hash, and no result, log line
            or error holds the name of a scan's file or folder.  None names them by their files.
        after_save: Called, in the worker, with each detection and the results folder.
        progress: Told of every scan.

    Raises:
        CohortError: If there is no scan, or two have the same name.
        ModelError: If the model cannot be used, or does not know the findings of healthy scans.
        SettingsError: If a wanted number is out of range, or `false_positives_per_scan` too small for the model.
    """
    progress = progress or Silent()
    folder = Path(results)
    cases = _named_cases(scans, folder, pseudonymise, progress)
    processes, threads = _share_cores(len(cases), workers, on_cpu=choose_device(device).type == "cpu")
    detector = Detector.load(model, device=device, workers=threads)
    options = _Options(
        restorations, seed, maps, schedule, precision, false_positive_rate, false_positives_per_scan, scores, strict
    )
    run = _run_facts(detector, options) | _healthy_thresholds(detector.calibration, options, progress)
    write_text(make_folder(folder) / MODEL_CARD, detector.card)
    score_rows: list[dict[str, Any]] = []
    finding_rows: list[dict[str, Any]] = []
    progress.begin("detect", len(cases))
    _DETECTOR[:] = [detector]
    outcomes = each_in_processes(
        _detect_one,
        [(case, folder, options, after_save) for case in cases],
        expected=MendscanError,
        initializer=_load_detector if processes else None,
        initargs=(str(model), device, threads) if processes else (),
        workers=processes,
    )
    for index, outcome in outcomes:
        if isinstance(outcome, MendscanError):
            progress.say(f"failed: {outcome}")
            score_rows.append(_failed_row(cases[index], outcome))
        else:
            score_rows.append(outcome[0])
            finding_rows += outcome[1]
            if outcome[0]["warnings"]:
                progress.say(f"{outcome[0]['case']}: {outcome[0]['warnings']}")
        write_results(folder, score_rows, finding_rows, run)
        progress.advance()
    _DETECTOR.clear()
    failed = sum(row["status"] == "failed" for row in score_rows)
    return BatchSummary(tuple(sorted(score_rows, key=lambda row: str(row["case"]))), failed)


def one_after_the_other(*steps: AfterSave) -> AfterSave:
    """Return the steps as one, for `after_save`; processes can be sent it if they can be sent each of the steps."""
    return partial(_take, steps)


def _take(steps: Sequence[AfterSave], detection: Detection, folder: Path) -> None:
    for step in steps:
        step(detection, folder)


_DETECTOR: list[Detector] = []
"""The detector of this process, loaded once."""


def _share_cores(scans: int, workers: int | None, *, on_cpu: bool) -> tuple[int, int]:
    """Return how many processes, 0 for none beside this one, and how many threads in each."""
    if not on_cpu:
        return workers or 0, 1
    cores = available_cores() if workers is None else max(1, workers)
    processes = 0 if scans == 1 or workers == 0 else min(cores, scans)
    return processes, cores // max(1, processes)


def _load_detector(model: str, device: str, threads: int) -> None:
    _DETECTOR[:] = [Detector.load(model, device=device, workers=threads)]


def _named_cases(scans: str | Path, folder: Path, key_file: str | Path | None, progress: Progress) -> list[_Case]:
    if key_file is None:
        return [_Case(path, case_name(path), None) for path in find_scans(scans, progress)]
    if Path(key_file).resolve().is_relative_to(folder.resolve()):
        raise SettingsError(
            "the key would lie among the results", where="--pseudonymise", code="E_KEY", remedy="keep it elsewhere"
        )
    key = read_or_make_key(key_file, progress=progress)
    return [_Case(path, name, name) for name, path in pseudonymised_scans(scans, key, progress).items()]


def _detect_one(
    case: _Case, folder: Path, options: _Options, after_save: AfterSave | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    forget_case(folder, case.name)
    detection = _DETECTOR[0].detect(
        read_volume(case.path, name=case.pseudonym),
        restorations=options.restorations,
        seed=options.seed,
        maps=options.maps,
        schedule=options.schedule,
        precision=options.precision,
        false_positives_per_scan=options.false_positives_per_scan,
        scores=options.scores,
        strict=options.strict,
    )
    detection.save(folder)
    if after_save is not None:
        try:
            after_save(detection, folder)
        except MendscanError:
            forget_case(folder, detection.case)  # a failed scan has no results
            raise
    row = detection.score_row() | {"flagged": _flagged(detection.p_value, _DETECTOR[0].calibration, options)}
    return row, detection.finding_rows()


def _flagged(p_value: float, calibration: Calibration, options: _Options) -> int | None:
    """Return 1 or 0; None where no p-value can be small enough."""
    if smallest_p_value(len(calibration.healthy_scores)) > options.false_positive_rate:
        return None
    return int(p_value <= options.false_positive_rate)


def _failed_row(case: _Case, error: MendscanError) -> dict[str, Any]:
    message = str(error.at(case.pseudonym or case.path.name))
    return {"case": case.name, "status": "failed", "code": error.code, "message": message}


def _healthy_thresholds(calibration: Calibration, options: _Options, progress: Progress) -> dict[str, Any]:
    """Return what the wanted rates mean in scores and peaks; one rate that cannot be kept is said and left empty."""
    rate, count, scans = options.false_positive_rate, options.false_positives_per_scan, len(calibration.healthy_scores)
    score_threshold = finding_threshold = None
    try:
        score_threshold = calibration.score_threshold(false_positive_rate=rate, scores=options.scores)
    except SettingsError as error:
        if error.code != "E_TOO_FEW_SCANS":
            raise
        uncalibrated = "the model is not calibrated: every p-value is 1, and no scan is flagged"
        progress.say(f"no scan is flagged: {error}" if scans else uncalibrated)
    if count is not None:
        finding_threshold = calibration.finding_threshold(false_positives_per_scan=count)
    return {
        "false_positive_rate": rate,
        "score_threshold": score_threshold,
        "smallest_p_value": smallest_p_value(scans),
        "false_positives_per_scan": count,
        "findings_counted_per_scan": None if count is None else counted_at_most(scans, false_positives_per_scan=count),
        "finding_threshold": finding_threshold,
    }


def _run_facts(detector: Detector, options: _Options) -> dict[str, Any]:
    settings = detector.settings.detection
    return {
        "format": 1,
        "mendscan": mendscan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": detector.model_hash,
        "seed": options.seed,
        "restorations": options.restorations or settings.restorations,
        "maps": options.maps,
        "schedule": options.schedule,
        "precision": options.precision,
        "scores": options.scores,
        "map_threshold": detector.calibration.map_threshold(options.scores),
        "calibration_scans": len(detector.calibration.healthy_scores),
        "healthy_scores": [round(score, 6) for score in detector.calibration.healthy(options.scores)],
        "settings": settings.model_dump(mode="json"),
        "notice": "Research use only; not a medical device. Higher = less likely under the healthy training scans.",
    }

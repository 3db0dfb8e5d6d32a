"""What a batch is asked for, and what ``results.json`` says of it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch

import mendscan
from mendscan.detection.calibration import Scores
from mendscan.detection.conformal import counted_at_most, smallest_p_value
from mendscan.detection.detector import Detector
from mendscan.detection.networks import Precision
from mendscan.detection.restoration import Schedule
from mendscan.errors import SettingsError
from mendscan.progress import Progress

__all__ = ["Options", "facts_of_run"]


@dataclass(frozen=True)
class Options:
    """What is wanted of every scan; see `detect_folder`."""

    restorations: int | None
    seed: int
    maps: bool
    schedule: Schedule
    precision: Precision
    false_positive_rate: float
    false_positives_per_scan: float | None
    scores: Scores
    strict: bool


def facts_of_run(detector: Detector, options: Options, progress: Progress) -> dict[str, Any]:
    """Return what ``results.json`` holds; a wanted rate that cannot be kept is said and left empty.

    Raises:
        SettingsError: If a wanted number is out of range, or options contradict each other.
        ModelError: If the model does not know the findings of healthy scans, and a number of them is wanted.
    """
    if (options.schedule, options.precision) != ("incremental", "exact") and not detector.restorations_drawn(
        options.restorations, options.scores
    ):
        progress.say("schedule and precision have no effect: the model restores softly; --restorations draws samples")
    return _run_facts(detector, options) | _healthy_thresholds(detector, options, progress)


def _healthy_thresholds(detector: Detector, options: Options, progress: Progress) -> dict[str, Any]:
    """Return what the wanted rates mean in scores and peaks; one rate that cannot be kept is said and left empty."""
    calibration = detector.calibration
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
        finding_threshold = detector.finding_threshold(count, options.scores)
    return {
        "false_positive_rate": rate,
        "score_threshold": score_threshold,
        "smallest_p_value": smallest_p_value(scans),
        "false_positives_per_scan": count,
        "findings_counted_per_scan": None if count is None else counted_at_most(scans, false_positives_per_scan=count),
        "finding_threshold": finding_threshold,
    }


def _run_facts(detector: Detector, options: Options) -> dict[str, Any]:
    settings = detector.settings.detection
    return {
        "format": 1,
        "mendscan": mendscan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": detector.model_hash,
        "seed": options.seed,
        "restorations": detector.restorations_drawn(options.restorations, options.scores),
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

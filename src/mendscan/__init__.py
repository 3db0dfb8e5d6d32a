"""mendscan finds what does not belong in a medical scan, having seen only healthy ones.

Example::

    import mendscan

    mendscan.train("healthy_scans", "model", minutes=30)
    detector = mendscan.Detector.load("model")
    detection = detector.detect("scan.nii.gz")
    print(detection.score, detection.p_value, detection.anomaly_map.max())
    detection.save("results")

Research use only; not a medical device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mendscan.detection.batch import detect_folder
    from mendscan.detection.detector import Detector
    from mendscan.detection.sampling import Samples, sample
    from mendscan.errors import MendscanError
    from mendscan.evaluation.folders import evaluate_folder
    from mendscan.evaluation.histograms import ScoreHistogram
    from mendscan.report.report import write_report
    from mendscan.report.showing import show
    from mendscan.results import Detection, Finding
    from mendscan.training.trainer import TrainingSummary, train
    from mendscan.volumes.reading import read_volume
    from mendscan.volumes.volume import Volume, volume_from_array

__version__ = "0.1.0"

__all__ = [
    "Detection",
    "Detector",
    "Finding",
    "MendscanError",
    "Samples",
    "ScoreHistogram",
    "TrainingSummary",
    "Volume",
    "__version__",
    "detect_folder",
    "evaluate_folder",
    "read_volume",
    "sample",
    "show",
    "train",
    "volume_from_array",
    "write_report",
]

_HOMES = {
    "Detection": "mendscan.results",
    "Detector": "mendscan.detection.detector",
    "Finding": "mendscan.results",
    "MendscanError": "mendscan.errors",
    "Samples": "mendscan.detection.sampling",
    "ScoreHistogram": "mendscan.evaluation.histograms",
    "TrainingSummary": "mendscan.training.trainer",
    "Volume": "mendscan.volumes.volume",
    "detect_folder": "mendscan.detection.batch",
    "evaluate_folder": "mendscan.evaluation.folders",
    "read_volume": "mendscan.volumes.reading",
    "sample": "mendscan.detection.sampling",
    "show": "mendscan.report.showing",
    "train": "mendscan.training.trainer",
    "volume_from_array": "mendscan.volumes.volume",
    "write_report": "mendscan.report.report",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing mendscan does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mendscan' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

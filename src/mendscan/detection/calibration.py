"""Everything that decides, learnt from held-out healthy scans and saved with the model (no anomaly is ever seen)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from mendscan.config import DetectionSettings
from mendscan.detection.conformal import (
    conformal_p_value,
    expected_false_findings,
    finding_threshold,
    score_threshold,
)
from mendscan.detection.voxel_calibration import VoxelCalibration
from mendscan.errors import ModelError

__all__ = ["Calibration", "CodeThresholds", "HealthyPeaks"]

HealthyPeaks = tuple[tuple[float, ...], ...]
"""Largest map value of each finding of each calibration scan; a scan without findings has an empty tuple."""


@dataclass(frozen=True)
class CodeThresholds:
    """From which code NLL on a code counts as unlikely, in nats."""

    score: float
    """λ_s, for the scan's score."""
    restoration: float
    """λ_p, for restoration."""

    @classmethod
    def of(cls, nll: Float[np.ndarray, "..."], settings: DetectionSettings) -> CodeThresholds:
        """Take the percentiles of the code NLL of held-out healthy scans."""
        score, restoration = np.percentile(nll, (settings.score_percentile, settings.restoration_percentile))
        return cls(float(score), float(restoration))


@dataclass(frozen=True)
class Calibration:
    """Thresholds, the healthy distribution of scores and findings, and the maps' healthy statistics.

    What `conformal` says of scores and findings holds if a new healthy scan is exchangeable with the calibration scans.
    Two things make that an approximation.  λ_s is learnt from the same scans: it is one number, learnt from all their
    codes.  And each calibration map is standardised by the n − 1 other scans, a new one by all n.
    """

    thresholds: CodeThresholds
    healthy_scores: tuple[float, ...]
    """Sample scores of the calibration scans, ascending."""
    voxels: VoxelCalibration
    healthy_peaks: HealthyPeaks | None = None
    """Peaks of the findings in each calibration scan, in no order of scans; None if they are not known."""

    def p_value(self, score: float) -> float:
        """Return the conformal p-value of a scan's score, never below 1 / (n + 1)."""
        return conformal_p_value(score, self.healthy_scores)

    def score_threshold(self, *, false_positive_rate: float) -> float:
        """Return what a healthy scan's score exceeds with at most the wanted probability, in nats.

        Raises:
            SettingsError: If there are too few calibration scans for the rate.
        """
        return score_threshold(self.healthy_scores, false_positive_rate=false_positive_rate)

    def finding_threshold(self, *, false_positives_per_scan: float) -> float:
        """Return what the peaks of at most the wanted number of findings of a healthy scan exceed, on average.

        Raises:
            ModelError: If the model does not know the findings of its calibration scans.
            SettingsError: If there are too few calibration scans for the number.
        """
        if self.healthy_peaks is None:
            raise ModelError(
                "the model does not know the findings of healthy scans",
                code="E_MODEL_PEAKS",
                found="a model of an earlier version, or of fewer than 3 calibration scans",
                remedy="calibrate again by training again, with at least 3 calibration scans",
            )
        found = finding_threshold(self.healthy_peaks, false_positives_per_scan=false_positives_per_scan)
        return max(found, self.voxels.threshold)

    def expected_false(self, peak: float) -> float | None:
        """Return how many findings at least this strong a healthy scan has; None if the model does not know."""
        return None if self.healthy_peaks is None else expected_false_findings(peak, self.healthy_peaks)

    def to_json(self) -> dict[str, Any]:
        """Return all but the arrays as JSON values; `arrays` has the rest."""
        peaks = {} if self.healthy_peaks is None else {"healthy_peaks": [list(peaks) for peaks in self.healthy_peaks]}
        return {
            "score_threshold_nats": self.thresholds.score,
            "restoration_threshold_nats": self.thresholds.restoration,
            "healthy_scores": list(self.healthy_scores),
            **peaks,
            **self.voxels.to_json(),
        }

    def arrays(self) -> dict[str, Float32[np.ndarray, "S H W"]]:
        """Return the healthy means and spreads by name."""
        return self.voxels.arrays()

    @classmethod
    def from_json(
        cls, values: dict[str, Any], arrays: dict[str, Float32[np.ndarray, "S H W"]], settings: DetectionSettings
    ) -> Calibration:
        """Rebuild what `to_json` and `arrays` returned."""
        peaks = values.get("healthy_peaks")
        return cls(
            CodeThresholds(values["score_threshold_nats"], values["restoration_threshold_nats"]),
            tuple(values["healthy_scores"]),
            VoxelCalibration.from_json(values, arrays, settings),
            None if peaks is None else tuple(map(tuple, peaks)),
        )

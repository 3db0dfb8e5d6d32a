"""Everything that decides, learnt from held-out healthy scans and saved with the model (no anomaly is ever seen)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64

from mendscan.config import DetectionSettings
from mendscan.detection.acquisition import STATISTICS, AcquisitionReference, strangest
from mendscan.detection.conformal import (
    conformal_p_value,
    expected_false_findings,
    finding_threshold,
    score_threshold,
)
from mendscan.detection.gate import AcquisitionGate
from mendscan.detection.scan_score import ScanCalibration, ScanScore, top_mean
from mendscan.detection.voxel_calibration import VoxelCalibration
from mendscan.errors import ModelError
from mendscan.shapes import MapSHW

__all__ = ["Calibration", "CodeThresholds", "HealthyPeaks", "ScanReference", "Scores"]

Scores = Literal["auto", "paper"]
"""``auto``: score and map as the model's settings have them.  ``paper``: the sum of the code NLL above λ_s, and the
pooled residual."""

_ACQUISITION, _GATE = "acquisition_", "gate_"

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
class ScanReference:
    """What the parts of the scan score are measured against.

    Attributes:
        acquisition: How the training scans were taken.
        scores: How the parts are in the calibration scans.
    """

    acquisition: AcquisitionReference
    scores: ScanCalibration


@dataclass(frozen=True)
class Calibration:
    """Thresholds, the healthy distribution of scores and findings, and the maps' healthy statistics.

    What `conformal` says of scores and findings holds if a new healthy scan is exchangeable with the calibration scans.
    Two things make that an approximation.  λ_s is learnt from the same scans: it is one number, learnt from all their
    codes.  And each calibration map is standardised by the n − 1 other scans, a new one by all n.
    """

    thresholds: CodeThresholds
    healthy_scores: tuple[float, ...]
    """The paper's sample scores of the calibration scans, in nats, ascending."""
    voxels: VoxelCalibration
    healthy_peaks: HealthyPeaks | None = None
    """Peaks of the findings in each calibration scan, in no order of scans; None if they are not known."""
    scan: ScanReference | None = None
    """Of the scan score in parts; None if the model has the paper's."""
    paper_map_threshold: float | None = None
    """Healthy threshold of the paper's map, where the model has another one."""
    gate: AcquisitionGate | None = None
    """What healthy scans look like from outside; None if that is not known."""

    def p_value(self, score: float) -> float:
        """Return the conformal p-value of the paper's score, never below 1 / (n + 1)."""
        return conformal_p_value(score, self.healthy_scores)

    def scan_score(
        self,
        nats_SHW: MapSHW,
        foreground_SHW: Bool[np.ndarray, "S H W"],
        acquisition: Float64[np.ndarray, " n"],
        settings: DetectionSettings,
    ) -> ScanScore:
        """Return the scan score in parts.

        Args:
            nats_SHW: Combined evidence of the scored slices.
            foreground_SHW: Where they show something.
            acquisition: How it was taken: its statistics, standardised by the `AcquisitionReference`.
            settings: The model's.

        Raises:
            ValueError: If the model has the paper's score alone.
        """
        if self.scan is None:
            raise ValueError("the model does not know how the parts of the score are in healthy scans")
        local = top_mean(nats_SHW[self.voxels.scored(foreground_SHW)], settings.scan_top_share)
        values = {"local": local, "acquisition": self.scan.acquisition.length(acquisition)}
        statistics = dict(zip(STATISTICS, map(float, acquisition), strict=False))
        return replace(self.scan.scores.score(values), strangest=strangest(acquisition), statistics=statistics)

    def healthy(self, scores: Scores = "auto") -> Sequence[float]:
        """Return the calibration scans' scores of the kind that detection gives, ascending."""
        return self.healthy_scores if self.scan is None or scores == "paper" else self.scan.scores.healthy_scores

    def map_threshold(self, scores: Scores = "auto") -> float:
        """Return the healthy threshold of the map that detection gives.

        Raises:
            ModelError: If the model does not know that of the paper's map.
        """
        if scores == "auto" or not self.voxels.kinds:
            return self.voxels.threshold
        if self.paper_map_threshold is None:
            raise ModelError(
                "the model does not know the healthy threshold of the paper's map",
                code="E_MODEL_PAPER",
                found="a model of an earlier version",
                remedy="train again, or detect with --scores auto",
            )
        return self.paper_map_threshold

    def score_threshold(self, *, false_positive_rate: float, scores: Scores = "auto") -> float:
        """Return what a healthy scan's score exceeds with at most the wanted probability.

        Raises:
            SettingsError: If there are too few calibration scans for the rate.
        """
        return score_threshold(self.healthy(scores), false_positive_rate=false_positive_rate)

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
        scan = {} if self.scan is None else {"scan": self.scan.scores.to_json()}
        paper = {} if self.paper_map_threshold is None else {"paper_map_threshold": self.paper_map_threshold}
        return {
            "score_threshold_nats": self.thresholds.score,
            "restoration_threshold_nats": self.thresholds.restoration,
            "healthy_scores": list(self.healthy_scores),
            **peaks,
            **scan,
            **paper,
            **({} if self.gate is None else {"gate": self.gate.to_json()}),
            **self.voxels.to_json(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the healthy means and spreads by name, and what acquisition is measured against."""
        scan = {} if self.scan is None else self.scan.acquisition.arrays()
        gate = {} if self.gate is None else self.gate.arrays()
        return self.voxels.arrays() | _prefixed(_ACQUISITION, scan) | _prefixed(_GATE, gate)

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray], settings: DetectionSettings
    ) -> Calibration:
        """Rebuild what `to_json` and `arrays` returned; a stranger's go through `checked_calibration`."""
        peaks, scan = values.get("healthy_peaks"), None
        maps = {name: array for name, array in arrays.items() if not name.startswith((_ACQUISITION, _GATE))}
        if "scan" in values:
            acquisition = AcquisitionReference(**_without(_ACQUISITION, arrays))
            scan = ScanReference(acquisition, ScanCalibration.from_json(values["scan"]))
        gate = AcquisitionGate.from_json(values["gate"], _without(_GATE, arrays)) if "gate" in values else None
        return cls(
            CodeThresholds(values["score_threshold_nats"], values["restoration_threshold_nats"]),
            tuple(values["healthy_scores"]),
            VoxelCalibration.from_json(values, maps, settings),
            None if peaks is None else tuple(map(tuple, peaks)),
            scan,
            values.get("paper_map_threshold"),
            gate,
        )


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _without(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

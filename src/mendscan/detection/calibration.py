"""Everything that decides, learnt from held-out healthy scans and saved with the model (no anomaly is ever seen)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from mendscan.config import DetectionSettings
from mendscan.detection.conformal import (
    conformal_p_value,
    expected_false_findings,
    finding_threshold,
    score_threshold,
)
from mendscan.detection.scoring import pooled_residual
from mendscan.detection.standardising import HealthyReference, leave_one_out, to_unit_interval
from mendscan.errors import ModelError
from mendscan.shapes import MapSHW

__all__ = [
    "Calibration",
    "CodeThresholds",
    "Evidence",
    "HealthyPeaks",
    "TailTable",
    "VoxelCalibration",
    "calibrate_voxels",
    "left_out_maps",
]

HealthyPeaks = tuple[tuple[float, ...], ...]
"""Largest map value of each finding of each calibration scan; a scan without findings has an empty tuple."""

_USUALLY = 0.1
"""A position belongs to the anatomy where this share of the healthy scans shows something."""


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
class Evidence:
    """What the networks say about each voxel of one scan, on the model grid; higher = more anomalous."""

    residual_SHW: Float32[np.ndarray, "S H W"]
    """Weighted residual of the restorations, in prepared intensities."""
    nll_SHW: Float32[np.ndarray, "S H W"]
    """Code NLL, in nats."""
    foreground_SHW: Bool[np.ndarray, "S H W"]
    """Where the scan shows something."""


@dataclass(frozen=True)
class TailTable:
    """−log of the healthy tail probability of a standardised value, interpolated from quantiles.

    Attributes:
        values: Ascending quantiles of healthy voxels.
        nats: −log P(healthy voxel > value) at each; beyond the last, the last slope goes on.
    """

    values: tuple[float, ...]
    nats: tuple[float, ...]

    @classmethod
    def of(cls, healthy: Float[np.ndarray, "..."]) -> TailTable:
        """Learn the table from healthy voxels, up to the tail that a thousand of them support."""
        rarest = min(1e-1, 1e3 / healthy.size) if healthy.size > 1e4 else 1e-1
        tail = np.geomspace(0.9, rarest, 40)
        values = np.maximum.accumulate(np.quantile(healthy, 1 - tail) + 1e-9 * np.arange(40))
        return cls(tuple(map(float, values)), tuple(map(float, -np.log(tail))))

    def __call__(self, standardised: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return −log tail probability, >= 0; higher = rarer among healthy voxels."""
        values, nats = np.array(self.values), np.array(self.nats)
        inside = np.interp(standardised, values, nats, left=0.0)
        half = len(values) // 2
        slope = (nats[-1] - nats[half]) / max(values[-1] - values[half], 1e-9)
        return inside + slope * np.maximum(standardised - values[-1], 0)


@dataclass(frozen=True)
class VoxelCalibration:
    """What turns evidence into a map in [0, 1].

    Attributes:
        threshold: The healthy threshold of the map: `threshold_quantile` of healthy voxels lie below.
        residual: Healthy mean and spread of the smoothed residual; None for the paper's map.
        nll: The same for the smoothed code NLL.
        residual_tail: Healthy tail of the standardised residual.
        nll_tail: The same for the code NLL.
        usual_SHW: Share of the healthy scans that show something at each position; where neither they nor the scan do,
            the map is 0.
        scale: The combined evidence, in nats, that the map shows as 0.5.
    """

    threshold: float
    residual: HealthyReference | None = None
    nll: HealthyReference | None = None
    residual_tail: TailTable | None = None
    nll_tail: TailTable | None = None
    usual_SHW: Float32[np.ndarray, "S H W"] | None = None
    scale: float = 1.0

    def map_of(self, evidence: Evidence, settings: DetectionSettings) -> MapSHW:
        """Return the anomaly map on the model grid, in [0, 1]."""
        if self.residual is None or self.nll is None:
            return _paper_map(evidence, settings)
        return self.map_of_standardised(
            self.residual.standardised(evidence.residual_SHW),
            self.nll.standardised(evidence.nll_SHW),
            evidence.foreground_SHW,
        )

    def map_of_standardised(
        self,
        residual_SHW: Float32[np.ndarray, "S H W"],
        nll_SHW: Float32[np.ndarray, "S H W"],
        foreground_SHW: Bool[np.ndarray, "S H W"],
    ) -> MapSHW:
        """Return the map, in [0, 1], from evidence in healthy standard deviations above the healthy mean.

        Raises:
            ValueError: If this calibration is of the paper's map, which standardises nothing.
        """
        if self.residual_tail is None or self.nll_tail is None:
            raise ValueError("the paper's map has no healthy tails")
        combined = _combine(self.residual_tail(residual_SHW), self.nll_tail(nll_SHW))
        return to_unit_interval(np.where(_scored(foreground_SHW, self.usual_SHW), combined, 0.0), self.scale)


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
        voxels = self.voxels
        tables = {"residual_tail": voxels.residual_tail, "nll_tail": voxels.nll_tail}
        return {
            "score_threshold_nats": self.thresholds.score,
            "restoration_threshold_nats": self.thresholds.restoration,
            "healthy_scores": list(self.healthy_scores),
            "map_threshold": voxels.threshold,
            "map_scale_nats": voxels.scale,
            **({} if self.healthy_peaks is None else {"healthy_peaks": [list(peaks) for peaks in self.healthy_peaks]}),
            **{name: {"values": t.values, "nats": t.nats} for name, t in tables.items() if t is not None},
        }

    def arrays(self) -> dict[str, Float32[np.ndarray, "S H W"]]:
        """Return the healthy means and spreads by name."""
        references = {"residual": self.voxels.residual, "nll": self.voxels.nll}
        found = {name: reference for name, reference in references.items() if reference is not None}
        usual = {} if self.voxels.usual_SHW is None else {"usual_foreground": self.voxels.usual_SHW}
        means = {f"{name}_mean": reference.mean_SHW for name, reference in found.items()}
        return usual | means | {f"{name}_spread": reference.spread_SHW for name, reference in found.items()}

    @classmethod
    def from_json(
        cls, values: dict[str, Any], arrays: dict[str, Float32[np.ndarray, "S H W"]], settings: DetectionSettings
    ) -> Calibration:
        """Rebuild what `to_json` and `arrays` returned."""

        def reference(name: str, sigma: float) -> HealthyReference | None:
            if f"{name}_mean" not in arrays:
                return None
            return HealthyReference(arrays[f"{name}_mean"], arrays[f"{name}_spread"], sigma)

        def table(name: str) -> TailTable | None:
            found = values.get(name)
            return TailTable(tuple(found["values"]), tuple(found["nats"])) if found else None

        peaks = values.get("healthy_peaks")
        return cls(
            CodeThresholds(values["score_threshold_nats"], values["restoration_threshold_nats"]),
            tuple(values["healthy_scores"]),
            healthy_peaks=None if peaks is None else tuple(map(tuple, peaks)),
            voxels=VoxelCalibration(
                threshold=values["map_threshold"],
                residual=reference("residual", settings.residual_sigma),
                nll=reference("nll", settings.nll_sigma),
                residual_tail=table("residual_tail"),
                nll_tail=table("nll_tail"),
                usual_SHW=arrays.get("usual_foreground"),
                scale=values["map_scale_nats"],
            ),
        )


def calibrate_voxels(evidence: Sequence[Evidence], settings: DetectionSettings) -> VoxelCalibration:
    """Learn the map's statistics and threshold from the evidence of held-out healthy scans."""
    if settings.voxel_map == "residual":
        maps = np.stack([_paper_map(each, settings) for each in evidence])
        return VoxelCalibration(threshold=float(np.quantile(maps, settings.threshold_quantile)))
    residual, residual_NSHW = _reference(evidence, lambda e: e.residual_SHW, settings.residual_sigma)
    nll, nll_NSHW = _reference(evidence, lambda e: e.nll_SHW, settings.nll_sigma)
    foreground_NSHW = np.stack([each.foreground_SHW for each in evidence])
    usual_SHW = foreground_NSHW.mean(axis=0, dtype=np.float32)
    scored_NSHW = _scored(foreground_NSHW, usual_SHW)
    residual_n, nll_n = residual_NSHW[scored_NSHW], nll_NSHW[scored_NSHW]
    residual_tail, nll_tail = TailTable.of(residual_n), TailTable.of(nll_n)
    combined = _combine(residual_tail(residual_n), nll_tail(nll_n))
    scale = max(float(np.quantile(combined, settings.threshold_quantile)), 1e-6)
    return VoxelCalibration(0.5, residual, nll, residual_tail, nll_tail, usual_SHW, scale)


def left_out_maps(
    voxels: VoxelCalibration, evidence: Sequence[Evidence], settings: DetectionSettings
) -> Iterator[MapSHW]:
    """Yield the map of each calibration scan as if it were new: standardised by the *other* scans.

    The paper's map standardises nothing, and is what it is.

    Args:
        voxels: What `calibrate_voxels` learnt from `evidence`.
        evidence: Of at least three healthy scans for a standardised map: with two there is no spread without one.
        settings: The model's.

    Yields:
        One map per scan, on the model grid, in [0, 1].
    """
    if voxels.residual is None or voxels.nll is None:
        yield from (_paper_map(each, settings) for each in evidence)
        return
    residual_NSHW = leave_one_out(
        np.stack([each.residual_SHW for each in evidence]), sigma_voxels=voxels.residual.sigma_voxels
    )
    nll_NSHW = leave_one_out(np.stack([each.nll_SHW for each in evidence]), sigma_voxels=voxels.nll.sigma_voxels)
    for each, residual_SHW, nll_SHW in zip(evidence, residual_NSHW, nll_NSHW, strict=True):
        yield voxels.map_of_standardised(residual_SHW, nll_SHW, each.foreground_SHW)


def _reference(
    evidence: Sequence[Evidence], pick: Callable[[Evidence], Float32[np.ndarray, "S H W"]], sigma: float
) -> tuple[HealthyReference, Float32[np.ndarray, "N S H W"]]:
    """Return the reference of one kind of evidence, and each scan standardised by the *other* scans.

    A scan that helped to set the mean and spread looks more usual than a new one; leaving it out undoes that.
    """
    maps_NSHW = np.stack([pick(each) for each in evidence])
    return HealthyReference.fit(maps_NSHW, sigma_voxels=sigma), leave_one_out(maps_NSHW, sigma_voxels=sigma)


def _scored(
    foreground: Bool[np.ndarray, "*N S H W"], usual_SHW: Float32[np.ndarray, "S H W"] | None
) -> Bool[np.ndarray, "*N S H W"]:
    """Return where a scan is scored: where it shows something, or healthy scans usually do (it may be missing here)."""
    return foreground if usual_SHW is None else foreground | (usual_SHW >= _USUALLY)


def _combine(first: Float[np.ndarray, "..."], second: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return the cube root of the sum of cubes: a soft maximum in which two voices count a little more than one."""
    return np.cbrt(first**3 + second**3)


def _paper_map(evidence: Evidence, settings: DetectionSettings) -> MapSHW:
    return pooled_residual(evidence.residual_SHW, min_pool=settings.min_pool, mean_pool_SHW=settings.mean_pool_SHW)

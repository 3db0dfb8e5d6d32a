"""From raw maps to maps in [0, 1] and p-values, by what held-out healthy scans say: the same way for every baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from mendscan.baselines.baseline import Baseline
from mendscan.baselines.fitting import BASELINES
from mendscan.baselines.healthy import HealthyCohort
from mendscan.cohort.preparing import Prepared
from mendscan.config import DetectionSettings, Settings
from mendscan.detection.conformal import conformal_p_value
from mendscan.detection.scan_score import top_mean
from mendscan.detection.standardising import HealthyReference, Sigma, leave_one_out, to_unit_interval
from mendscan.shapes import SlicesSHW

__all__ = [
    "MAP_THRESHOLD",
    "Calibrated",
    "ScoredScan",
    "StandardisedBaseline",
    "calibrate",
    "standardise",
]

MAP_THRESHOLD = 0.5
"""The healthy threshold of every calibrated map: `HEALTHY_QUANTILE` of the scored healthy voxels lie below."""
HEALTHY_QUANTILE = 0.995
SMOOTHING_VOXELS = 2.0
"""Gaussian smoothing of standardised baselines, in voxels along the model grid's finest axis: as for the model's own
residual, and like it as wide in mm along all axes."""
TOP_SHARE = DetectionSettings().scan_top_share
"""The scan score of a standardised baseline is the mean of this share of its voxels, the most anomalous ones: the same
as of the model's own."""
_USUALLY = 0.1
"""A position belongs to the anatomy where this share of the healthy scans shows something, as for the model's map."""
_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True, eq=False)
class StandardisedBaseline(Baseline):
    """Any fitted baseline, its map smoothed and standardised by healthy scans at each position.

    Args:
        inner: The fitted baseline.
        reference: What its map looks like in healthy scans that it was not fitted on.
    """

    inner: Baseline
    reference: HealthyReference

    @property
    def name(self) -> str:  # type: ignore[override]
        """The inner baseline's name, with ``-standardised``."""
        return f"{self.inner.name}-standardised"

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Training steps of the inner baseline."""
        return self.inner.steps

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the inner baseline computes."""
        return self.inner.device

    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return the inner map in healthy standard deviations above the healthy mean; negative = less than usual."""
        return self.reference.standardised(self.inner.residual(prepared))

    def scan_score(self, map_SHW: Float32[np.ndarray, "S H W"], where_SHW: Bool[np.ndarray, "S H W"]) -> float:
        """Return the mean of the highest voxels of the map: in the mean of all a small lesion drowns."""
        return top_mean(map_SHW[where_SHW], TOP_SHARE)

    def facts(self) -> dict[str, Any]:
        """Return the inner facts and the smoothing."""
        sigma = self.reference.sigma_voxels
        return {"inner": self.inner.name, "inner_facts": self.inner.facts(), "sigma_voxels": sigma}

    def tensors(self) -> dict[str, Tensor]:
        """Return the inner arrays, and healthy mean and spread."""
        inner = {f"inner.{name}": tensor for name, tensor in self.inner.tensors().items()}
        mean, spread = (torch.from_numpy(a) for a in (self.reference.mean_SHW, self.reference.spread_SHW))
        return {**inner, "healthy_mean": mean, "healthy_spread": spread}

    @classmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> StandardisedBaseline:
        """Rebuild it."""
        own = {name.removeprefix("inner."): t for name, t in tensors.items() if name.startswith("inner.")}
        inner = BASELINES[facts["inner"]].of_saved(settings, facts["inner_facts"], own, device=device)
        mean_SHW, spread_SHW = (tensors[name].numpy() for name in ("healthy_mean", "healthy_spread"))
        return cls(inner, HealthyReference(mean_SHW, spread_SHW, _as_sigma(facts["sigma_voxels"])))


class ScoredScan(NamedTuple):
    """What a baseline says about one scan."""

    map_SHW: SlicesSHW
    """On the model grid, in [0, 1], 0.5 = the healthy threshold, higher = more anomalous."""
    score: float
    """Higher = more anomalous."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A baseline and what it says about healthy scans that it was not fitted on.

    Attributes:
        baseline: Raw or standardised.
        settings: The plan: how a scan is prepared.
        usual_SHW: Share of the healthy scans that show something at each position; where neither they nor the scan do,
            nothing is scored and the map is 0, as in the model's own map.
        scale: What of the baseline's map becomes 0.5.
        healthy_scores: Scan scores of the calibration scans, ascending.
    """

    baseline: Baseline
    settings: Settings
    usual_SHW: Float32[np.ndarray, "S H W"]
    scale: float
    healthy_scores: tuple[float, ...]

    def scored(self, prepared: Prepared) -> ScoredScan:
        """Return map and score of a scan that was prepared under `settings`."""
        raw_SHW = self.baseline.residual(prepared)
        where_SHW = _scored(prepared.foreground_SHW, self.usual_SHW)
        map_SHW = to_unit_interval(np.where(where_SHW, raw_SHW, np.float32(0)), self.scale)
        return ScoredScan(map_SHW, self.baseline.scan_score(raw_SHW, where_SHW))

    def p_value(self, score: float) -> float:
        """Return the conformal p-value of a scan's score, (1 + #{s_cal >= s}) / (n + 1)."""
        return conformal_p_value(score, self.healthy_scores)


def calibrate(baseline: Baseline, cohort: HealthyCohort) -> Calibrated:
    """Scale a baseline's raw map, and learn its healthy scores, from the calibration scans."""
    maps_NSHW, foreground_NSHW = _healthy_maps(baseline, cohort.calibration())
    return _calibrated(baseline, cohort.settings, maps_NSHW, foreground_NSHW)


def standardise(baseline: Baseline, cohort: HealthyCohort, *, smoothing_voxels: float = SMOOTHING_VOXELS) -> Calibrated:
    """Smooth and standardise a baseline's map by the calibration scans, and calibrate what comes out.

    Each calibration scan is standardised by all the others, as a new scan would be: one that helped to set the mean
    looks more usual than it is.

    Args:
        baseline: A fitted baseline.
        cohort: The healthy scans; at least two are for calibration.
        smoothing_voxels: Width of the Gaussian, in voxels along the model grid's finest axis.
    """
    sigma = cohort.settings.detection.along_axes(smoothing_voxels)
    maps_NSHW, foreground_NSHW = _healthy_maps(baseline, cohort.calibration())
    reference = HealthyReference.fit(maps_NSHW, sigma_voxels=sigma)
    others_NSHW = leave_one_out(maps_NSHW, sigma_voxels=sigma)
    return _calibrated(StandardisedBaseline(baseline, reference), cohort.settings, others_NSHW, foreground_NSHW)


def _healthy_maps(
    baseline: Baseline, healthy: Iterable[Prepared]
) -> tuple[Float32[np.ndarray, "N S H W"], Bool[np.ndarray, "N S H W"]]:
    both = [(baseline.residual(prepared), prepared.foreground_SHW) for prepared in healthy]
    return np.stack([map_SHW for map_SHW, _ in both]), np.stack([inside_SHW for _, inside_SHW in both])


def _calibrated(
    baseline: Baseline,
    settings: Settings,
    maps_NSHW: Float32[np.ndarray, "N S H W"],
    foreground_NSHW: Bool[np.ndarray, "N S H W"],
) -> Calibrated:
    usual_SHW = foreground_NSHW.mean(axis=0, dtype=np.float32)
    where_NSHW = _scored(foreground_NSHW, usual_SHW)
    scale = max(float(np.quantile(maps_NSHW[where_NSHW], HEALTHY_QUANTILE)), _SMALLEST_SCALE)
    scores = sorted(baseline.scan_score(*each) for each in zip(maps_NSHW, where_NSHW, strict=True))
    return Calibrated(baseline, settings, usual_SHW, scale, tuple(scores))


def _scored(
    foreground: Bool[np.ndarray, "*N S H W"], usual_SHW: Float32[np.ndarray, "S H W"]
) -> Bool[np.ndarray, "*N S H W"]:
    """Return where a scan is scored: where it shows something, or healthy scans usually do (it may be missing here)."""
    return foreground | (usual_SHW >= _USUALLY)


def _as_sigma(saved: float | Sequence[float]) -> Sigma:
    """Return a saved smoothing: one number, as baselines had before, or one for each axis."""
    if isinstance(saved, int | float):
        return float(saved)
    along_s, along_h, along_w = map(float, saved)
    return along_s, along_h, along_w

"""Evidence of healthy scans that differ by chance and, at each place, by a healthy spread of its own."""

from __future__ import annotations

import numpy as np

from mendscan.config import DetectionSettings
from mendscan.detection.evidence import Evidence

SHAPE = (6, 12, 14)
EVERYWHERE = np.ones(SHAPE, dtype=bool)
PAPER = DetectionSettings(voxel_map="residual", threshold_quantile=0.9)
STANDARDISED = DetectionSettings(voxel_map="standardised", residual_sigma=1.0, nll_sigma=1.5, threshold_quantile=0.95)
EVERY_KIND = STANDARDISED.model_copy(update={"evidence": ("texture", "nll", "residual")})


def evidence_of(
    residual_SHW: np.ndarray,
    nll_SHW: np.ndarray,
    slices_SHW: np.ndarray | None = None,
    foreground_SHW: np.ndarray = EVERYWHERE,
) -> Evidence:
    slices_SHW = np.zeros(SHAPE) if slices_SHW is None else slices_SHW
    return Evidence(*(each.astype(np.float32) for each in (residual_SHW, nll_SHW, slices_SHW)), foreground_SHW)


def healthy_evidence(n: int, seed: int = 0) -> list[Evidence]:
    width = np.random.default_rng(99).uniform(0.5, 1.5, size=SHAPE)
    generator = np.random.default_rng(seed)
    residuals = np.abs(0.3 * width * generator.normal(size=(n, *SHAPE)))
    nlls = generator.exponential(1.5, size=(n, *SHAPE))
    slices = 0.5 + 0.2 * generator.normal(size=(n, *SHAPE))
    return [evidence_of(*each) for each in zip(residuals, nlls, slices, strict=True)]

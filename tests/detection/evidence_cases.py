"""Evidence of healthy scans that differ by chance and, at each place, by a healthy spread of its own."""

from __future__ import annotations

import numpy as np

from mendscan.config import DetectionSettings
from mendscan.detection.evidence import Evidence

SHAPE = (6, 12, 14)
EVERYWHERE = np.ones(SHAPE, dtype=bool)
PAPER = DetectionSettings(voxel_map="residual", threshold_quantile=0.9)
STANDARDISED = DetectionSettings(voxel_map="standardised", residual_sigma=1.0, nll_sigma=1.5, threshold_quantile=0.95)
EVERY_KIND = STANDARDISED.model_copy(update={"evidence": ("texture", "nll", "discriminator", "residual")})
LEVELLED = EVERY_KIND.model_copy(update={"nll_level": "scan"})


def evidence_of(
    residual_SHW: np.ndarray,
    nll_SHW: np.ndarray,
    slices_SHW: np.ndarray | None = None,
    foreground_SHW: np.ndarray = EVERYWHERE,
    logits_SHW: np.ndarray | None = None,
) -> Evidence:
    slices_SHW = np.zeros(SHAPE) if slices_SHW is None else slices_SHW
    logits_SHW = np.zeros(SHAPE) if logits_SHW is None else logits_SHW
    residual, nll, slices, logits = (
        each.astype(np.float32) for each in (residual_SHW, nll_SHW, slices_SHW, logits_SHW)
    )
    return Evidence(residual, nll, slices, foreground_SHW, logits)


def healthy_evidence(n: int, seed: int = 0) -> list[Evidence]:
    width = np.random.default_rng(99).uniform(0.5, 1.5, size=SHAPE)
    generator = np.random.default_rng(seed)
    residuals = np.abs(0.3 * width * generator.normal(size=(n, *SHAPE)))
    nlls = generator.exponential(1.5, size=(n, *SHAPE))
    slices = 0.5 + 0.2 * generator.normal(size=(n, *SHAPE))
    logits = -4 + generator.normal(size=(n, *SHAPE))
    healthy = zip(residuals, nlls, slices, logits, strict=True)
    return [evidence_of(*others, logits_SHW=each) for *others, each in healthy]

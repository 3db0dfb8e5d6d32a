"""The model card: what a model is, what it was trained on in figures, and what it is not."""

from __future__ import annotations

from collections.abc import Mapping

from mendscan.cohort.plan import Plan
from mendscan.cohort.store import Split
from mendscan.detection.conformal import smallest_p_value

__all__ = ["model_card"]


def model_card(plan: Plan, split: Split, figures: Mapping[str, float]) -> str:
    """Return the card as Markdown; it names no file, person or machine."""
    cohort = plan.fingerprint
    decisions = "\n".join(f"| {d.setting} | {d.value} | {d.reason} |" for d in plan.decisions)
    measured = "\n".join(f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in figures.items())
    smallest_p = smallest_p_value(len(split.calibration))
    return f"""# A mendscan model

**Research use only.  Not a medical device, not for diagnosis.**  A score says how unlikely a scan is under the healthy
scans of the training set; it does not name a disease, and a low score does not mean healthy.

## Trained on
{cohort.scans} healthy scans: {len(split.train)} for training, {len(split.validation)} for validation,
{len(split.calibration)} for calibration (the smallest possible p-value is {smallest_p:.3g}).
Median shape {_times(cohort.shape_median)} voxels, median spacing {_times(cohort.spacing_median_mm)} mm,
orientations {", ".join(f"{code} ({count})" for code, count in cohort.orientations.items())}.
Scans from elsewhere (another scanner, sequence, region or age) can score high for that reason alone.

## Plan
| setting | value | reason |
|---|---|---|
{decisions}

## Figures on held-out healthy scans
| figure | value |
|---|---|
{measured}

## Privacy
The folder holds network weights, thresholds, mean and spread maps over scans and content hashes; no scan, file name or
patient data.  Generative models can memorise: share a model as you would share statistics of its training set.
"""


def _times(values: tuple[float, ...]) -> str:
    return "×".join(f"{value:g}" for value in values)

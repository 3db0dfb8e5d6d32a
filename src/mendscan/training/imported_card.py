"""The card of an imported model: whose weights these are, what they were calibrated on, and what they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mendscan.cohort.decision import Decision
from mendscan.detection.conformal import smallest_p_value

__all__ = ["imported_card"]

_UNCALIBRATED = """**Not calibrated.**  No healthy scan was given.  λ_s and λ_p are the values that the original sets by
hand, every p-value is 1, the map has no healthy threshold and names no findings.  Scores rank scans; they say nothing
about how often a healthy scan scores as high.  Import again with `--healthy FOLDER` to calibrate."""


def imported_card(
    decisions: Sequence[Decision], files: Sequence[Mapping[str, str]], scans: int, figures: Mapping[str, float]
) -> str:
    """Return the card as Markdown.

    Args:
        decisions: Settings and why they are so.
        files: Network, file name and SHA-256 of each checkpoint.
        scans: Healthy scans that it was calibrated on; 0 = not calibrated.
        figures: Measured on them.
    """
    sources = "\n".join(f"| {file['network']} | `{file['name']}` | `{file['sha256']}` |" for file in files)
    decided = "\n".join(f"| {d.setting} | {d.value} | {d.reason} |" for d in decisions)
    measured = "; ".join(f"{meaning}: {value:.4g}" for meaning, value in figures.items())
    calibrated = (
        f"Calibrated on {scans} healthy scans, none of which may be one that the networks were trained on\n"
        f"(the smallest possible p-value is {smallest_p_value(scans):.3g}).\nMeasured: {measured}."
    )
    return f"""# A mendscan model with imported weights

**Research use only.  Not a medical device, not for diagnosis.**  A score says how unlikely a scan is under the healthy
scans of the training set; it does not name a disease, and a low score does not mean healthy.

## Weights
Not trained by mendscan: imported from checkpoints of the original system (snavalm/lsr_mood_challenge_2020, Naval
Marimont & Tarroni 2021).  Who may use them is for their authors to say.  They are for evaluation: a norm is folded into
a convolution, and training would not go on where it stopped.

| network | file | SHA-256 |
|---|---|---|
{sources}

## Calibration
{calibrated if scans else _UNCALIBRATED}

## Settings
| setting | value | reason |
|---|---|---|
{decided}

The original took voxels in file order and ignored the header; here they are turned to RAS+ first.  The same slices come
out only if the files that the networks were trained on had that order.
"""

"""How `auto` reads a scan: which evidence, how smooth, which score; and why."""

from __future__ import annotations

from collections.abc import Sequence

from mendscan.cohort.decision import Decision
from mendscan.config import DetectionSettings

__all__ = ["ANISOTROPIC", "auto_detection"]

ANISOTROPIC = 1.5
"""Voxels are long along an axis, or scans have thick slices, when they exceed the finest by this factor."""

_AUTO_DETECTION = DetectionSettings(
    voxel_map="standardised",
    evidence=("nll", "discriminator"),
    restored_scan="soft",
    scan_score="parts",
    nll_sigma=2.0,
    nll_shifts=5,
    nll_level="scan",
    calibration_restorations=3,
)


def auto_detection(voxel_mm_SHW: Sequence[float]) -> tuple[DetectionSettings, list[Decision]]:
    """Return the detection settings of `auto`, and a decision for each that wants a reason.

    Args:
        voxel_mm_SHW: Size of a voxel of the model grid along each axis, slice axis first, in mm.
    """
    finest = min(voxel_mm_SHW)
    aspect = tuple(round(mm / finest, 2) for mm in voxel_mm_SHW)
    long = max(aspect) >= ANISOTROPIC
    detection = _AUTO_DETECTION.model_copy(update={"voxel_aspect_SHW": aspect}) if long else _AUTO_DETECTION
    decisions = [
        Decision(
            "detection.evidence",
            ", ".join(detection.evidence),
            "of all combinations the best on anomalies kept for choosing, in validation scans",
        ),
        Decision(
            "detection.nll_sigma",
            f"{detection.nll_sigma:g}",
            f"{detection.nll_sigma * finest:.1f} mm here, half the width of a code",
        ),
        Decision(
            "detection.restored_scan",
            detection.restored_scan,
            "the map needs none; a soft one is as near to healthy as a few samples, in a fraction of the time",
        ),
    ]
    if long:
        why = f"voxels are {max(aspect):g} times as long along one axis: smoothing is as wide in mm along all"
        decisions.append(Decision("detection.voxel_aspect_SHW", "×".join(f"{each:g}" for each in aspect), why))
    return detection, decisions

"""Healthy scans with anomalies for choosing settings: the one way by which training may look at anomalies.

Nothing learns from them: they only decide between a few settings, on validation scans; the kinds are never reported.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from mendscan.cohort.anomalies import NO_ROOM, add_anomaly, radius_range_mm
from mendscan.cohort.anomaly_reference import reference_of
from mendscan.cohort.foreground import foreground_of
from mendscan.cohort.selection_kinds import SELECTION_KINDS
from mendscan.errors import ScanError
from mendscan.shapes import MaskXYZ
from mendscan.volumes.volume import Volume

__all__ = ["with_selection_anomalies"]


def with_selection_anomalies(volume: Volume, *, count: int, turn: int, rng: Generator) -> tuple[Volume, MaskXYZ]:
    """Put anomalies for choosing into a healthy scan.

    Args:
        volume: The scan; not altered.
        count: How many at most: one for which there is no room is left out.
        turn: Which case of several it is; kinds are dealt in turn.
        rng: Source of everything that is random.

    Returns:
        The altered scan, and where it was altered.
    """
    kinds = tuple(SELECTION_KINDS)
    healthy_XYZ = volume.voxels_XYZ
    reference = reference_of(healthy_XYZ, foreground_of(healthy_XYZ))
    radius_mm = radius_range_mm(reference.foreground_XYZ, spacing_mm=volume.spacing_mm)
    voxels_XYZ, taken_XYZ = healthy_XYZ.copy(), np.zeros(volume.shape, dtype=bool)
    marked_XYZ = np.zeros(volume.shape, dtype=bool)
    for kind in (kinds[(turn * count + k) % len(kinds)] for k in range(count)):
        try:
            altered_XYZ, label_XYZ, _ = add_anomaly(
                healthy_XYZ, volume.affine, reference=reference, rng=rng, kind=kind, radius_mm=radius_mm,
                taken_XYZ=taken_XYZ,
            )  # fmt: skip
        except ScanError as error:
            if error.code != NO_ROOM:
                raise
            continue
        changed_XYZ = altered_XYZ != healthy_XYZ
        voxels_XYZ[changed_XYZ] = altered_XYZ[changed_XYZ]
        taken_XYZ |= changed_XYZ | label_XYZ
        marked_XYZ |= label_XYZ
    return replace(volume, voxels_XYZ=voxels_XYZ), marked_XYZ

"""Millimetres: from the world of DICOM, NRRD and MetaImage to ours.

They count to the left, to the back and to the top (LPS+); NIfTI, and mendscan, to the right, the front and the top
(RAS+).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mendscan.shapes import Affine
from mendscan.volumes.remarks import remark

__all__ = ["LPS_TO_RAS", "homogeneous", "warn_orientation_unknown"]

LPS_TO_RAS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])
"""A map from millimetres to millimetres; its own inverse."""


def homogeneous(axes: Float[np.ndarray, "3 3"], origin: Float[np.ndarray, " 3"]) -> Affine:
    """Return the map from voxel index to millimetres.

    Args:
        axes: One column for each axis: the step from a voxel to the next.
        origin: The centre of the first voxel.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return affine


def warn_orientation_unknown(where: object, why: str) -> None:
    """Say that nobody knows left from right."""
    remark(where, "W_ORIENTATION", f"orientation unknown ({why}); left and right are a guess")

"""Are the values of the voxels those of a scan?"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32

from mendscan.errors import IntensityError
from mendscan.volumes.remarks import remark

__all__ = ["NanPolicy", "usable_voxels"]

MAX_VOXEL_MAGNITUDE = 1e18
"""Above this, squares overflow float32, and with them every mean and variance."""

NanPolicy: TypeAlias = Literal["refuse", "fill"]
"""What becomes of voxels that are NaN: the scan is refused, or they take its lowest value and are known as missing."""


def usable_voxels(
    voxels: Float32[np.ndarray, "I J K"], *, nan: NanPolicy, where: object
) -> tuple[Float32[np.ndarray, "I J K"], Bool[np.ndarray, "I J K"] | None]:
    """Check the values of a scan's voxels; fill what is missing, if that is wanted.

    Programs that mask a scan write NaN around it, where a scan has its background: the lowest value.

    Args:
        voxels: Intensities, in any order of the axes.
        nan: What becomes of voxels that are NaN.
        where: What an error names.

    Returns:
        The voxels, all finite, and which of them were missing; None if none was.

    Raises:
        IntensityError: If voxels are not finite (E_NAN), too large (E_SCALING) or all the same (E_CONSTANT).
    """
    missing = None
    if nan == "fill" and np.isnan(voxels.max()):  # one NaN makes the maximum NaN
        voxels, missing = _filled(voxels, where)
    _check(voxels, where)
    return voxels, missing


def _filled(
    voxels: Float32[np.ndarray, "I J K"], where: object
) -> tuple[Float32[np.ndarray, "I J K"], Bool[np.ndarray, "I J K"]]:
    missing = np.isnan(voxels)
    count = int(np.count_nonzero(missing))
    if count == voxels.size:
        return voxels, missing  # refused as any scan of NaN
    lowest = voxels.min(where=~missing, initial=np.inf)
    share = f"{count} voxels are NaN ({count / voxels.size:.2%})"
    remark(where, "W_NAN", f"{share}: filled with {lowest:g}; the map is 0 there")
    return np.where(missing, lowest, voxels), missing


def _check(voxels: Float32[np.ndarray, "I J K"], where: object) -> None:
    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        missing, infinite = int(np.count_nonzero(np.isnan(voxels))), int(np.count_nonzero(np.isinf(voxels)))
        fillable = not infinite and missing < voxels.size
        raise IntensityError(
            "voxels are NaN or infinite",
            where=where,
            code="E_NAN",
            found=f"{missing + infinite} of {voxels.size}",
            expected="finite voxels",
            remedy="find out what wrote them" + ("; where NaN means no data, use --nan fill" if fillable else ""),
        )
    if max(-low, high) > MAX_VOXEL_MAGNITUDE:
        raise IntensityError(
            "the voxel values are too large",
            where=where,
            code="E_SCALING",
            found=f"{low:g} to {high:g}",
            expected=f"at most {MAX_VOXEL_MAGNITUDE:g}",
            remedy="check the scaling (scl_slope, scl_inter) of the file",
        )
    if low == high:
        raise IntensityError(
            "all voxels have the same value",
            where=where,
            code="E_CONSTANT",
            found=f"{low:g}",
            expected="a scan with contrast",
            remedy="check how the file was made",
        )

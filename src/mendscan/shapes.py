"""The legend of dimension letters, and the array types that use them.

=========  ==========================================================
letter     dimension
=========  ==========================================================
``B``      batch
``C``      channel
``S``      slice, along the plan's slice axis
``X Y Z``  voxels in RAS+: right, anterior, superior
``H W``    pixels of a slice
``h w``    positions of the latent grid
``K``      codes of the codebook
``E``      dimension of a code's vector
``R``      restorations of one slice
=========  ==========================================================

A local's suffix says its layout where that matters: ``logits_BKhw``, ``voxels_XYZ``.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

Affine = Float64[np.ndarray, "4 4"]
"""Voxel index to millimetres, homogeneous."""
VoxelsXYZ = Float32[np.ndarray, "X Y Z"]
"""One scan in RAS+."""
SlicesSHW = Float32[np.ndarray, "S H W"]
"""A scan on the model grid, slice axis first."""
MaskXYZ = Bool[np.ndarray, "X Y Z"]
"""One truth value per voxel, in RAS+."""
MapSHW = Float[np.ndarray, "S H W"]
"""One value per voxel of the model grid."""

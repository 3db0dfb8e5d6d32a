"""What do methods without any network find?  A figure means little until it is read beside theirs.

All arrays are prepared scans on the model grid, intensities already normalised: `N S H W` for several, `S H W` for one.
Maps are higher where a voxel is more anomalous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32

from mendscan.detection.standardising import check_several, floored, mean_and_spread

__all__ = [
    "AtlasBaseline",
    "PcaBaseline",
    "scan_score",
]


SPREAD_FLOOR = 0.1
"""The smallest spread a position of the atlas may have, as a share of the grid's root mean square spread."""


@dataclass(frozen=True, eq=False)
class AtlasBaseline:
    """Each voxel against the healthy voxels at the same position: |x − μ| / σ.

    Args:
        mean_SHW: μ, in normalised intensity.
        spread_SHW: σ > 0, in normalised intensity.

    Example:
        >>> train_NSHW = np.random.default_rng(0).normal(size=(50, 1, 2, 2)).astype(np.float32)
        >>> atlas = AtlasBaseline.fit(train_NSHW)
        >>> bool(atlas.residual(train_NSHW[0] + 9).min() > 5)
        True
    """

    mean_SHW: Float32[np.ndarray, "S H W"]
    spread_SHW: Float32[np.ndarray, "S H W"]

    @classmethod
    def fit(cls, train_NSHW: Float32[np.ndarray, "N S H W"], *, spread_floor: float = SPREAD_FLOOR) -> AtlasBaseline:
        """Learn mean and spread per position from healthy training scans.

        Args:
            train_NSHW: At least two healthy scans.
            spread_floor: The smallest spread, as a share of the grid's root mean square spread; > 0.

        Returns:
            The fitted baseline.

        Raises:
            ValueError: If there are fewer than two scans, they are all the same, or the floor is not positive.
        """
        mean_SHW, spread_SHW = mean_and_spread(train_NSHW)
        return cls(mean_SHW, floored(spread_SHW, spread_floor))

    def residual(self, scan_SHW: Float32[np.ndarray, "S H W"]) -> Float32[np.ndarray, "S H W"]:
        """|x − μ| / σ, in healthy standard deviations, >= 0."""
        return np.abs(scan_SHW - self.mean_SHW) / self.spread_SHW


@dataclass(frozen=True, eq=False)
class PcaBaseline:
    """What the principal components of healthy scans cannot reproduce: |x − x̂|, x̂ = μ + Vᵀ V (x − μ).

    One component is a whole volume: anatomy varies in all three dimensions together.

    Args:
        mean_SHW: μ, in normalised intensity.
        components_PSHW: V, orthonormal, the direction of greatest variance first.

    Example:
        >>> train_NSHW = np.random.default_rng(0).normal(size=(5, 2, 4, 4)).astype(np.float32)
        >>> pca = PcaBaseline.fit(train_NSHW)
        >>> bool(pca.residual(train_NSHW[0]).max() < 1e-5)
        True
    """

    mean_SHW: Float32[np.ndarray, "S H W"]
    components_PSHW: Float32[np.ndarray, "P S H W"]

    @classmethod
    def fit(cls, train_NSHW: Float32[np.ndarray, "N S H W"], *, components: int = 60) -> PcaBaseline:
        """Learn the components from healthy training scans by a singular value decomposition.

        Args:
            train_NSHW: At least two healthy scans.
            components: How many to keep, >= 1.  N scans have N − 1 at most; there are no more then.

        Returns:
            The fitted baseline.

        Raises:
            ValueError: If there are fewer than two scans or less than one component.
        """
        check_several(train_NSHW)
        if components < 1:
            raise ValueError(f"found components={components}; expected at least 1")
        mean_SHW = train_NSHW.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred_ND = rearrange(train_NSHW - mean_SHW, "N S H W -> N (S H W)")
        _, singular_values, directions_PD = np.linalg.svd(centred_ND, full_matrices=False)
        # Directions without variance are rounding errors: they would reproduce anomalies by chance.
        n_real = int(np.sum(singular_values > singular_values[0] * max(centred_ND.shape) * np.finfo(np.float32).eps))
        kept_PD = directions_PD[: min(components, n_real)].copy()
        return cls(mean_SHW, kept_PD.reshape(-1, *mean_SHW.shape))

    def residual(self, scan_SHW: Float32[np.ndarray, "S H W"]) -> Float32[np.ndarray, "S H W"]:
        """|x − x̂|, in normalised intensity, >= 0."""
        centred_SHW = scan_SHW - self.mean_SHW
        weights_P = np.tensordot(self.components_PSHW, centred_SHW, axes=3)
        return np.abs(centred_SHW - np.tensordot(weights_P, self.components_PSHW, axes=1))


def scan_score(map_SHW: Float[np.ndarray, "S H W"]) -> float:
    """One score per scan: the mean of its map, in map units; higher = more anomalous.

    Example:
        >>> scan_score(np.array([[[0.0, 1.0]]]))
        0.5
    """
    return float(map_SHW.mean(dtype=np.float64))

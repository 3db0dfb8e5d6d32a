"""Two baselines that know where a voxel lies, and need no network: the atlas and principal components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from mendscan.baselines.baseline import Baseline
from mendscan.baselines.healthy import HealthyCohort
from mendscan.cohort.preparing import Prepared
from mendscan.config import Settings
from mendscan.detection.standardising import check_several, floored, mean_and_spread
from mendscan.shapes import SlicesSHW

__all__ = ["AtlasBaseline", "PcaBaseline", "fit_atlas", "fit_pca"]

SPREAD_FLOOR = 0.1
"""The smallest spread a position of the atlas may have, as a share of the grid's root mean square spread."""
COMPONENTS = 60
"""Principal components kept."""
_SMALLEST_DIRECTION = 1e-5
"""Directions with less than this share of the largest singular value are rounding errors of the scans."""


@dataclass(frozen=True, eq=False)
class AtlasBaseline(Baseline):
    """Each voxel against the healthy voxels at the same position: |x − μ| / σ.

    Args:
        mean_SHW: μ, in normalised intensity.
        spread_SHW: σ > 0, in normalised intensity.

    Example:
        >>> train_NSHW = np.random.default_rng(0).normal(size=(50, 1, 2, 2)).astype(np.float32)
        >>> atlas = AtlasBaseline.fit(train_NSHW)
        >>> bool(atlas.deviation(train_NSHW[0] + 9).min() > 5)
        True
    """

    name: ClassVar[str] = "atlas"
    mean_SHW: Float32[np.ndarray, "S H W"]
    spread_SHW: Float32[np.ndarray, "S H W"]

    @classmethod
    def fit(cls, train_NSHW: Float[np.ndarray, "N S H W"], *, spread_floor: float = SPREAD_FLOOR) -> AtlasBaseline:
        """Learn mean and spread per position from healthy training scans.

        Args:
            train_NSHW: At least two healthy scans.
            spread_floor: The smallest spread, as a share of the grid's root mean square spread; > 0.

        Raises:
            ValueError: If there are fewer than two scans, they are all the same, or the floor is not positive.
        """
        # Slice by slice: the scans are stored in half precision, and all of them in full may not fit into memory.
        parts = [mean_and_spread(_slice_of_all(train_NSHW, s)) for s in range(train_NSHW.shape[1])]
        mean_SHW, spread_SHW = (np.concatenate(each) for each in zip(*parts, strict=True))
        return cls(mean_SHW, floored(spread_SHW, spread_floor))

    def deviation(self, scan_SHW: Float32[np.ndarray, "S H W"]) -> Float32[np.ndarray, "S H W"]:
        """Return |x − μ| / σ, in healthy standard deviations, >= 0."""
        return np.abs(scan_SHW - self.mean_SHW) / self.spread_SHW

    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return |x − μ| / σ, in healthy standard deviations, >= 0."""
        return self.deviation(prepared.slices_SHW)

    def tensors(self) -> dict[str, Tensor]:
        """Return mean and spread."""
        return {"mean": torch.from_numpy(self.mean_SHW), "spread": torch.from_numpy(self.spread_SHW)}

    @classmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> AtlasBaseline:
        """Rebuild it."""
        return cls(tensors["mean"].numpy(), tensors["spread"].numpy())


@dataclass(frozen=True, eq=False)
class PcaBaseline(Baseline):
    """What the principal components of healthy scans cannot reproduce: |x − x̂|, x̂ = μ + Vᵀ V (x − μ).

    One component is a whole volume: anatomy varies in all three dimensions together.

    Args:
        mean_SHW: μ, in normalised intensity.
        components_PSHW: V, orthonormal, the direction of greatest variance first.

    Example:
        >>> train_NSHW = np.random.default_rng(0).normal(size=(5, 2, 4, 4)).astype(np.float32)
        >>> pca = PcaBaseline.fit(train_NSHW)
        >>> bool(pca.unexplained(train_NSHW[0]).max() < 1e-5)
        True
    """

    name: ClassVar[str] = "pca"
    mean_SHW: Float32[np.ndarray, "S H W"]
    components_PSHW: Float32[np.ndarray, "P S H W"]

    @classmethod
    def fit(cls, train_NSHW: Float[np.ndarray, "N S H W"], *, components: int = COMPONENTS) -> PcaBaseline:
        """Learn the components from healthy training scans.

        The scans are far fewer than the voxels, so the components follow from the eigenvectors u of X Xᵀ, which is
        summed up slice by slice: v = Xᵀ u / √λ.

        Args:
            train_NSHW: At least two healthy scans.
            components: How many to keep, >= 1.  N scans have N − 1 at most; there are no more then.

        Raises:
            ValueError: If there are fewer than two scans or less than one component.
        """
        check_several(_slice_of_all(train_NSHW, 0))
        if components < 1:
            raise ValueError(f"found components={components}; expected at least 1")
        slices = range(train_NSHW.shape[1])
        gram_NN = sum((x_ND @ x_ND.T for x_ND in (_centred(train_NSHW, s) for s in slices)), start=np.zeros(()))
        variances_N, directions_NN = np.linalg.eigh(gram_NN)
        singular_P = np.sqrt(np.maximum(variances_N[::-1], 0))[:components]
        # Directions without variance are rounding errors: they would reproduce anomalies by chance.
        kept = int(np.sum(singular_P > _SMALLEST_DIRECTION * singular_P[0]))
        weights_PN = directions_NN[:, ::-1][:, :kept].T / singular_P[:kept, None]
        parts = [weights_PN @ _centred(train_NSHW, s) for s in slices]
        mean_SHW = np.concatenate([_slice_of_all(train_NSHW, s).mean(axis=0, dtype=np.float64) for s in slices])
        components_PSHW = np.stack(parts, axis=1).astype(np.float32).reshape(kept, *mean_SHW.shape)
        return cls(mean_SHW.astype(np.float32), components_PSHW)

    def unexplained(self, scan_SHW: Float32[np.ndarray, "S H W"]) -> Float32[np.ndarray, "S H W"]:
        """Return |x − x̂|, in normalised intensity, >= 0."""
        centred_SHW = scan_SHW - self.mean_SHW
        weights_P = np.tensordot(self.components_PSHW, centred_SHW, axes=3)
        return np.abs(centred_SHW - np.tensordot(weights_P, self.components_PSHW, axes=1))

    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return |x − x̂|, in normalised intensity, >= 0."""
        return self.unexplained(prepared.slices_SHW)

    def tensors(self) -> dict[str, Tensor]:
        """Return mean and components."""
        return {"mean": torch.from_numpy(self.mean_SHW), "components": torch.from_numpy(self.components_PSHW)}

    @classmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> PcaBaseline:
        """Rebuild it."""
        return cls(tensors["mean"].numpy(), tensors["components"].numpy())


def fit_atlas(cohort: HealthyCohort) -> AtlasBaseline:
    """Learn the atlas from the training scans."""
    return AtlasBaseline.fit(cohort.train_NSHW())


def fit_pca(cohort: HealthyCohort, *, components: int = COMPONENTS) -> PcaBaseline:
    """Learn the components from the training scans."""
    return PcaBaseline.fit(cohort.train_NSHW(), components=components)


def _slice_of_all(train_NSHW: Float[np.ndarray, "N S H W"], s: int) -> Float32[np.ndarray, "N 1 H W"]:
    return train_NSHW[:, s : s + 1].astype(np.float32)


def _centred(train_NSHW: Float[np.ndarray, "N S H W"], s: int) -> Float64[np.ndarray, "N D"]:
    flat_ND = rearrange(train_NSHW[:, s], "N H W -> N (H W)").astype(np.float64)
    return flat_ND - flat_ND.mean(axis=0)

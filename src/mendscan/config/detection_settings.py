"""What can be set about scores, restorations and maps; see `settings` for the rest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mendscan.config.fields import Amount, Fraction, Frozen, Percentile, Positive, Size

__all__ = ["DetectionSettings"]


class DetectionSettings(Frozen):
    """Scores, restorations and maps (the paper's values by default)."""

    score_percentile: Percentile = 98.0
    """λ_s is this percentile of the healthy code NLL."""
    restoration_percentile: Percentile = 90.0
    """λ_p is this percentile of the healthy code NLL."""
    restorations: Positive = 15
    """Healthy versions drawn per slice."""
    temperature: Amount = 3.0
    """Sharpness of the weights of the restorations, φ = softmax(temperature / mean |y − r|)."""
    restored_scan: Literal["sampled", "soft"] = "sampled"
    """What is shown as the restored scan.  ``sampled``: the weighted mean of the restorations that were drawn.
    ``soft``: unlikely codes replaced by the vector that the prior expects; none is drawn unless the map needs some."""
    voxel_map: Literal["residual", "standardised"] = "residual"
    """``residual``: the paper's pooled residual, clipped to 1.  ``standardised``: kinds of `evidence`, each smoothed
    and standardised by healthy statistics per position, combined by healthy tail probabilities."""
    evidence: Annotated[tuple[Literal["residual", "nll", "texture", "discriminator"], ...], Field(min_length=1)] = (
        "residual",
        "nll",
    )
    """What speaks for an anomaly in ``standardised``: restorations' residual, code NLL, texture (from both sides), and
    what the discriminator takes for a fault."""
    min_pool: Positive = 3
    """Edge of the minimum filter of ``residual``, in voxels of the model grid: thin edges vanish."""
    mean_pool_SHW: tuple[Positive, Positive, Positive] = (3, 7, 7)
    """Edges of the mean filter that follows: slices, pixels, pixels."""
    residual_sigma: Amount = 2.0
    """Gaussian smoothing of the residual before it is standardised, in voxels of the model grid."""
    nll_sigma: Amount = 3.0
    """The same for the code NLL."""
    nll_shifts: Literal[1, 5, 9] = 1
    """Places of the grid of codes over which the NLL is averaged as evidence: 1 = as encoded (the paper), 5 = also a
    pixel away along both axes, 9 = along one of them, too."""
    nll_level: Literal["cohort", "scan"] = "cohort"
    """What the standardised NLL is measured from: what is usual in healthy scans, or, with ``scan``, also its own
    median over the scan: what makes a whole scan less likely, such as noise or an unusual subject, points at no place
    in it."""
    texture_sigma: Amount = 1.0
    """The same for texture."""
    discriminator_sigma: Amount = 0.7
    """The same for the discriminator's logit, which is not standardised: it was trained against what is usual."""
    voxel_aspect_SHW: tuple[Size, Size, Size] = (1.0, 1.0, 1.0)
    """Length of a voxel of the model grid along slices, rows and columns, the shortest 1: every Gaussian before maps
    are standardised is as wide in mm along all axes, and its σ counts voxels along the shortest."""
    calibration_restorations: Positive = 5
    """Restorations per calibration scan; their residual's statistics hardly depend on it."""
    scan_score: Literal["paper", "parts"] = "paper"
    """``paper``: the sum of the code NLL above λ_s.  ``parts``: the more anomalous of the map's highest voxels and the
    way the scan was taken, each in healthy standard deviations."""
    scan_top_share: Annotated[float, Field(gt=0, le=1)] = 0.002
    """Part of the scored voxels, the highest, whose mean evidence speaks for the scan."""
    threshold_quantile: Fraction = 0.995
    """The healthy threshold is this quantile of the map's voxels on healthy calibration scans."""

    def along_axes(self, sigma: float) -> tuple[float, float, float]:
        """Return a Gaussian's width along slices, rows and columns, in voxels: as wide in mm along all of them.

        Args:
            sigma: Its width in voxels along the model grid's finest axis.

        Example:
            >>> DetectionSettings(voxel_aspect_SHW=(4.0, 1.0, 1.0)).along_axes(2.0)
            (0.5, 2.0, 2.0)
        """
        along_s, along_h, along_w = (sigma / length for length in self.voxel_aspect_SHW)
        return along_s, along_h, along_w

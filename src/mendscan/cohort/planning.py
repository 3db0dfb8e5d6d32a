"""From a cohort's fingerprint to a plan: every decision with its reason in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mendscan.cohort.decision import SET_BY_USER, Decision
from mendscan.cohort.fingerprint import BACKGROUND, Fingerprint
from mendscan.cohort.plan import Plan
from mendscan.cohort.plan_detection import ANISOTROPIC, auto_detection
from mendscan.cohort.preparing import INTENSITY_CLIP
from mendscan.config import (
    PRESETS,
    AugmentationSettings,
    CodebookSettings,
    DiscriminatorSettings,
    PreparationSettings,
    PriorSettings,
    Settings,
    TrainingSettings,
    VqvaeSettings,
    assigned,
)

__all__ = ["plan_auto", "plan_preset"]

Axis = Literal["X", "Y", "Z"]
_AXES: tuple[Axis, Axis, Axis] = ("X", "Y", "Z")

REGION_MM = 100.0
"""Scans whose largest side is shorter show one region, cropped; longer ones show a whole head or body."""
VOXEL_BUDGET = 150_000
"""Voxels of the model grid at most: what two CPU cores can train on and score within minutes."""
PIXELS_PER_STEP = 125_000
"""Slice pixels in one training batch: about 0.2 s a step on two CPU cores."""
VOXELS_PER_STEP = 250_000
"""Voxels in one batch of the discriminator: about as long a step."""


def plan_preset(name: str, cohort: Fingerprint, *, seed: int) -> Plan:
    """Return the paper's settings, whatever the cohort looks like."""
    settings = PRESETS[name].model_copy(update={"seed": seed})
    why = f"preset {name}: as Naval Marimont & Tarroni (2021)"
    return Plan(cohort, (Decision("all settings", name, why),), settings)


def plan_auto(
    cohort: Fingerprint, *, seed: int, bfloat16_is_fast: bool = False, assignments: Sequence[str] = ()
) -> Plan:
    """Derive settings from the cohort; what follows from the grid follows from that which the user has set.

    Args:
        cohort: Its fingerprint.
        seed: Seed of training.
        bfloat16_is_fast: Whether this processor computes bfloat16 natively.
        assignments: The user's settings, ``section.key=value``.

    Raises:
        SettingsError: If an assignment is refused.
    """
    planned, decisions = _preparation(cohort, _asked_axis(assignments))
    plan = _plan_on_grid(cohort, planned, decisions, seed, bfloat16_is_fast)
    wanted = plan.asked(assignments)
    if wanted.settings.preparation != planned:
        other = _plan_on_grid(cohort, wanted.settings.preparation, decisions, seed, bfloat16_is_fast)
        wanted = other.asked(assignments)
    return wanted


def _asked_axis(assignments: Sequence[str]) -> Axis | None:
    """Return the slice axis that the user has set, which the grid must suit; what is no axis is refused later."""
    asked = assigned(assignments).get("preparation.slice_axis")
    return next((axis for axis in _AXES if axis == asked), None)


def _preparation(cohort: Fingerprint, asked: Axis | None) -> tuple[PreparationSettings, tuple[Decision, ...]]:
    has_background = cohort.background_fraction > 0.1
    axis, axis_decision = (
        (asked, Decision("preparation.slice_axis", asked, SET_BY_USER)) if asked else _slice_axis(cohort)
    )
    free = _free_axis(cohort, axis)
    grid, grid_decisions = (
        _region_grid(cohort, free) if _is_region(cohort) else _whole_grid(cohort, free, has_background)
    )
    intensity, intensity_decisions = _intensity(cohort, has_background)
    decisions = (*grid_decisions, axis_decision, *intensity_decisions)
    return PreparationSettings(slice_axis=axis, **grid, **intensity), decisions


def _is_region(cohort: Fingerprint) -> bool:
    return max(cohort.extent_median_mm) < REGION_MM


def _plan_on_grid(
    cohort: Fingerprint,
    preparation: PreparationSettings,
    decisions: tuple[Decision, ...],
    seed: int,
    bfloat16_is_fast: bool,
) -> Plan:
    axis, region = preparation.slice_axis, _is_region(cohort)
    height, width = (n for n, name in zip(preparation.shape_XYZ, "XYZ", strict=True) if name != axis)
    batch = int(np.clip(PIXELS_PER_STEP // (height * width), 8, 64))
    scans = int(np.clip(round(VOXELS_PER_STEP / np.prod(preparation.shape_XYZ)), 1, 8))
    flip = not region and axis != "X"
    voxel_mm = preparation.spacing_mm or np.divide(cohort.extent_median_mm, preparation.shape_XYZ)
    detection, detection_decisions = auto_detection([voxel_mm["XYZ".index(each)] for each in preparation.axes_SHW])
    settings = Settings(
        preset="auto",
        preparation=preparation,
        augmentation=_AUTO_AUGMENTATION.model_copy(update={"flip": flip}),
        vqvae=_AUTO_VQVAE,
        codebook=_AUTO_CODEBOOK,
        prior=_AUTO_PRIOR,
        discriminator=DiscriminatorSettings(batch_scans=scans, learning_rate=6e-3),
        training=_AUTO_TRAINING.model_copy(
            update={"batch_slices": batch, "precision": "bfloat16" if bfloat16_is_fast else "float32"}
        ),
        detection=detection,
        seed=seed,
    )
    decisions = (
        *decisions,
        *_network_decisions(settings),
        *detection_decisions,
        *_training_decisions(settings.training),
        Decision("augmentation.flip", str(flip).lower(), _flip_reason(region, axis)),
    )
    return Plan(cohort, decisions, settings)


_AUTO_AUGMENTATION = AugmentationSettings(
    probability=1.0,
    elastic_pixels=0.86,
    elastic_affine_pixels=0.0,
    brightness=0.15,
    contrast_about=0.0,
    blur_least_sigma_pixels=0.05,
    blur_sigma_pixels=0.7,
    noise=0.05,
    noise_even_in="deviation",
    clip_sigma=INTENSITY_CLIP,
    clip_again=False,
)
_AUTO_VQVAE = VqvaeSettings(
    channels=(64, 64),
    stem_kernel=4,
    stem_stride=2,
    down_kernel=4,
    up_kernel=4,
    blocks_per_level=2,
    stem_blocks=1,
    norm="group",
    codes=128,
)
_AUTO_CODEBOOK = CodebookSettings(
    update="ema", commitment=0.25, decay=0.97, revive_below=0.03, unquantised_fraction=0.12
)
_AUTO_PRIOR = PriorSettings(
    channels=64, blocks=2, layers_per_block=2, value_channels=64, attention_downsampling=1, attention_kernel=1
)
_AUTO_TRAINING = TrainingSettings(
    optimiser="muon",
    learning_rate_vqvae=0.01,
    learning_rate_prior=0.02,
    schedule="one-cycle",
    clip="norm",
    weight_decay=0.01,
    discriminator_share=0.65,
    vqvae_share=0.4,
    prior_views=4,
    choose_detection=True,
)


def _slice_axis(cohort: Fingerprint) -> tuple[Axis, Decision]:
    spacing = cohort.spacing_median_mm
    ratio = max(spacing) / min(spacing)
    if ratio >= ANISOTROPIC:
        axis = _AXES[int(np.argmax(spacing))]
        why = f"the coarsest axis, {max(spacing):.3g} mm against {min(spacing):.3g} mm: slices keep the fine plane"
    else:
        axis, why = "Z", f"axial slices; spacing is even within a factor of {ratio:.2f}"
    return axis, Decision("preparation.slice_axis", axis, why)


def _free_axis(cohort: Fingerprint, axis: str) -> str:
    """Return the axis along which the grid may have any number of voxels: that of thick slices, which none is cut from.

    Along the others networks need multiples of 4.
    """
    spacing = cohort.spacing_median_mm
    thick = _AXES[int(np.argmax(spacing))] == axis and max(spacing) >= ANISOTROPIC * min(spacing)
    return axis if thick else ""


def _region_grid(cohort: Fingerprint, free: str) -> tuple[dict[str, Any], list[Decision]]:
    shrink, why = 1.0, "median shape"
    while np.prod(shape := _region_shape(cohort.shape_median, shrink, free)) > VOXEL_BUDGET:
        shrink, why = shrink * 1.02, f"median shape, made smaller to stay below {VOXEL_BUDGET:,} voxels"
    longest_mm = max(cohort.extent_median_mm)
    decisions = [
        Decision(
            "preparation.fit",
            "resize",
            f"the scans' longest side is {longest_mm:.0f} mm: crops of one region, brought to one grid",
        ),
        Decision("preparation.shape_XYZ", _times(shape), f"{why}; rounded to multiples of 4"),
    ]
    return {"shape_XYZ": shape, "fit": "resize"}, decisions


def _region_shape(median: Sequence[float], shrink: float, free: str) -> tuple[int, ...]:
    return tuple(
        max(8, round(n / shrink) if name == free else 4 * round(n / shrink / 4))
        for n, name in zip(median, "XYZ", strict=True)
    )


def _whole_grid(cohort: Fingerprint, free: str, has_background: bool) -> tuple[dict[str, Any], list[Decision]]:
    sides_mm = np.array(cohort.foreground_mm) * 1.04 if has_background else np.array(cohort.extent_median_mm)
    spacing_mm = _affordable_spacing(sides_mm, np.array(cohort.spacing_median_mm), free)
    shape = _whole_shape(sides_mm, spacing_mm, free)
    what = "the foreground of 95 % of the scans with a margin of 4 %" if has_background else "the median field of view"
    decisions = [
        Decision(
            "preparation.fit",
            "resample",
            f"the scans are {max(cohort.extent_median_mm):.0f} mm long: whole scans, millimetres are kept",
        ),
        Decision(
            "preparation.spacing_mm",
            _times(spacing_mm),
            f"the median spacing, or coarser so that the grid stays below {VOXEL_BUDGET:,} voxels",
        ),
        Decision("preparation.shape_XYZ", _times(shape), f"holds {what}; multiples of 4"),
    ]
    return {"shape_XYZ": shape, "fit": "resample", "spacing_mm": tuple(float(mm) for mm in spacing_mm)}, decisions


def _affordable_spacing(
    sides_mm: Float[np.ndarray, " 3"], finest_mm: Float[np.ndarray, " 3"], free: str
) -> Float[np.ndarray, " 3"]:
    """Coarsen the finest axes in steps of 2 % until the grid holds few enough voxels."""
    spacing_mm = finest_mm
    while np.prod(_whole_shape(sides_mm, np.round(spacing_mm, 2), free)) > VOXEL_BUDGET:
        spacing_mm = np.maximum(finest_mm, spacing_mm.min() * 1.02)
    return np.round(spacing_mm, 2)


def _whole_shape(sides_mm: Float[np.ndarray, " 3"], spacing_mm: Float[np.ndarray, " 3"], free: str) -> tuple[int, ...]:
    counts = np.ceil(sides_mm / spacing_mm)
    return tuple(
        int(max(1, n)) if name == free else max(8, 4 * math.ceil(n / 4)) for n, name in zip(counts, "XYZ", strict=True)
    )


def _intensity(cohort: Fingerprint, has_background: bool) -> tuple[dict[str, Any], list[Decision]]:
    share = f"{100 * cohort.background_fraction:.0f} % of the voxels are background"
    if cohort.intensity_low < -200 and cohort.intensity_scale_ratio < 2:
        low, high = cohort.intensity_low, cohort.intensity_high
        why = f"negative values on one common scale ({low:.0f} … {high:.0f}), as in CT: the scale carries meaning"
        decision = Decision("preparation.intensity", f"range {low:.0f} … {high:.0f}", why)
        values = {"intensity": "range", "intensity_range": (low, high)}
        return {**values, "background_below": BACKGROUND if has_background else 0.0}, [decision]
    why = f"99th percentiles differ up to {cohort.intensity_scale_ratio:.3g}-fold: each scan is standardised by itself"
    below = BACKGROUND if has_background else 0.0
    where = "statistics of the foreground only" if has_background else "too few to exclude, all voxels count"
    return {"intensity": "robust", "background_below": below}, [
        Decision("preparation.intensity", "robust", why),
        Decision("preparation.background_below", f"{below:g}", f"{share}: {where}"),
    ]


def _network_decisions(settings: Settings) -> list[Decision]:
    height, width = settings.latent_shape
    return [
        Decision(
            "vqvae",
            f"{_times(settings.vqvae.channels)} channels, {settings.vqvae.codes} codes on {height}×{width}",
            "one code per 4×4 pixels: finer codes copy anomalies, coarser ones lose them",
        ),
        Decision(
            "codebook",
            f"EMA {settings.codebook.decay}, k-means start, revival",
            "keeps all codes in use; plain gradient codebooks lose most of them",
        ),
        Decision(
            "prior",
            f"{settings.prior.channels} channels, {settings.prior.blocks}×{settings.prior.layers_per_block} pairs",
            "trains to its best within minutes on two CPU cores; larger ones overfit a small cohort",
        ),
        Decision(
            "discriminator",
            f"{_times(settings.discriminator.channels)} channels, {settings.discriminator.batch_scans} scans a step",
            f"learns from self-made faults in healthy scans; about {VOXELS_PER_STEP:,} voxels a step, 8 scans at most",
        ),
    ]


def _training_decisions(training: TrainingSettings) -> list[Decision]:
    return [
        Decision(
            "training.optimiser",
            training.optimiser,
            "on hippocampus MRI the discriminator needed a third of the steps that AdamW took, the VQ-VAE a sixth",
        ),
        Decision(
            "training.batch_slices",
            str(training.batch_slices),
            f"about {PIXELS_PER_STEP:,} pixels a step, 64 slices at most",
        ),
        Decision(
            "training.precision",
            training.precision,
            "the processor computes bfloat16 natively"
            if training.precision == "bfloat16"
            else "bfloat16 is not native here",
        ),
    ]


def _flip_reason(region: bool, axis: str) -> str:
    if region:
        return "a cropped region has a left and a right side that are not alike"
    return "left and right look alike in whole scans" if axis != "X" else "sagittal slices have no left and right"


def _times(values: Sequence[int] | Sequence[float] | Float[np.ndarray, " n"]) -> str:
    return "×".join(f"{value:g}" for value in values)

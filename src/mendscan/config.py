"""Every setting of mendscan, frozen and saved inside each model.

No bare number decides a result: it is a setting here, with its unit, source and default, or it is learnt from healthy
scans.  `PRESETS` holds the settings of the paper, Naval Marimont & Tarroni, "Anomaly detection through latent space
restoration using vector-quantized variational autoencoders" (ISBI 2021, arXiv 2012.06765), below called *the paper*.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mendscan.errors import SettingsError

__all__ = [
    "PRESETS",
    "AugmentationSettings",
    "CodebookSettings",
    "DetectionSettings",
    "PreparationSettings",
    "PriorSettings",
    "Settings",
    "TrainingSettings",
    "VqvaeSettings",
    "override",
    "parse_settings",
]

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percentile = Annotated[float, Field(gt=0, lt=100)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)


class PreparationSettings(_Frozen):
    """From a scan to slices on the model grid."""

    shape_XYZ: tuple[Positive, Positive, Positive]
    """Voxels of the model grid, in RAS+ order."""
    fit: Literal["resize", "resample"]
    """``resize`` stretches the field of view onto the grid; ``resample`` keeps millimetres, then crops or pads."""
    spacing_mm: tuple[float, float, float] | None = None
    """Voxel size of the model grid in mm, for ``resample``."""
    slice_axis: Literal["X", "Y", "Z"] = "Z"
    """The axis that is cut into slices; Z gives axial slices."""
    intensity: Literal["foreground", "robust", "range"]
    """``foreground``: background to 0, the rest standardised by the volume's own foreground (the paper, brain).
    ``robust``: standardised by the mean and spread of the foreground between its 1st and 99th percentile.
    ``range``: `intensity_range` mapped linearly onto [-1, 1] (the paper, abdomen)."""
    background_below: Fraction = 0.05
    """A voxel below this fraction of the scan's range is background (the paper: 0.05 of scans in [0, 1])."""
    intensity_range: tuple[float, float] = (0.0, 1.0)
    """What ``range`` maps onto [-1, 1]."""
    training_margin_slices: NonNegative = 0
    """Slices left out of training at either end (the paper, brain: 20)."""
    scored_slices: Positive | None = None
    """Evenly spaced slices scored per scan (the paper: 32); None scores every slice."""


class AugmentationSettings(_Frozen):
    """Random changes of training slices; each is a full range or a probability.  The paper's values by default."""

    flip: bool = True
    """Mirror along the last axis of the slice, with probability one half."""
    rotation_degrees: float = 5.0
    scale_range: tuple[float, float] = (0.85, 1.10)
    elastic_pixels: float = 2.0
    """Standard deviation of the elastic displacement."""
    brightness: float = 0.15
    contrast: float = 0.15
    blur_sigma_pixels: float = 0.7
    """Largest blur; half of the slices are blurred."""
    noise: float = 0.05
    """Largest standard deviation of added noise, in units of the prepared intensities."""
    clip_sigma: float = 3.0
    """Brightness and contrast act on intensities clipped to this many standard deviations."""
    keep_zero: bool = False
    """Exact zeros (the paper's background) stay zero."""


class VqvaeSettings(_Frozen):
    """The auto-encoder that turns a slice into a small grid of codes."""

    channels: tuple[Positive, ...]
    """Width after the stem and after each down-sampling level; the last is the dimension of a code."""
    stem_kernel: Positive = 7
    stem_stride: Literal[1, 2] = 1
    down_kernel: Positive = 5
    up_kernel: Positive = 6
    blocks_per_level: Positive = 2
    stem_blocks: NonNegative | None = None
    """Blocks at the finest level, where they cost most; None = `blocks_per_level`."""
    norm: Literal["batch", "group"] = "batch"
    dropout: Fraction = 0.0
    codes: Positive = 128

    @property
    def downsampling(self) -> int:
        """Pixels of a slice per position of the latent grid, along one axis."""
        return int(self.stem_stride * 2 ** (len(self.channels) - 1))


class CodebookSettings(_Frozen):
    """How the codebook is learnt."""

    update: Literal["gradient", "ema"] = "gradient"
    """``gradient``: the paper's ‖sg[z_e] − e‖² term.  ``ema``: running means of the latents assigned to each code."""
    commitment: float = 1.0
    """Weight of ‖z_e − sg[e]‖²."""
    decay: Fraction = 0.97
    revive_below: Fraction = 0.0
    """A code used less than this fraction of the mean use is dead and re-seeded from current latents; 0 = never."""
    unquantised_fraction: Fraction = 0.0
    """First part of training without quantisation; k-means on the latents then starts the codebook."""


class PriorSettings(_Frozen):
    """PixelSNAIL over the codes."""

    channels: Positive = 128
    blocks: Positive = 4
    layers_per_block: Positive = 4
    key_channels: Positive = 16
    value_channels: Positive = 128
    attention_downsampling: Literal[1, 2] = 2
    attention_kernel: Literal[1, 3, 5] = 5
    """Masked convolution that gathers keys and queries."""
    dropout: Fraction = 0.1


class TrainingSettings(_Frozen):
    """The two optimisations and their budget."""

    steps: Positive | None = None
    """Steps of both networks together; fixed before training starts and recorded."""
    vqvae_share: Fraction = 0.45
    """Part of `steps` that the VQ-VAE takes; the prior takes the rest."""
    batch_slices: Positive = 64
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate_vqvae: float = 1e-4
    learning_rate_prior: float = 1e-4
    schedule: Literal["constant", "one-cycle"] = "constant"
    """``one-cycle`` rises over the first 10 % and falls to zero at the last step."""
    clip: Literal["value", "norm"] = "value"
    clip_at: float = 1.0
    weight_decay: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the convolutions in training; parameters stay float32."""
    prior_views: Positive = 1
    """Augmented versions of each training slice that are encoded for the prior."""
    validation_fraction: Fraction = 0.08
    calibration_fraction: Fraction = 0.12


class DetectionSettings(_Frozen):
    """Scores, restorations and maps (the paper's values by default)."""

    score_percentile: Percentile = 98.0
    """λ_s is this percentile of the healthy code NLL."""
    restoration_percentile: Percentile = 90.0
    """λ_p is this percentile of the healthy code NLL."""
    restorations: Positive = 15
    temperature: float = 3.0
    """Sharpness of the weights of the restorations, φ = softmax(temperature / mean |y − r|)."""
    voxel_map: Literal["residual", "standardised"] = "residual"
    """``residual``: the paper's pooled residual, clipped to 1.  ``standardised``: residual and code NLL, each smoothed
    and standardised by healthy statistics per position, combined by healthy tail probabilities."""
    min_pool: Positive = 3
    mean_pool_SHW: tuple[Positive, Positive, Positive] = (3, 7, 7)
    residual_sigma: float = 2.0
    """Gaussian smoothing of the residual before it is standardised, in voxels of the model grid."""
    nll_sigma: float = 3.0
    """The same for the code NLL."""
    calibration_restorations: Positive = 5
    """Restorations per calibration scan; their residual's statistics hardly depend on it."""
    threshold_quantile: Fraction = 0.995
    """The healthy threshold is this quantile of the map's voxels on healthy calibration scans."""


class Settings(_Frozen):
    """All settings of one model."""

    preset: str
    preparation: PreparationSettings
    augmentation: AugmentationSettings = AugmentationSettings()
    vqvae: VqvaeSettings
    codebook: CodebookSettings = CodebookSettings()
    prior: PriorSettings = PriorSettings()
    training: TrainingSettings = TrainingSettings()
    detection: DetectionSettings = DetectionSettings()
    seed: int = 0

    @property
    def slice_shape(self) -> tuple[int, int]:
        """(H, W): pixels of a slice, the model grid without its slice axis."""
        height, width = (
            n for n, axis in zip(self.preparation.shape_XYZ, "XYZ", strict=True) if axis != self.slice_axis
        )
        return height, width

    @property
    def slice_axis(self) -> str:
        """The axis that is cut into slices."""
        return self.preparation.slice_axis

    @property
    def slices(self) -> int:
        """Slices of the model grid."""
        return self.preparation.shape_XYZ["XYZ".index(self.slice_axis)]

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(h, w): positions of the latent grid."""
        height, width = self.slice_shape
        return height // self.vqvae.downsampling, width // self.vqvae.downsampling


PRESETS: dict[str, Settings] = {
    "brain": Settings(
        preset="brain",
        preparation=PreparationSettings(
            shape_XYZ=(160, 160, 256),
            fit="resize",
            intensity="foreground",
            training_margin_slices=20,
            scored_slices=32,
        ),
        augmentation=AugmentationSettings(keep_zero=True),
        vqvae=VqvaeSettings(channels=(16, 32, 64, 256)),
    ),
    "abdomen": Settings(
        preset="abdomen",
        preparation=PreparationSettings(shape_XYZ=(160, 160, 256), fit="resize", intensity="range", scored_slices=32),
        vqvae=VqvaeSettings(channels=(16, 32, 64, 128, 256)),
        prior=PriorSettings(attention_downsampling=1),
    ),
}
"""The paper's two experiments, method for method."""


def parse_settings(values: dict[str, Any], *, where: object) -> Settings:
    """Validate settings read from a file.

    Args:
        values: Nested settings, as `Settings.model_dump(mode="json")` writes them.
        where: The file they came from, for the error.

    Raises:
        SettingsError: If a key is unknown (with the nearest known one), missing, or a value is out of range.
    """
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _as_settings_error(error, where) from None
    _check_consistency(settings, where)
    return settings


def override(settings: Settings, assignments: Sequence[str]) -> Settings:
    """Apply ``section.key=value`` assignments, as ``--set`` gives them.

    Raises:
        SettingsError: If an assignment has no ``=``, its key is unknown or its value is refused.

    Example:
        >>> override(PRESETS["brain"], ["training.batch_slices=8"]).training.batch_slices
        8
    """
    values = settings.model_dump(mode="json")
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise SettingsError("not an assignment", where=f"--set {assignment}", remedy="write section.key=value")
        *sections, last = key.strip().split(".")
        target = values
        for section in sections:
            target = _known(target, section, assignment)
        _known(target, last, assignment)
        target[last] = _parse_value(text.strip())
    return parse_settings(values, where="--set")


def _known(target: Any, key: str, assignment: str) -> Any:
    if isinstance(target, dict) and key in target:
        return target[key]
    choices = list(target) if isinstance(target, dict) else []
    near = difflib.get_close_matches(key, choices, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(choices)}"
    raise SettingsError("unknown setting", where=f"--set {assignment}", found=key, remedy=remedy)


def _parse_value(text: str) -> Any:
    if text.lower() in {"none", "null"}:
        return None
    if "," in text:
        return [_parse_value(part) for part in text.strip("()[] ").split(",") if part.strip()]
    return text


def _as_settings_error(error: ValidationError, where: object) -> SettingsError:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    remedy = "see docs/settings.md"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _all_keys(Settings), n=1)
        remedy = f"did you mean {near[0]!r}?" if near else remedy
    return SettingsError(
        first["msg"].lower(), where=f"{where}: {location}", found=repr(first["input"])[:60], remedy=remedy
    )


def _all_keys(model: type[BaseModel]) -> list[str]:
    keys = list(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _all_keys(field.annotation)
    return keys


def _check_consistency(settings: Settings, where: object) -> None:
    factor = settings.vqvae.downsampling
    if any(pixels % factor for pixels in settings.slice_shape):
        raise SettingsError(
            "slice shape is not divisible by the network's down-sampling",
            where=where,
            found="×".join(map(str, settings.slice_shape)),
            expected=f"multiples of {factor}",
            remedy="change preparation.shape_XYZ or vqvae.channels",
        )
    step = settings.prior.attention_downsampling
    if any(n % step for n in settings.latent_shape):
        raise SettingsError(
            "latent grid is not divisible by prior.attention_downsampling",
            where=where,
            found="×".join(map(str, settings.latent_shape)),
            expected=f"multiples of {step}",
            remedy="set prior.attention_downsampling=1",
        )
    if settings.preparation.fit == "resample" and settings.preparation.spacing_mm is None:
        raise SettingsError("preparation.spacing_mm is missing", where=where, remedy="give it for fit=resample")
    if settings.slices <= 2 * settings.preparation.training_margin_slices:
        raise SettingsError("training_margin_slices leaves no slice to train on", where=where, found=settings.slices)

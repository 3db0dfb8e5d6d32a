"""What can be set, section by section, with units, sources and defaults.

Defaults are those of the paper: Naval Marimont & Tarroni, "Anomaly detection through latent space restoration using
vector-quantized variational autoencoders" (ISBI 2021, arXiv 2012.06765).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mendscan.config.detection_settings import DetectionSettings
from mendscan.config.fields import Amount, Fraction, Frozen, NonNegative, Positive, Size

__all__ = [
    "AugmentationSettings",
    "CodebookSettings",
    "DiscriminatorSettings",
    "PreparationSettings",
    "PriorSettings",
    "Settings",
    "TrainingSettings",
    "VqvaeSettings",
]


class PreparationSettings(Frozen):
    """From a scan to slices on the model grid."""

    shape_XYZ: tuple[Positive, Positive, Positive]
    """Voxels of the model grid, in RAS+ order."""
    fit: Literal["resize", "resample"]
    """``resize`` stretches the field of view onto the grid; ``resample`` keeps millimetres, then crops or pads."""
    spacing_mm: tuple[Size, Size, Size] | None = None
    """Voxel size of the model grid in mm, for ``resample``."""
    slice_axis: Literal["X", "Y", "Z"] = "Z"
    """The axis that is cut into slices; Z gives axial slices."""
    planes: Literal[1, 2, 3] = 1
    """2: scans are cut along the first other axis as well, with a VQ-VAE and a prior of its own, and the NLL as
    evidence is the mean of both; 3: along all.  Restorations and the paper's scores are of `slice_axis` alone."""
    slice_view: Literal["array", "image"] = "array"
    """``array``: rows and columns of a slice are the two other axes, in RAS+ order.  ``image``: as on a screen, the
    second of them upwards and the first to the right (the original's networks saw slices so)."""
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

    @property
    def axes_SHW(self) -> str:
        """The axes of a prepared scan in the order of its array: the slice axis first."""
        first, second = (axis for axis in "XYZ" if axis != self.slice_axis)
        return self.slice_axis + (second + first if self.slice_view == "image" else first + second)


class AugmentationSettings(Frozen):
    """Random changes of training slices; each is a full range or a probability.  The original's values by default."""

    probability: Fraction = 0.5
    """Probability of each change by itself: elastic, scale, rotation, colour and noise; flip and blur have 0.5."""
    flip: bool = True
    """Mirror left and right, with probability one half; slices cut along X have no left and right."""
    rotation_degrees: Amount = 5.0
    """Largest rotation, to either side."""
    scale_range: tuple[float, float] = (0.85, 1.10)
    """Smallest and largest magnification."""
    elastic_pixels: Amount = 0.065
    """Standard deviation of the elastic displacement (the original: amplitude 2 smoothed by σ = 5 pixels)."""
    elastic_affine_pixels: Amount = 5.0
    """With the elastic displacement, three points move by up to this along either axis, and all others with them."""
    brightness: Amount = 0.9
    """Largest shift up or down, in units of the prepared intensities (the original: 15 % of the range ±3)."""
    contrast: Amount = 0.15
    """Largest gain above or below 1."""
    contrast_about: float = -3.0
    """The intensity that contrast leaves where it is (the original: the lower end of the clipped range)."""
    blur_least_sigma_pixels: Amount = 0.8
    """Smallest blur."""
    blur_sigma_pixels: Amount = 1.4
    """Largest blur; half of the slices are blurred (the original: by kernels of 3, 5 or 7 pixels)."""
    noise: Amount = 0.19
    """Largest standard deviation of added noise, in units of the prepared intensities (the original: √0.001 of 6)."""
    noise_even_in: Literal["variance", "deviation"] = "variance"
    """Whether the variance of the noise is drawn evenly (the original) or its standard deviation."""
    clip_sigma: Size = 3.0
    """Brightness and contrast act on intensities clipped to this many standard deviations."""
    clip_again: bool = True
    """Clip to the same range after colour and noise too (the original)."""
    keep_zero: bool = False
    """Exact zeros (the paper's background) stay zero."""


class VqvaeSettings(Frozen):
    """The auto-encoder that turns a slice into a small grid of codes."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16)]
    """Width after the stem and after each down-sampling level; the last is the dimension of a code."""
    stem_kernel: Positive = 7
    """Pixels along one side of the first convolution."""
    stem_stride: Literal[1, 2] = 1
    """2 halves the resolution in the first convolution already (the paper: 1)."""
    stem_padding: bool = True
    """Zeros around a slice, so that the first convolution keeps its size (the original: none)."""
    down_kernel: Positive = 5
    """Pixels along one side of a down-sampling convolution."""
    up_kernel: Positive = 6
    """Pixels along one side of an up-sampling transposed convolution."""
    blocks_per_level: Positive = 2
    """Gated residual blocks before each change of resolution."""
    stem_blocks: NonNegative | None = None
    """Blocks at the finest level, where they cost most; None = `blocks_per_level`."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation over the batch (the paper), or over groups of channels of one slice."""
    second_norm: Literal["before", "after"] = "before"
    """Where a block normalises the second time: before its second convolution, or after it, over both halves of what
    the gate takes (the original)."""
    dropout: Fraction = 0.0
    """Probability with which a block drops a whole channel in training (the original: 0.1)."""
    codes: Positive = 128
    """Entries of the codebook."""

    @property
    def downsampling(self) -> int:
        """Pixels of a slice per position of the latent grid, along one axis."""
        return int(self.stem_stride * 2 ** (len(self.channels) - 1))

    def encoded(self, pixels: int) -> int:
        """Return how many positions of the latent grid the encoder makes of a slice's pixels, along one axis."""
        lost = self.stem_kernel - 2 * ((self.stem_kernel - 1) // 2 if self.stem_padding else 0)
        size = (pixels - lost) // self.stem_stride + 1
        for _ in self.channels[1:]:
            size = (size + 2 * ((self.down_kernel - 1) // 2) - self.down_kernel) // 2 + 1
        return size


class CodebookSettings(Frozen):
    """How the codebook is learnt."""

    update: Literal["gradient", "ema"] = "gradient"
    """``gradient``: the paper's ‖sg[z_e] − e‖² term.  ``ema``: running means of the latents assigned to each code."""
    commitment: Amount = 1.0
    """Weight of ‖z_e − sg[e]‖²."""
    decay: Fraction = 0.97
    """Weight of the past in the running means, per step."""
    revive_below: Fraction = 0.0
    """A code used less than this fraction of the mean use is dead and re-seeded from current latents; 0 = never."""
    unquantised_fraction: Fraction = 0.0
    """First part of training without quantisation; k-means on the latents then starts the codebook."""


class PriorSettings(Frozen):
    """PixelSNAIL over the codes."""

    first_kernel: Literal[3, 5, 7] = 7
    """Positions along one side of the first, masked convolution over the codes (the original, abdomen: 3)."""
    channels: Positive = 128
    """Width of both stacks."""
    blocks: Positive = 4
    """Each is `layers_per_block` pairs of layers and one causal attention."""
    layers_per_block: Positive = 4
    """Pairs of one vertical and one horizontal gated residual layer."""
    key_channels: Positive = 16
    """Width of the keys and queries of the attention."""
    value_channels: Positive = 128
    """Width of the values of the attention."""
    attention_downsampling: Literal[1, 2] = 2
    """2 attends on a grid of half the resolution (the paper, brain)."""
    attention_kernel: Literal[1, 3, 5] = 5
    """Masked convolution that gathers keys and queries."""
    dropout: Fraction = 0.1
    """Probability with which a block drops a whole channel in training."""
    context_slices: NonNegative = 0
    """So many slices before and after a slice lie those whose codes the prior may see as well; 0 = none (the paper).
    The NLL as evidence is then that of codes given theirs; restorations and the paper's scores are made without.  Needs
    every slice scored, and `training.prior_views`."""


class DiscriminatorSettings(Frozen):
    """The network that learns from self-made faults in healthy scans; not part of the paper."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16)] = (32, 64, 128)
    """Width at each resolution, from blocks of 2×2×2 voxels on; each halves it."""
    members: Positive | None = None
    """Networks whose mean logit counts, each with its part of the steps; None = one per 2 500 steps, at most 3."""
    batch_scans: Positive = 4
    """Whole scans per step."""
    learning_rate: Size = 2e-3
    """Largest learning rate."""
    deformed: Fraction = 0.3
    """Part of the scans that are turned, stretched and bent a little before faults are put in."""
    restyled: Fraction = 1.0
    """Part of the scans that may, with their faults, become smoother or sharper, noisier or unevenly bright, as another
    scanner would show them."""


class TrainingSettings(Frozen):
    """The optimisations and their budget."""

    steps: Positive | None = None
    """Steps of all networks together; None = what fits into the time given, fixed before training and recorded."""
    epochs: Positive | None = None
    """Epochs of the VQ-VAE and as many of the prior, where neither steps nor a time are given (the original: 600)."""
    slices_per_scan: Positive | None = None
    """Slices drawn at random from each training scan in an epoch, empty ones left out (the original: 8); None = every
    step draws from all slices of all scans, and there are no epochs."""
    discriminator_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of `steps` that the discriminator takes; 0 = there is none (the paper)."""
    vqvae_share: Fraction = 0.45
    """Part of the other steps that the VQ-VAE takes; the prior takes the rest."""
    batch_slices: Positive = 64
    """Slices per step."""
    optimiser: Literal["adam", "adamw", "muon"] = "adam"
    """Adam (the paper), Adam with decoupled weight decay, or Muon for matrices and filters with that for the rest.  The
    learning rates of ``auto`` are for Muon: AdamW wants a tenth."""
    learning_rate_vqvae: Size = 1e-4
    """Largest learning rate of the VQ-VAE."""
    learning_rate_prior: Size = 1e-4
    """Largest learning rate of the prior."""
    schedule: Literal["constant", "one-cycle"] = "constant"
    """``one-cycle`` rises over the first 10 % and falls to zero at the last step."""
    clip: Literal["value", "norm"] = "value"
    """Whether each gradient value is clipped (the paper), or the norm of all."""
    clip_at: Size = 1.0
    """Where it is clipped."""
    weight_decay: Amount = 0.0
    """Of the optimiser."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the convolutions in training; parameters stay float32."""
    prior_views: Positive | None = 1
    """Versions of each training slice that are encoded for the prior, all but the first augmented; None = a slice is
    augmented and encoded anew whenever it is drawn (the original)."""
    choose_detection: bool = False
    """Choose `detection.evidence` and its smoothing on validation scans with anomalies made for choosing; no figure is
    reported on their kinds.  Settings given by the user stay."""
    validation_fraction: Fraction = 0.08
    """Part of the scans that no network learns from: measures how training goes, and settings are chosen on it."""
    calibration_fraction: Fraction = 0.12
    """Part of the scans that sets thresholds and p-values; no network learns from it."""


class Settings(Frozen):
    """All settings of one model."""

    preset: str
    """What the settings come from: ``auto``, ``brain`` or ``abdomen``."""
    preparation: PreparationSettings
    augmentation: AugmentationSettings = AugmentationSettings()
    vqvae: VqvaeSettings
    codebook: CodebookSettings = CodebookSettings()
    prior: PriorSettings = PriorSettings()
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    training: TrainingSettings = TrainingSettings()
    detection: DetectionSettings = DetectionSettings()
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """Seed of everything random."""

    @property
    def slice_shape(self) -> tuple[int, int]:
        """(H, W): pixels of a slice, the model grid without its slice axis."""
        first, second = (
            n for n, axis in zip(self.preparation.shape_XYZ, "XYZ", strict=True) if axis != self.slice_axis
        )
        return (second, first) if self.preparation.slice_view == "image" else (first, second)

    @property
    def shape_SHW(self) -> tuple[int, int, int]:
        """(S, H, W): the model grid, slice axis first."""
        return self.slices, *self.slice_shape

    @property
    def has_discriminator(self) -> bool:
        """Whether a discriminator is trained."""
        return self.training.discriminator_share > 0

    @property
    def discriminator_steps(self) -> int:
        """Steps of the discriminator, all members together; at least one, if there is a discriminator."""
        total = self.training.steps or 0
        return max(1, round(self.training.discriminator_share * total)) if self.has_discriminator else 0

    @property
    def discriminator_members(self) -> int:
        """Members of the discriminator.

        On 103 hippocampus scans the mean of two members of 2 500 steps each, by Muon, found clearly more than either.
        """
        return self.discriminator.members or min(3, max(1, round(self.discriminator_steps / 2500)))

    @property
    def slice_axis(self) -> str:
        """The axis that is cut into slices."""
        return self.preparation.slice_axis

    @property
    def further_planes(self) -> dict[str, Settings]:
        """The settings of the networks of each other plane by its slice axis, with that plane alone."""
        others = [axis for axis in "XYZ" if axis != self.slice_axis]
        return {axis: self._cut_along(axis) for axis in others[: self.preparation.planes - 1]}

    def _cut_along(self, axis: str) -> Settings:
        changes = {"slice_axis": axis, "planes": 1}
        return self.model_copy(update={"preparation": self.preparation.model_copy(update=changes)})

    @property
    def slices(self) -> int:
        """Slices of the model grid."""
        return self.preparation.shape_XYZ["XYZ".index(self.slice_axis)]

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(h, w): positions of the latent grid."""
        height, width = self.slice_shape
        return height // self.vqvae.downsampling, width // self.vqvae.downsampling

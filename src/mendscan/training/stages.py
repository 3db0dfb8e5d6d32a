"""The two optimisations: the VQ-VAE on slices, then the prior on their codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import l1_loss

from mendscan.cohort.augmentation import augment
from mendscan.cohort.preparing import slice_positions
from mendscan.config import Settings
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.quantizer import code_perplexity
from mendscan.models.vqvae import VQVAE, Reconstruction
from mendscan.training.epochs import Epochs
from mendscan.training.loop import generator_for

__all__ = [
    "CodeData",
    "SliceData",
    "encode_views",
    "fresh_prior_loss",
    "prior_loss",
    "validate_prior",
    "validate_vqvae",
    "validation_slices",
    "vqvae_loss",
]

_VALIDATION_SLICES = 512
_ENCODE_BATCH = 64
_KMEANS_LATENTS = 20_000
_WITHOUT_CONTEXT = 0.3
"""Part of the slices whose codes a prior with context learns without it."""
_REVIVE_EVERY = 10
"""Steps between two looks for dead codes: running means need some steps to settle."""
_REVIVE_UNTIL = 0.8
"""Part of training after which no dead code is seeded anew, so that the decoder can settle."""


@dataclass(frozen=True, eq=False)
class SliceData:
    """Slices of the scans of one part of the split, read from the store as they are needed.

    Attributes:
        slices_NSHW: The store.
        scans: Rows of the store.
        slices: Indices of the slices that are used.
        settings: The model's settings.
        device: Where batches go.
    """

    slices_NSHW: np.ndarray
    scans: tuple[int, ...]
    slices: tuple[int, ...]
    settings: Settings
    device: torch.device
    _shown: dict[int, Int[Tensor, " n"]] = field(default_factory=dict, init=False)
    """Of the scans drawn so far, which slices are not empty."""

    def __len__(self) -> int:
        return len(self.scans) * len(self.slices)

    def batch(self, indices: Int[Tensor, " B"]) -> tuple[Float[Tensor, "B H W"], Float[Tensor, " B"]]:
        """Return slices by index, and the slice coordinate of each."""
        scan, place = np.divmod(indices.numpy(), len(self.slices))
        rows, columns = np.array(self.scans)[scan], np.array(self.slices)[place]
        stacked = np.stack([self.slices_NSHW[row, column] for row, column in zip(rows, columns, strict=True)])
        position = slice_positions(self.slices_NSHW.shape[1])[columns]
        return (
            torch.from_numpy(stacked.astype(np.float32)).to(self.device),
            torch.from_numpy(position).to(self.device),
        )

    def augmented(
        self, indices: Int[Tensor, " B"], *, generator: torch.Generator, alike: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return a batch, augmented: each slice by its own draw, or all `alike`."""
        slices_BHW, position_B = self.batch(indices)
        how = self.settings.augmentation
        return augment(slices_BHW, how, flip_axis=self._flip_axis, generator=generator, alike=alike), position_B

    def draw(self, stage: str, step: int, *, generator: torch.Generator) -> Int[Tensor, " B"]:
        """Return the indices of a step: any slices, or a few of each scan whose turn it is in the epoch."""
        training = self.settings.training
        epochs = Epochs.of(len(self.scans), training)
        if epochs is None:
            return torch.randint(len(self), (training.batch_slices,), generator=generator)
        parts = []
        for scan in epochs.scans_of(step, stage=stage, seed=self.settings.seed).tolist():
            shown = self._slices_shown(scan)
            drawn = torch.randint(len(shown), (epochs.slices_per_scan,), generator=generator)
            parts.append(scan * len(self.slices) + shown[drawn])
        return torch.cat(parts)

    def _slices_shown(self, scan: int) -> Int[Tensor, " n"]:
        """Return the places of the slices of a scan that show something: all, if none does."""
        if scan not in self._shown:
            slices_SHW = self.slices_NSHW[self.scans[scan]][list(self.slices)]
            varied = torch.from_numpy(slices_SHW.max(axis=(1, 2)) > slices_SHW.min(axis=(1, 2)))
            self._shown[scan] = varied.nonzero()[:, 0] if varied.any() else torch.arange(len(self.slices))
        return self._shown[scan]

    def spread(self, count: int) -> Int[Tensor, " n"]:
        """Return up to `count` indices, evenly spread over all slices."""
        return torch.linspace(0, len(self) - 1, min(count, len(self))).round().long()

    @property
    def _flip_axis(self) -> int | None:
        """Which axis of a batch runs left to right: X is the first of the slice's axes, unless it is cut."""
        if self.settings.slice_axis == "X":
            return None
        return 2 if self.settings.preparation.slice_view == "image" else 1


@dataclass(frozen=True, eq=False)
class CodeData:
    """Codes of slices under several augmentations, and the slice coordinate of each slice.

    Attributes:
        codes_VNhw: Scan by scan, the slices of each in order.
        position_N: The coordinates.
        slices: How many each scan has.
    """

    codes_VNhw: Int[Tensor, "V N h w"]
    position_N: Float[Tensor, " N"]
    slices: int

    def draw(self, count: int, *, generator: torch.Generator) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Draw slices, each under a random augmentation: which augmentation, and which slice."""
        views, slices = self.codes_VNhw.shape[:2]
        view = torch.randint(views, (count,), generator=generator)
        return view, torch.randint(slices, (count,), generator=generator)

    def at(
        self, view_B: Int[Tensor, " B"], index_B: Int[Tensor, " B"]
    ) -> tuple[Int[Tensor, "B h w"], Float[Tensor, " B"]]:
        """Return the codes of some slices, and their coordinates."""
        return self.codes_VNhw[view_B, index_B].long(), self.position_N[index_B]

    def beside(
        self, view_B: Int[Tensor, " B"], index_B: Int[Tensor, " B"], gap: int, *, missing: int
    ) -> Int[Tensor, "B 2 h w"]:
        """Return the codes of the slices `gap` before and after some slices of the same scan, `missing` beyond it."""
        place_B = index_B % self.slices
        found = []
        for step in (-gap, gap):
            inside_B = (place_B + step >= 0) & (place_B + step < self.slices)
            codes_Bhw = self.codes_VNhw[view_B, torch.where(inside_B, index_B + step, index_B)].long()
            found.append(codes_Bhw.masked_fill(~inside_B.to(codes_Bhw.device)[:, None, None], missing))
        return torch.stack(found, dim=1)


def vqvae_loss(vqvae: VQVAE, data: SliceData, steps: int) -> Callable[[int], dict[str, Tensor]]:
    """Return the losses of one VQ-VAE step: mean L1(x, x̂) + ‖sg[z_e] − e‖² + β ‖z_e − sg[e]‖².

    With an EMA codebook the second term is left out and the codes follow the running means instead.
    """
    settings = data.settings
    first_quantised = round(settings.codebook.unquantised_fraction * steps)
    return partial(_vqvae_step, vqvae, data, steps, first_quantised)


def _vqvae_step(vqvae: VQVAE, data: SliceData, steps: int, first_quantised: int, step: int) -> dict[str, Tensor]:
    settings = data.settings
    generator = generator_for(settings.seed, "vqvae", step)
    if step == first_quantised and settings.codebook.unquantised_fraction > 0:
        _start_codebook(vqvae, data, generator)
    indices = data.draw("vqvae", step, generator=generator)
    slices_BHW, position_B = data.augmented(indices, generator=generator)
    with _arithmetic(settings, data.device):
        result = vqvae(slices_BHW, position_B, quantise=step >= first_quantised)
        reconstruction = l1_loss(result.slices_BHW.float(), slices_BHW)
    if result.quantised is None:
        return {"loss": reconstruction, "reconstruction": reconstruction}
    quantised, loss = result.quantised, _with_codebook(reconstruction, result, settings)
    _follow_codes(vqvae, result.latents_BEhw.detach(), quantised.codes_Bhw, settings, step, steps, generator)
    return {"loss": loss, "reconstruction": reconstruction, "commitment": quantised.commitment_loss}


def _with_codebook(reconstruction: Tensor, result: Reconstruction, settings: Settings) -> Float[Tensor, ""]:
    if result.quantised is None:
        return reconstruction
    loss = reconstruction + settings.codebook.commitment * result.quantised.commitment_loss.float()
    return loss + result.quantised.codebook_loss.float() if settings.codebook.update == "gradient" else loss


def _follow_codes(
    vqvae: VQVAE,
    latents_BEhw: Float[Tensor, "B E h w"],
    codes_Bhw: Int[Tensor, "B h w"],
    settings: Settings,
    step: int,
    steps: int,
    generator: torch.Generator,
) -> None:
    codebook = settings.codebook
    quantizer = vqvae.quantizer
    quantizer.track(latents_BEhw, codes_Bhw, decay=codebook.decay, move=codebook.update == "ema")
    if codebook.revive_below > 0 and step % _REVIVE_EVERY == 0 and step < _REVIVE_UNTIL * steps:
        quantizer.revive(latents_BEhw, below=codebook.revive_below, generator=generator)


@torch.no_grad()
def _start_codebook(vqvae: VQVAE, data: SliceData, generator: torch.Generator) -> None:
    """Place the codes by k-means on latents of random slices."""
    per_slice = data.settings.latent_shape[0] * data.settings.latent_shape[1]
    wanted = min(len(data), max(_ENCODE_BATCH, 4 * _KMEANS_LATENTS // per_slice))
    drawn = torch.randperm(len(data), generator=generator)[:wanted]
    latents = [
        rearrange(vqvae.encode(*data.batch(part)), "B E h w -> (B h w) E") for part in drawn.split(_ENCODE_BATCH)
    ]
    pool_NE = torch.cat(latents)
    chosen = torch.randperm(len(pool_NE), generator=generator)[:_KMEANS_LATENTS].to(pool_NE.device)
    vqvae.quantizer.start_from(pool_NE[chosen], generator=generator)


def prior_loss(prior: PixelSNAIL, codes: CodeData, settings: Settings) -> Callable[[int], dict[str, Tensor]]:
    """Return the loss of one prior step: the mean code NLL, in nats.

    A prior that may see slices a gap away goes without them in a part of the slices: it is asked both ways.
    """
    gap, missing = settings.prior.context_slices, settings.vqvae.codes

    def loss_of_step(step: int) -> dict[str, Tensor]:
        generator, beside_B2hw = generator_for(settings.seed, "prior", step), None
        drawn = codes.draw(settings.training.batch_slices, generator=generator)
        codes_Bhw, position_B = codes.at(*drawn)
        if gap:
            alone_B = torch.rand(len(codes_Bhw), generator=generator) < _WITHOUT_CONTEXT
            beside_B2hw = codes.beside(*drawn, gap, missing=missing)
            beside_B2hw = beside_B2hw.masked_fill(alone_B.to(position_B.device)[:, None, None, None], missing)
        with _arithmetic(settings, position_B.device):
            return {"loss": prior.nll(codes_Bhw, position_B, beside_B2hw).mean()}

    return loss_of_step


def fresh_prior_loss(prior: PixelSNAIL, vqvae: VQVAE, data: SliceData) -> Callable[[int], dict[str, Tensor]]:
    """Return the loss of one prior step on slices that are augmented and encoded anew, as in the original.

    Args:
        prior: What is trained.
        vqvae: The trained VQ-VAE; it stays as it is.
        data: The training slices.
    """
    vqvae.eval()

    def loss_of_step(step: int) -> dict[str, Tensor]:
        generator = generator_for(data.settings.seed, "prior", step)
        indices = data.draw("prior", step, generator=generator)
        with torch.no_grad():
            slices_BHW, position_B = data.augmented(indices, generator=generator)
            codes_Bhw = vqvae.codes(slices_BHW, position_B)
        with _arithmetic(data.settings, data.device):
            return {"loss": prior.nll(codes_Bhw, position_B).mean()}

    return loss_of_step


@torch.inference_mode()
def encode_views(vqvae: VQVAE, data: SliceData, views: int, on_batch: Callable[[int], None]) -> CodeData:
    """Encode every slice as it is, and under `views` - 1 augmentations: the codes are fixed while the prior trains.

    For a prior that sees slices a gap away those of a scan are augmented alike, so that they belong together.
    """
    vqvae.eval()
    alike, everything = data.settings.prior.context_slices > 0, torch.arange(len(data))
    encoded = []
    for view in range(views):
        parts = []
        for number, together in enumerate(everything.split(len(data.slices) if alike else _ENCODE_BATCH)):
            for part in together.split(_ENCODE_BATCH):
                generator = generator_for(data.settings.seed, "view", view, number)
                batch = data.augmented(part, generator=generator, alike=alike) if view else data.batch(part)
                parts.append(vqvae.codes(*batch).to(_code_type(vqvae)))
                on_batch(len(part))
        encoded.append(torch.cat(parts))
    positions = torch.from_numpy(slice_positions(data.slices_NSHW.shape[1])[list(data.slices)])
    return CodeData(torch.stack(encoded), positions.repeat(len(data.scans)).to(data.device), len(data.slices))


def validation_slices(scans: int, settings: Settings) -> int:
    """Return on how many slices of so many hold-out scans figures are computed: where there are epochs, as many of each
    scan as an epoch takes."""
    per_scan = settings.training.slices_per_scan
    return _VALIDATION_SLICES if per_scan is None else min(_VALIDATION_SLICES, per_scan * scans)


@torch.inference_mode()
def validate_vqvae(vqvae: VQVAE, data: SliceData, *, quantise: bool) -> dict[str, float]:
    """Return the hold-out loss, its reconstruction error (mean L1), codes used and perplexity."""
    vqvae.eval()
    error, loss, use_K = 0.0, 0.0, torch.zeros(vqvae.settings.codes)
    chosen = data.spread(validation_slices(len(data.scans), data.settings))
    for part in chosen.split(_ENCODE_BATCH):
        slices_BHW, position_B = data.batch(part)
        result = vqvae(slices_BHW, position_B, quantise=quantise)
        reconstruction = l1_loss(result.slices_BHW, slices_BHW)
        error += float(reconstruction) * len(part)
        loss += float(_with_codebook(reconstruction, result, data.settings)) * len(part)
        if result.quantised is not None:
            use_K += torch.bincount(result.quantised.codes_Bhw.flatten().cpu(), minlength=len(use_K))
    vqvae.train()
    figures = {"holdout_l1": error / len(chosen), "holdout_loss": loss / len(chosen)}
    if quantise:
        figures |= {"codes_used": float((use_K > 0).sum()), "perplexity": code_perplexity(use_K)}
    return figures


@torch.inference_mode()
def validate_prior(prior: PixelSNAIL, codes: CodeData, *, slices: int = _VALIDATION_SLICES) -> dict[str, float]:
    """Return the hold-out code NLL, mean over the codes of so many slices, in nats; given those beside it, too."""
    prior.eval()
    chosen = torch.linspace(0, codes.codes_VNhw.shape[1] - 1, min(slices, codes.codes_VNhw.shape[1]))
    gap = prior.settings.context_slices
    alone, given, count = 0.0, 0.0, 0
    for part in chosen.round().long().split(_ENCODE_BATCH):
        at = torch.zeros_like(part), part
        nll_Bhw = prior.nll(*codes.at(*at))
        alone, count = alone + float(nll_Bhw.cpu().double().sum()), count + nll_Bhw.numel()
        if gap:
            given_Bhw = prior.nll(*codes.at(*at), codes.beside(*at, gap, missing=prior.codes))
            given += float(given_Bhw.cpu().double().sum())
    prior.train()
    return {"holdout_nll": alone / count} | ({"holdout_nll_beside": given / count} if gap else {})


def _code_type(vqvae: VQVAE) -> torch.dtype:
    """Return the smallest type that holds every code: those of a cohort are kept in memory."""
    return torch.int16 if vqvae.settings.codes <= torch.iinfo(torch.int16).max else torch.int32


def _arithmetic(settings: Settings, device: torch.device) -> torch.autocast:
    lower = settings.training.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=lower)

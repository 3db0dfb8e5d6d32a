"""Weights of the original system, tensor by tensor, in the networks of this package.

Naval Marimont & Tarroni published their system as ``snavalm/lsr_mood_challenge_2020``: two networks, saved as state
dicts.  Their layers are those of `VQVAE` and `PixelSNAIL` under other names, so that evaluation with the same weights
gives the same numbers, up to rounding.  What differs is treated as follows.

===============================================  =====================================================================
in the original                                  here
===============================================  =====================================================================
attention is divided by √(heads × key size)      the same for its single head, which the shapes prove
a 1×1 convolution returns a false shape          attention, its only reader, undoes that: the true shape, same numbers
attention hides the future by −10⁴               by −∞: the same unless all that is allowed scores below about −9900
a masked convolution stores its future zeros     they are checked to be zero, as other constants are checked
===============================================  =====================================================================

Nothing is guessed and nothing dropped: each tensor of a checkpoint is asked for by name and shape, and one that is
missing, unexpected, of another shape or contradicting its constant is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mendscan.config import PriorSettings, VqvaeSettings
from mendscan.errors import ModelError
from mendscan.models.attention import CausalAttention
from mendscan.models.causal import CausalBlock, WeightNormConv
from mendscan.models.masked import MaskedConv
from mendscan.models.pixelsnail import PixelSNAIL, SnailBlock, places_of
from mendscan.models.vqvae import VQVAE

__all__ = ["WRAPPED", "prior_from_original", "published_variant", "vqvae_from_original"]

WRAPPED = "feature_extractor_model."
"""The original's prior contains the VQ-VAE whose codes it learnt; its tensors begin with this."""

_SHOWN = 3
"""Names in an error; the others are counted."""
_BACKGROUND, _FIRST = "background", "ini_conv.weight"


class _Needed(dict[str, tuple[int, ...]]):
    """Notes which tensors are asked for, by name and shape."""

    def take(self, name: str, *shape: int) -> Tensor:
        self[name] = shape
        return torch.zeros(shape)

    def check(self, name: str, expected: Tensor, meaning: str) -> None:
        self[name] = tuple(expected.shape)


class _Checkpoint:
    """Gives out the tensors of a checkpoint that fits."""

    def __init__(self, tensors: Mapping[str, Tensor], where: object) -> None:
        self._tensors, self._where = tensors, where

    def take(self, name: str, *shape: int) -> Tensor:
        tensor = self._tensors[name]
        if name.endswith("running_var") and (tensor < 0).any():
            raise _senseless(self._where, name, "a negative variance", "variances of 0 or more")
        if name.endswith("weight_v") and not tensor.flatten(1).float().norm(dim=1).all():
            raise _senseless(self._where, name, "a direction of length 0", "weights that point somewhere")
        return tensor

    def check(self, name: str, expected: Tensor, meaning: str) -> None:
        if not torch.allclose(self._tensors[name].float(), expected.float(), rtol=0, atol=1e-5):
            raise _senseless(self._where, name, "other values", meaning)


_Source = _Checkpoint | _Needed
"""Where tensors come from: a checkpoint that fits, or nowhere yet, to learn which are needed."""


def vqvae_from_original(tensors: Mapping[str, Tensor], settings: VqvaeSettings, *, where: object) -> VQVAE:
    """Return the auto-encoder of an original checkpoint, in evaluation mode.

    Args:
        tensors: Its state dict.
        settings: What it should be; the original knows norm by batch, the second of a block after its convolution.
        where: The file, for errors.

    Raises:
        ModelError: If a tensor is missing, unexpected, of another shape or makes no sense.
    """
    _check_fit(tensors, _needed(lambda source: _fill_vqvae(VQVAE(settings), source)), where)
    vqvae = VQVAE(settings)
    _fill_vqvae(vqvae, _Checkpoint(tensors, where))
    return vqvae.eval()


def prior_from_original(
    tensors: Mapping[str, Tensor], settings: PriorSettings, *, codes: int, latent_shape: tuple[int, int], where: object
) -> PixelSNAIL:
    """Return the prior of an original checkpoint, in evaluation mode.

    Args:
        tensors: Its state dict, without the VQ-VAE that it contains.
        settings: What it should be.
        codes: K.
        latent_shape: (h, w): the grid that it was made for, which its constants tell.
        where: The file, for errors.

    Raises:
        ModelError: If a tensor is missing, unexpected, of another shape or makes no sense.
    """

    def new() -> PixelSNAIL:
        return PixelSNAIL(settings, codes=codes)

    _check_fit(tensors, _needed(lambda source: _fill_prior(new(), source, latent_shape)), where)
    prior = new()
    _fill_prior(prior, _Checkpoint(tensors, where), latent_shape)
    return prior.eval()


def published_variant(prior: Mapping[str, Tensor]) -> list[str]:
    """Return, as assignments, the settings in which the original's published priors differ from each other.

    They can be read off the shapes without doubt: the first kernel, and the resolution of the attention.
    """
    found = []
    kernel_of = {(kernel * kernel) // 2: kernel for kernel in (3, 5, 7)}
    first, spread = prior.get(_FIRST), prior.get("blocks.0.upsample.weight")
    if first is not None and first.ndim == 3 and first.shape[2] in kernel_of:
        found.append(f"prior.first_kernel={kernel_of[first.shape[2]]}")
    if spread is not None and spread.ndim == 4 and spread.shape[2] in (1, 2):
        found.append(f"prior.attention_downsampling={spread.shape[2]}")
    return found


def _needed(fill: Callable[[_Needed], None]) -> _Needed:
    needed = _Needed()
    fill(needed)
    return needed


def _check_fit(tensors: Mapping[str, Tensor], needed: Mapping[str, tuple[int, ...]], where: object) -> None:
    missing = [name for name in needed if name not in tensors]
    unexpected = [name for name in tensors if name not in needed]
    if missing or unexpected:
        raise ModelError(
            "these are not the network's tensors",
            where=where,
            code="E_ORIGINAL_NAMES",
            found=f"{_first_of(missing, 'missing')}; {_first_of(unexpected, 'unexpected')}",
            expected=f"{len(needed)} tensors",
            remedy="choose the other --preset, or say how the networks differ with --set",
        )
    for name, shape in needed.items():
        found, is_count = tensors[name], name.endswith(("num_batches_tracked", ".mask"))
        if tuple(found.shape) != shape or not (found.is_floating_point() or is_count):
            raise ModelError(
                f"{name} does not fit",
                where=where,
                code="E_ORIGINAL_SHAPE",
                found=f"{_times(found.shape)} {found.dtype}",
                expected=f"{_times(shape)}{'' if is_count else ' floating point'}",
                remedy="choose the other --preset, or say how the networks differ with --set",
            )


def _first_of(names: list[str], what: str) -> str:
    shown = ", ".join(name[:80] for name in names[:_SHOWN])
    return f"{len(names)} {what}" + (f": {shown}" if names else "") + (", …" if names[_SHOWN:] else "")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"


def _senseless(where: object, name: str, found: str, expected: str) -> ModelError:
    return ModelError(f"{name} makes no sense", where=where, code="E_ORIGINAL_VALUES", found=found, expected=expected)


@torch.no_grad()
def _copy(layer: nn.Module, source: _Source, prefix: str) -> None:
    """Copy a layer whose tensors have the names of torch."""
    for name, own in layer.state_dict().items():
        own.copy_(source.take(f"{prefix}.{name}", *own.shape))


@torch.no_grad()
def _fill_vqvae(vqvae: VQVAE, source: _Source) -> None:
    for side, layers in (("Q", vqvae.encoder), ("P", vqvae.decoder)):
        for index, layer in enumerate(layers):
            _copy(layer, source, f"{side}.{index}")
    quantizer = vqvae.quantizer
    quantizer.vectors_KE.copy_(source.take("codebook.embedding.weight", *quantizer.vectors_KE.shape))
    quantizer.sums_KE.copy_(quantizer.vectors_KE)


@torch.no_grad()
def _fill_prior(prior: PixelSNAIL, source: _Source, latent_shape: tuple[int, int]) -> None:
    places = places_of(torch.empty(1, 1, *latent_shape))
    source.check(_BACKGROUND, places, f"rows and columns of a grid of {_times(latent_shape)} codes")
    taps, codes, channels = prior.first.weight_TKC.shape
    prior.first.weight_TKC.copy_(source.take(_FIRST, channels, codes, taps).permute(2, 1, 0))
    prior.first.bias.copy_(source.take("ini_conv.bias", channels))
    _check_future(source, "ini_conv", channels, codes, taps + 1)
    step = prior.settings.attention_downsampling
    positions = (latent_shape[0] // step) * (latent_shape[1] // step)
    for index, block in enumerate(cast("list[SnailBlock]", list(prior.blocks))):
        _fill_snail_block(block, source, f"blocks.{index}", positions)
    head = prior.head.weight
    prior.head.weight.copy_(source.take("upsample.weight", *head.transpose(0, 1).shape).transpose(0, 1))
    cast("Tensor", prior.head.bias).copy_(source.take("upsample.bias", head.shape[0]))
    _fill_weight_norm(prior.logits, source, "out.conv")


def _fill_snail_block(block: SnailBlock, source: _Source, prefix: str, positions: int) -> None:
    for index, (vertical, horizontal) in enumerate(block.pairs()):
        _fill_causal_block(vertical, source, f"{prefix}.v_resblocks.{index}")
        _fill_causal_block(horizontal, source, f"{prefix}.h_resblocks.{index}")
    _fill_masked(block.gather_seen, source, f"{prefix}.downsample_key")
    _fill_masked(block.gather_seeking, source, f"{prefix}.downsample_query")
    _fill_attention(block.attention, source, f"{prefix}.causal_attention", positions)
    _copy(block.spread, source, f"{prefix}.upsample")
    _fill_causal_block(block.merge, source, f"{prefix}.out_resblock")


def _fill_attention(attention: CausalAttention, source: _Source, prefix: str, positions: int) -> None:
    for name in ("query", "key", "value"):
        _fill_causal_block(getattr(attention, f"{name}_block"), source, f"{prefix}.{name}.0")
        _fill_weight_norm(getattr(attention, name), source, f"{prefix}.{name}.1.linear", linear=True)
    before = torch.ones(1, positions, positions).tril(-1)
    source.check(f"{prefix}.mask", before, "1 where a key comes before the query, else 0")
    source.check(f"{prefix}.start_mask", before[0].any(1, keepdim=True), "0 for the first query, else 1")


def _fill_causal_block(block: CausalBlock, source: _Source, prefix: str) -> None:
    _fill_weight_norm(block.conv1, source, f"{prefix}.conv1.conv")
    if block.aux is not None:
        _fill_weight_norm(block.aux, source, f"{prefix}.conv1_aux.conv")
    _fill_weight_norm(block.conv2, source, f"{prefix}.conv2.conv")


@torch.no_grad()
def _fill_weight_norm(conv: WeightNormConv, source: _Source, prefix: str, *, linear: bool = False) -> None:
    """Copy gain, direction and bias; a linear layer is a 1×1 convolution without its last two axes."""
    for name, own in (("weight_g", conv.gain), ("weight_v", conv.direction)):
        shape = own.shape[:2] if linear else own.shape
        own.copy_(source.take(f"{prefix}.{name}", *shape).reshape(own.shape))
    conv.bias.copy_(source.take(f"{prefix}.bias", *conv.bias.shape))


@torch.no_grad()
def _fill_masked(conv: MaskedConv, source: _Source, prefix: str) -> None:
    conv.weight_taps.copy_(source.take(f"{prefix}.weight", *conv.weight_taps.shape))
    conv.bias.copy_(source.take(f"{prefix}.bias", *conv.bias.shape))
    outputs, inputs, _ = conv.weight_taps.shape
    _check_future(source, prefix, outputs, inputs, conv.kernel * conv.kernel // 2)


def _check_future(source: _Source, prefix: str, outputs: int, inputs: int, taps: int) -> None:
    source.check(f"{prefix}.rest_of_filter", torch.zeros(outputs, inputs, taps), "zeros: what comes later is not seen")

"""Many restorations of one slice, decoded without computing again what they have in common.

A restored grid differs from the slice's own codes at some positions.  A convolution carries a difference only as far
as its kernel is wide, so that at each layer of the decoder the activations differ from those of the plain
reconstruction (of the slice's own codes) within a window alone.  Only the window is computed; what a convolution sees
around it is taken from the plain reconstruction, whose activations are kept.  The result is that of
`VQVAE.decode_codes`, the plain definition, up to rounding.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mendscan.models.blocks import position_plane
from mendscan.models.vqvae import VQVAE
from mendscan.models.windows import Window, follow, keep, lay, steps_of, work_of

__all__ = ["SliceDecoder"]

_GRIDS_PER_PASS = 4
"""Grids decoded at once: with more, the activations of a real model leave the processor's cache."""
_WORTHWHILE = 0.85
"""Largest share of a whole grid's multiplications at which following the window is faster; they break even near 0.95
with the brain preset on one core (AMD EPYC, float32, channels last)."""


_NOWHERE = Window(0, 0, 0, 0)


class SliceDecoder:
    """Decodes restorations of one slice: the plain reconstruction is evaluated once, then what each changes of it.

    Where a norm is over the whole slice, or codes changed so far apart that less is saved than the plain reconstruction
    costs, grids are decoded whole.

    Args:
        vqvae: The auto-encoder, in evaluation mode; its weights must not change while this is in use.
        codes_hw: The slice's own codes.
        position: Slice coordinate in [-0.5, 0.5].

    Attributes:
        work: Multiplications so far; 1 = those of decoding one whole grid.

    Raises:
        ValueError: If the decoder is in training mode.
        TypeError: If the decoder has a layer that a window cannot be followed through.

    Example::

        decoder = SliceDecoder(vqvae, codes_hw, position)
        decoded_DHW = decoder.decode(distinct_Dhw)
    """

    def __init__(self, vqvae: VQVAE, codes_hw: Int[Tensor, "h w"], position: Float[Tensor, ""]) -> None:
        if vqvae.training:
            raise ValueError("the auto-encoder is in training mode: put it into evaluation mode first")
        self._vqvae, self._codes_hw, self._position = vqvae, codes_hw, position
        self._steps = steps_of(vqvae.decoder)
        self._whole = Window.whole(codes_hw)
        lay(self._steps, self._whole)
        self._whole_work = work_of(self._steps, self._whole)
        self._plain_HW: Tensor | None = None
        self.work = 0.0

    @property
    @torch.inference_mode()
    def plain_HW(self) -> Float[Tensor, "H W"]:
        """The plain reconstruction: the slice of the slice's own codes."""
        if self._plain_HW is None:
            self._plain_HW = keep(self._steps, self._inputs(self._codes_hw[None]))[0, 0]
            self.work += 1
        return self._plain_HW

    @torch.inference_mode()
    def decode(self, codes_Dhw: Int[Tensor, "D h w"]) -> Float[Tensor, "D H W"]:
        """Return the slices of D grids of codes.

        Equal to `VQVAE.decode_codes` up to rounding; pixels that no changed code reaches are bitwise those of
        `plain_HW`, except in grids that are decoded whole.
        """
        if not len(codes_Dhw):
            return self.plain_HW.repeat(0, 1, 1)
        decoded: list[Tensor] = [torch.empty(0)] * len(codes_Dhw)
        for window, grids in self._grids_by_window(codes_Dhw).items():
            for some in (grids[k : k + _GRIDS_PER_PASS] for k in range(0, len(grids), _GRIDS_PER_PASS)):
                for grid, slice_HW in zip(some, self._decode_window(window, codes_Dhw[some]), strict=True):
                    decoded[grid] = slice_HW
            self.work += len(grids) * self._share(window)
        return torch.stack(decoded)

    def _grids_by_window(self, codes_Dhw: Int[Tensor, "D h w"]) -> dict[Window, list[int]]:
        """Return which grids to decode within which window of codes."""
        boxes = [_even_box(changed_hw) for changed_hw in (codes_Dhw != self._codes_hw).cpu()]
        share = {box: self._share(box) for box in set(boxes)}
        saved = sum(1 - share[box] for box in boxes if share[box] <= _WORTHWHILE)
        if self._plain_HW is None and saved <= 1:
            return {self._whole: list(range(len(boxes)))}
        grids: dict[Window, list[int]] = defaultdict(list)
        for grid, box in enumerate(boxes):
            grids[box if share[box] <= _WORTHWHILE else self._whole].append(grid)
        return grids

    def _decode_window(self, window: Window, codes_Nhw: Int[Tensor, "N h w"]) -> Float[Tensor, "N H W"]:
        """Return the slices of grids that differ from the slice's own codes within a window."""
        if window == self._whole:
            return self._vqvae.decode_codes(codes_Nhw, self._position.expand(len(codes_Nhw)))
        slices_NHW = self.plain_HW.repeat(len(codes_Nhw), 1, 1)
        if window != _NOWHERE:
            pixels, changed_N1yx = follow(self._steps, window, self._inputs(window.of(codes_Nhw)))
            pixels.of(slices_NHW).copy_(changed_N1yx[:, 0])
        return slices_NHW

    def _inputs(self, codes_Bhw: Int[Tensor, "B h w"]) -> Float[Tensor, "B E1 h w"]:
        """Return what the decoder sees of codes: their vectors and the slice coordinate."""
        embedded_BEhw = self._vqvae.quantizer.embed(codes_Bhw)
        plane_B1hw = position_plane(self._position.expand(len(codes_Bhw)), like=embedded_BEhw)
        return torch.cat([embedded_BEhw, plane_B1hw], dim=1)

    def _share(self, window: Window) -> float:
        """Return the multiplications that a window of codes costs; 1 = those of a whole grid."""
        if window == _NOWHERE:
            return 0.0
        return work_of(self._steps, window) / self._whole_work


def _even_box(changed_hw: Bool[Tensor, "h w"]) -> Window:
    """Return a window around what is true, from even to even positions: few windows, few shapes of convolutions."""
    if not changed_hw.any():
        return _NOWHERE
    rows, columns = (changed_hw.any(axis).nonzero() for axis in (1, 0))
    (top, bottom), (left, right) = ((int(at[0]) // 2 * 2, int(at[-1]) // 2 * 2 + 2) for at in (rows, columns))
    height, width = changed_hw.shape
    return Window(top, min(bottom, height), left, min(right, width))

"""What the two networks of one slice axis compute: codes of slices, and how likely each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mendscan.config import Settings
from mendscan.detection.code_shifts import mean_over_shifts
from mendscan.detection.scoring import nll_map
from mendscan.detection.slice_batches import FILLS_AN_ACCELERATOR, FITS_A_CPU, Batching
from mendscan.models.causal import folded_weights
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.slice_context import beside
from mendscan.models.vqvae import VQVAE
from mendscan.parallel import available_cores, each_in_threads
from mendscan.shapes import MapSHW

__all__ = ["PlaneNetworks"]

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class PlaneNetworks:
    """The networks of one slice axis on a device.

    On a CPU the slices of a scan are worked on in groups by `workers` threads with one torch thread each.  Groups do
    not depend on `workers`, so neither does the result.  Unlike worker processes, threads share the weights and start
    at once; torch computes outside the interpreter's lock, and they were measured as fast.

    Attributes:
        vqvae: The auto-encoder, in evaluation mode.
        prior: The prior over its codes, in evaluation mode.
        settings: The model's settings, with this slice axis.
        workers: Threads that share a scan's slices on a CPU; None = one per core.
    """

    vqvae: VQVAE
    prior: PixelSNAIL
    settings: Settings
    workers: int | None = None

    def __post_init__(self) -> None:
        self.vqvae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.prior.parameters()).device

    @property
    def _threads(self) -> int:
        if self.device.type != "cpu":
            return 1
        return available_cores() if self.workers is None else self.workers

    @property
    def _batching(self) -> Batching:
        return FITS_A_CPU if self.device.type == "cpu" else FILLS_AN_ACCELERATOR

    @torch.inference_mode()
    def codes(self, slices_SHW: Float[Tensor, "S H W"], position_S: Float[Tensor, " S"]) -> Int[Tensor, "S h w"]:
        """Return the codes of slices, on the networks' device."""
        return self.vqvae.codes(slices_SHW.to(self.device), position_S.to(self.device))

    @torch.inference_mode()
    def codes_and_nll(
        self, slices_SHW: Float[Tensor, "S H W"], position_S: Float[Tensor, " S"]
    ) -> tuple[Int[Tensor, "S h w"], Float[Tensor, "S h w"]]:
        """Return the codes of slices and the negative log-likelihood of each in nats, as the paper has it.

        No slice is seen beside another.
        """
        codes_Shw = self.codes(slices_SHW, position_S)
        return codes_Shw, self.prior.nll(codes_Shw, position_S.to(self.device))

    def nll_map(
        self, slices_SHW: Float[Tensor, "S H W"], position_S: Float[Tensor, " S"], shifts: Sequence[tuple[int, int]]
    ) -> MapSHW:
        """Return the code NLL of every pixel in nats, the mean over places of the grid of codes.

        Args:
            slices_SHW: All slices of a scan, in order: a prior that may, sees the codes of those a gap away.
            position_S: Slice coordinate of each.
            shifts: Places of the grid, of `code_shifts.SHIFTS`.
        """

        def map_of(moved_SHW: Float[Tensor, "S H W"]) -> Float[Tensor, "S H W"]:
            nll_Shw = self._nll_given_beside(moved_SHW, position_S)
            return torch.from_numpy(nll_map(nll_Shw.numpy(), downsampling=self.settings.vqvae.downsampling))

        return mean_over_shifts(slices_SHW, shifts, map_of).numpy()

    def decoded(self, slices_SHW: Float[Tensor, "S H W"], position_S: Float[Tensor, " S"]) -> Float32[Tensor, "S H W"]:
        """Return what the decoder makes of the codes of slices, on the CPU."""
        return torch.cat(self._by_slices(self._decoded, slices_SHW, position_S))

    def _by_slices(self, work: Callable[..., Result], *of_slices: Tensor) -> list[Result]:
        """Return the results of work on what there is of each slice, a few slices at a time."""
        chunks = torch.arange(len(of_slices[0])).split(self._batching.slices)
        jobs = [tuple(values[chunk] for values in of_slices) for chunk in chunks]
        return each_in_threads(work, jobs, workers=self._threads)

    @torch.inference_mode()
    def _decoded(self, slices_SHW: Float[Tensor, "S H W"], position_S: Float[Tensor, " S"]) -> Float[Tensor, "S H W"]:
        codes_Shw = self.codes(slices_SHW, position_S)
        return self.vqvae.decode_codes(codes_Shw, position_S.to(self.device)).float().cpu()

    def _nll_given_beside(
        self, slices_SHW: Float[Tensor, "S H W"], position_S: Float[Tensor, " S"]
    ) -> Float[Tensor, "S h w"]:
        """Return the negative log-likelihood of each code, on the CPU; given those of slices a gap away, if it may."""
        gap, missing = self.settings.prior.context_slices, self.settings.vqvae.codes
        codes_Shw = torch.cat(self._by_slices(self.codes, slices_SHW, position_S))
        known = (codes_Shw, position_S, *((beside(codes_Shw, gap, missing=missing),) if gap else ()))
        with folded_weights(self.prior):
            return torch.cat(self._by_slices(self._nll_of_codes, *known))

    @torch.inference_mode()
    def _nll_of_codes(
        self,
        codes_Shw: Int[Tensor, "S h w"],
        position_S: Float[Tensor, " S"],
        beside_S2hw: Int[Tensor, "S 2 h w"] | None = None,
    ) -> Float[Tensor, "S h w"]:
        return self.prior.nll(codes_Shw, position_S.to(self.device), beside_S2hw).cpu()

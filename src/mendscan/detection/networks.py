"""What the networks compute for one scan: codes, their likelihood, restorations and what these differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

from mendscan.cohort.preparing import Prepared, evenly_spaced, from_slices, slice_positions, to_slices
from mendscan.config import Settings
from mendscan.detection.code_shifts import SHIFTS
from mendscan.detection.devices import bfloat16_is_fast
from mendscan.detection.encoded_scan import EncodedScan, scan_uniforms
from mendscan.detection.evidence import Evidence
from mendscan.detection.plane_networks import PlaneNetworks
from mendscan.detection.restoration import Schedule, restore
from mendscan.detection.scoring import WeightedRestoration, nll_map, weigh_restorations
from mendscan.detection.soft_restoration import restore_softly
from mendscan.errors import SettingsError
from mendscan.models.causal import folded_weights
from mendscan.models.code_networks import CodeNetworks
from mendscan.models.decoding import SliceDecoder
from mendscan.models.discriminator import Discriminator
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.parallel import each_in_threads
from mendscan.shapes import MapSHW

__all__ = ["Networks", "Precision", "RestoredScan"]

Precision = Literal["exact", "fast"]
"""``exact``: float32.  ``fast``: restorations are drawn and decoded in bfloat16 where the processor has it."""


class RestoredScan(NamedTuple):
    """A scan restored, on the model grid."""

    restored_SHW: Float[np.ndarray, "S H W"]
    """The weighted mean of the restorations that were drawn, or the soft restoration."""
    residual_SHW: Float[np.ndarray, "S H W"] | None
    """How far the restorations that were drawn differ from the scan, weighed; None of a soft restoration."""


@dataclass(frozen=True, eq=False)
class Networks(PlaneNetworks):
    """All networks of a model on a device, and what they compute for one scan: those of its first plane, and others.

    Attributes:
        discriminator: The discriminator, in evaluation mode; None if the plan has none.
        further: The networks of each other plane, whose settings have that axis alone.
    """

    discriminator: Discriminator | None = None
    further: tuple[PlaneNetworks, ...] = ()

    @classmethod
    def of(
        cls, parts: Mapping[str, nn.Module], settings: Settings, *, device: torch.device, workers: int | None = None
    ) -> Networks:
        """Return the networks of a model on a device, in evaluation mode.

        Args:
            parts: As `skeleton.networks_of` names them.
            settings: The model's.
            device: Where they go.
            workers: As the attribute.
        """
        on = {name: part.to(device).eval() for name, part in parts.items()}
        planes = cast("Mapping[str, CodeNetworks]", on.get("planes", {}))
        further = tuple(
            PlaneNetworks(planes[axis].vqvae, planes[axis].prior, plane, workers)
            for axis, plane in settings.further_planes.items()
        )
        own = cast("VQVAE", on["vqvae"]), cast("PixelSNAIL", on["prior"])
        return cls(*own, settings, workers, cast("Discriminator | None", on.get("discriminator")), further)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by part of a model folder, as `skeleton.networks_of` names them."""
        parts: dict[str, nn.Module] = {"vqvae": self.vqvae, "prior": self.prior}
        if self.further:
            parts["planes"] = nn.ModuleDict(
                {each.settings.slice_axis: CodeNetworks(each.vqvae, each.prior) for each in self.further}
            )
        return parts if self.discriminator is None else parts | {"discriminator": self.discriminator}

    def encode(self, prepared: Prepared) -> EncodedScan:
        """Return the codes of a scan's scored slices, and how likely each is."""
        at = evenly_spaced(len(prepared.slices_SHW), self.settings.preparation.scored_slices)
        slices, position = torch.from_numpy(prepared.slices_SHW[at]), torch.from_numpy(prepared.positions_S[at])
        with folded_weights(self.prior):
            parts = self._by_slices(self.codes_and_nll, slices, position)
        codes, nll = (torch.cat([part[i].cpu() for part in parts]) for i in range(2))
        logits = self._logits(prepared, at)
        return EncodedScan(slices, position, codes, nll, prepared.foreground_SHW[at], at, logits)

    @torch.inference_mode()
    def _logits(self, prepared: Prepared, at: Int[np.ndarray, " S"]) -> Float[np.ndarray, "S H W"] | None:
        """Return what the discriminator says of the scored slices; it sees all of them."""
        if self.discriminator is None:
            return None
        scan = torch.from_numpy(prepared.slices_SHW)[None].to(self.device)
        return self.discriminator(scan)[0].cpu().numpy()[at]

    def reconstructed(self, slices_SHW: Float32[np.ndarray, "S H W"]) -> Float32[np.ndarray, "S H W"]:
        """Return what the decoder makes of the codes of all slices of a prepared scan."""
        position_S = torch.from_numpy(slice_positions(len(slices_SHW)))
        return self.decoded(torch.from_numpy(slices_SHW), position_S).numpy()

    def restore(
        self,
        scan: EncodedScan,
        *,
        restorations: int,
        threshold_nats: float,
        seed: int,
        schedule: Schedule = "incremental",
        precision: Precision = "exact",
    ) -> RestoredScan:
        """Draw restorations of every slice, decode them, and weigh them by how close they stayed.

        Args:
            scan: The scan.
            restorations: R.
            threshold_nats: λ_p.
            seed: Together with the scan's codes it decides every sample.
            schedule: How the codes are computed; all give the same.
            precision: ``fast`` is bfloat16 where the processor has it; codes and maps then differ slightly.
        """
        uniforms = scan_uniforms(scan, restorations, seed)
        codes = self.restored_codes(
            scan, uniforms, threshold_nats=threshold_nats, schedule=schedule, precision=precision
        )
        return self.weighed(scan, codes, precision=precision)

    def restore_softly(self, scan: EncodedScan, *, threshold_nats: float) -> RestoredScan:
        """Replace unlikely codes by what the prior expects, without drawing any sample.

        Args:
            scan: The scan.
            threshold_nats: λ_p.
        """
        work = partial(restore_softly, self.vqvae, self.prior, threshold_nats=threshold_nats)
        with folded_weights(self.prior):
            parts = self._by_slices(work, scan.codes_Shw.to(self.device), scan.position_S.to(self.device))
        return RestoredScan(torch.cat([part.float().cpu() for part in parts]).numpy(), None)

    def restored_codes(
        self,
        scan: EncodedScan,
        uniforms_RShw: Float64[Tensor, "R S h w"],
        *,
        threshold_nats: float,
        schedule: Schedule = "incremental",
        precision: Precision = "exact",
    ) -> Int[Tensor, "R S h w"]:
        """Return the codes of every restoration of every slice."""
        restorations, slices = uniforms_RShw.shape[:2]
        groups = self._groups(slices, restorations)
        work = partial(
            self._restore_group,
            threshold_nats=threshold_nats,
            schedule=schedule,
            arithmetic=self._lower(precision),
        )
        jobs = [(scan.codes_Shw[group], scan.position_S[group], uniforms_RShw[:, group]) for group in groups]
        restored = torch.empty(uniforms_RShw.shape, dtype=scan.codes_Shw.dtype)
        with folded_weights(self.prior):
            parts = each_in_threads(work, jobs, workers=self._threads)
        for group, codes in zip(groups, parts, strict=True):
            restored[:, group] = codes
        return restored

    def weighed(
        self, scan: EncodedScan, codes_RShw: Int[Tensor, "R S h w"], *, precision: Precision = "exact"
    ) -> RestoredScan:
        """Decode restorations, one slice after the other, and weigh them by how close they stayed."""
        work = partial(self._decode_and_weigh, arithmetic=self._lower(precision))
        jobs = list(zip(scan.slices_SHW, scan.codes_Shw, codes_RShw.unbind(1), scan.position_S, strict=True))
        weighted = each_in_threads(work, jobs, workers=self._threads)
        return RestoredScan(
            torch.stack([each.restored_HW for each in weighted]).numpy(),
            torch.stack([each.residual_HW for each in weighted]).numpy(),
        )

    def evidence(
        self,
        scan: EncodedScan,
        residual_SHW: Float[np.ndarray, "S H W"] | None,
        *,
        as_encoded: bool = False,
        shifts: int | None = None,
    ) -> Evidence:
        """Return what speaks for an anomaly, voxel by voxel of the model grid.

        Args:
            scan: The scan.
            residual_SHW: What `restore` found; None if nothing was restored.
            as_encoded: Whether the NLL is that of the scan's codes alone, as for the paper's map, though the settings
                have it averaged over planes and places of the grid.
            shifts: Over how many places of the grid of codes it is averaged; None = as the settings say, if it is part
                of their map.
        """
        detection = self.settings.detection
        counts = detection.voxel_map == "standardised" and "nll" in detection.evidence
        if as_encoded or (shifts is None and not counts):
            nll_SHW = nll_map(scan.nll_Shw.numpy(), downsampling=self.settings.vqvae.downsampling)
        else:
            nll_SHW = self._averaged_nll(scan, SHIFTS[: shifts or detection.nll_shifts])
        return Evidence(residual_SHW, nll_SHW, scan.slices_SHW.numpy(), scan.foreground_SHW, scan.logits_SHW)

    def _averaged_nll(self, scan: EncodedScan, shifts: Sequence[tuple[int, int]]) -> MapSHW:
        """Return the code NLL of every pixel, the mean over all planes and places of the grid."""
        own_SHW = self.nll_map(scan.slices_SHW, scan.position_S, shifts)
        return np.mean([own_SHW, *(self._nll_across(plane, scan, shifts) for plane in self.further)], axis=0)

    def _nll_across(self, plane: PlaneNetworks, scan: EncodedScan, shifts: Sequence[tuple[int, int]]) -> MapSHW:
        """Return the map of the NLL of codes in another plane, on this one's slices."""
        own, other = self.settings.slice_axis, plane.settings.slice_axis
        across_SHW = torch.from_numpy(to_slices(from_slices(scan.slices_SHW.numpy(), own, "array"), other, "array"))
        positions = torch.from_numpy(slice_positions(len(across_SHW)))
        return to_slices(from_slices(plane.nll_map(across_SHW, positions, shifts), other, "array"), own, "array")

    def _groups(self, slices: int, restorations: int) -> list[Int[Tensor, " n"]]:
        """Return interleaved groups of slices: neighbours are alike, so that groups are equally much work."""
        size = min(max(1, self._batching.state_rows // restorations), self._batching.group)
        count = -(-slices // size)
        return [torch.arange(slices)[first::count] for first in range(count)]

    def _lower(self, precision: Precision) -> torch.dtype | None:
        if precision not in get_args(Precision):
            raise SettingsError("unknown precision", found=precision, expected=", ".join(get_args(Precision)))
        return torch.bfloat16 if precision == "fast" and bfloat16_is_fast(self.device) else None

    @torch.inference_mode()
    def _restore_group(
        self,
        codes_Shw: Int[Tensor, "S h w"],
        position_S: Float[Tensor, " S"],
        uniforms_RShw: Float64[Tensor, "R S h w"],
        *,
        threshold_nats: float,
        schedule: Schedule,
        arithmetic: torch.dtype | None,
    ) -> Int[Tensor, "R S h w"]:
        return restore(
            self.prior,
            codes_Shw.to(self.device),
            position_S.to(self.device),
            uniforms_RShw,
            threshold_nats=threshold_nats,
            schedule=schedule,
            arithmetic=arithmetic,
        ).cpu()

    @torch.inference_mode()
    def _decode_and_weigh(
        self,
        slice_HW: Float[Tensor, "H W"],
        codes_hw: Int[Tensor, "h w"],
        restored_Rhw: Int[Tensor, "R h w"],
        position: Float[Tensor, ""],
        *,
        arithmetic: torch.dtype | None,
    ) -> WeightedRestoration:
        """Decode each distinct restoration of a slice once and weigh them all."""
        distinct_Dhw, which_R = torch.unique(restored_Rhw, dim=0, return_inverse=True)
        with torch.autocast(self.device.type, arithmetic, enabled=arithmetic is not None):
            decoder = SliceDecoder(self.vqvae, codes_hw.to(self.device), position.to(self.device))
            decoded_DHW = decoder.decode(distinct_Dhw.to(self.device)).float().cpu()
        return weigh_restorations(slice_HW, decoded_DHW[which_R], temperature=self.settings.detection.temperature)

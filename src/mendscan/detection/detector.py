"""The conductor: scan → codes → score, restoration → map → the scan's own grid."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mendscan.cohort.preparing import Prepared, evenly_spaced, prepare
from mendscan.config import Settings
from mendscan.detection.calibration import Calibration, Evidence
from mendscan.detection.restoration import draw_uniforms, restore_by_fixed_point
from mendscan.detection.scoring import WeightedRestoration, clipped_nll_score, nll_map, weigh_restorations
from mendscan.errors import SettingsError
from mendscan.models.bundle import load_bundle
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.results import Detection, Finding, find_components
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume, volume_from_array

__all__ = ["Detector", "Networks", "choose_device", "evidence_of", "one_thread", "scan_generator"]

_SLICES_PER_PASS = 32
"""Slices encoded or scored at once; fixed, so that a scan's result does not depend on anything but the scan."""


@dataclass(frozen=True, eq=False)
class Networks:
    """The two networks on a device, and what they compute for one scan.

    Attributes:
        vqvae: The auto-encoder, in evaluation mode.
        prior: The prior over its codes, in evaluation mode.
        settings: The model's settings.
    """

    vqvae: VQVAE
    prior: PixelSNAIL
    settings: Settings

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.prior.parameters()).device

    @torch.inference_mode()
    def codes_and_nll(
        self, slices_SHW: Float[Tensor, "S H W"], position_S: Float[Tensor, " S"]
    ) -> tuple[Int[Tensor, "S h w"], Float[Tensor, "S h w"]]:
        """Return the codes of slices and the negative log-likelihood of each, in nats."""
        chunks = torch.arange(len(slices_SHW), device=self.device).split(_SLICES_PER_PASS)
        codes = torch.cat([self.vqvae.codes(slices_SHW[c], position_S[c]) for c in chunks])
        return codes, torch.cat([self.prior.nll(codes[c], position_S[c]) for c in chunks])

    @torch.inference_mode()
    def restore(
        self,
        slices_SHW: Float[Tensor, "S H W"],
        codes_Shw: Int[Tensor, "S h w"],
        position_S: Float[Tensor, " S"],
        *,
        restorations: int,
        threshold_nats: float,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "S H W"], Float[Tensor, "S H W"]]:
        """Return the weighted restoration and the weighted residual of every slice."""
        height, width = codes_Shw.shape[1:]
        uniforms = draw_uniforms(restorations, len(codes_Shw), (height, width), generator=generator)
        restored_RShw = restore_by_fixed_point(
            self.prior, codes_Shw, position_S, uniforms, threshold_nats=threshold_nats
        )
        each_slice = zip(slices_SHW, restored_RShw.unbind(1), position_S, strict=True)
        weighted = [self._decode_and_weigh(*one) for one in each_slice]
        return torch.stack([w.restored_HW for w in weighted]), torch.stack([w.residual_HW for w in weighted])

    def _decode_and_weigh(
        self, slice_HW: Float[Tensor, "H W"], restored_Rhw: Int[Tensor, "R h w"], position: Float[Tensor, ""]
    ) -> WeightedRestoration:
        """Decode each distinct restoration of a slice once and weigh them all."""
        distinct_Dhw, which_R = torch.unique(restored_Rhw, dim=0, return_inverse=True)
        decoded_DHW = self.vqvae.decode_codes(distinct_Dhw, position.expand(len(distinct_Dhw)))
        return weigh_restorations(slice_HW, decoded_DHW[which_R], temperature=self.settings.detection.temperature)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute with one thread on the CPU: the last bits of some convolutions depend on how many there are."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Detector:
    """Finds what does not belong in a scan, having seen only healthy ones.

    Args:
        networks: The trained networks.
        calibration: What was learnt from held-out healthy scans.
        model_hash: Names the model in results.

    Example::

        detector = Detector.load("model")
        detection = detector.detect("scan.nii.gz")
        detection.score, detection.p_value, detection.anomaly_map
        detection.save("results")
    """

    def __init__(self, networks: Networks, calibration: Calibration, *, model_hash: str) -> None:
        self.networks = networks
        self.calibration = calibration
        self.model_hash = model_hash

    @property
    def settings(self) -> Settings:
        """The model's settings."""
        return self.networks.settings

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto") -> Detector:
        """Load and verify a model folder.

        Raises:
            ModelError: If the folder is no model or was altered.
            SettingsError: If the device is not available.
        """
        bundle = load_bundle(Path(folder))
        target = choose_device(device)
        arrays = {name: array.numpy() for name, array in bundle.calibration_arrays.items()}
        calibration = Calibration.from_json(bundle.calibration, arrays, bundle.settings.detection)
        networks = Networks(bundle.vqvae.to(target), bundle.prior.to(target), bundle.settings)
        return cls(networks, calibration, model_hash=bundle.model_hash)

    def detect(
        self,
        scan: str | os.PathLike[str] | Volume | tuple[Shaped[np.ndarray, "I J K"], Shaped[np.ndarray, "4 4"]],
        *,
        restorations: int | None = None,
        seed: int = 0,
        maps: bool = True,
    ) -> Detection:
        """Score one scan, restore it and map where it departs from healthy anatomy.

        Args:
            scan: A NIfTI file, a `Volume`, or a pair (array, affine).
            restorations: R; None for the model's setting (the paper: 15).
            seed: Seed of the restorations; together with the scan's content it decides every sample.
            maps: Whether to restore and map; without, only the score is computed, much faster.

        Raises:
            ScanError: If the scan cannot be read or makes no sense.
        """
        with one_thread(self.networks.device):
            return self._detect(_as_volume(scan), restorations=restorations, seed=seed, maps=maps)

    def _detect(self, volume: Volume, *, restorations: int | None, seed: int, maps: bool) -> Detection:
        started = time.perf_counter()
        prepared = prepare(volume, self.settings.preparation)
        at = evenly_spaced(len(prepared.slices_SHW), self.settings.preparation.scored_slices)
        slices, position = self._tensors(prepared, at)
        codes, nll = self.networks.codes_and_nll(slices, position)
        scores = clipped_nll_score(nll, threshold_nats=self.calibration.thresholds.score).double().cpu().numpy()
        score = float(scores.sum())
        map_XYZ = restored_XYZ = None
        if maps:
            wanted = restorations or self.settings.detection.restorations
            evidence, restored = evidence_of(
                self.networks,
                slices,
                codes,
                nll,
                position,
                prepared.foreground_SHW[at],
                restorations=wanted,
                threshold_nats=self.calibration.thresholds.restoration,
                generator=scan_generator(volume.content_hash, seed),
            )
            on_grid = self.calibration.voxels.map_of(evidence, self.settings.detection)
            map_XYZ = np.clip(prepared.to_scan(on_grid, at=at), 0, 1)
            restored_XYZ = prepared.restored_scan(volume, restored, at=at)
        axis = "XYZ".index(prepared.slice_axis)
        centres = at * prepared.grid.scale[axis] + prepared.grid.offset[axis]
        return Detection(
            volume=volume,
            score=score,
            p_value=self.calibration.p_value(score),
            slice_scores=scores,
            slice_indices=np.clip(centres, 0, volume.shape[axis] - 1),
            slice_axis=prepared.slice_axis,
            map_XYZ=map_XYZ,
            restored_XYZ=restored_XYZ,
            threshold=self.calibration.voxels.threshold,
            findings=() if map_XYZ is None else self._findings(map_XYZ, volume, prepared),
            seconds=time.perf_counter() - started,
        )

    def _tensors(self, prepared: Prepared, at: Int[np.ndarray, " n"]) -> tuple[Tensor, Tensor]:
        device = self.networks.device
        slices = torch.from_numpy(prepared.slices_SHW[at]).to(device)
        return slices, torch.from_numpy(prepared.positions_S[at]).to(device)

    def _findings(self, map_XYZ: Float[np.ndarray, "X Y Z"], volume: Volume, prepared: Prepared) -> tuple[Finding, ...]:
        model_voxel_mm3 = float(np.prod(prepared.grid.model_spacing_mm(volume.affine)))
        return find_components(
            map_XYZ, volume, threshold=self.calibration.voxels.threshold, smallest_mm3=2 * model_voxel_mm3
        )


def evidence_of(
    networks: Networks,
    slices: Float[Tensor, "S H W"],
    codes: Int[Tensor, "S h w"],
    nll: Float[Tensor, "S h w"],
    position: Float[Tensor, " S"],
    foreground: Bool[np.ndarray, "S H W"],
    *,
    restorations: int,
    threshold_nats: float,
    generator: torch.Generator,
) -> tuple[Evidence, Float[np.ndarray, "S H W"]]:
    """Return the voxel evidence of a scan, and its restoration, on the model grid."""
    restored, residual = networks.restore(
        slices, codes, position, restorations=restorations, threshold_nats=threshold_nats, generator=generator
    )
    upsampled = nll_map(nll.cpu().numpy(), downsampling=networks.settings.vqvae.downsampling)
    return Evidence(residual.cpu().numpy(), upsampled, foreground), restored.cpu().numpy()


def scan_generator(content_hash: str, seed: int) -> torch.Generator:
    """Return a stream that depends on a scan's content and the seed alone, not on its name or neighbours."""
    digest = hashlib.sha256(f"restoration:{seed}:{content_hash}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def choose_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` takes the best there is.

    Raises:
        SettingsError: If the device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name.split(":")[0], False):
        there = ", ".join(kind for kind, present in available.items() if present)
        raise SettingsError("device not available", where=f"--device {name}", expected=f"one of {there}")
    return torch.device(name)


def _as_volume(scan: Any) -> Volume:
    if isinstance(scan, Volume):
        return scan
    if isinstance(scan, tuple):
        voxels, affine = scan
        return volume_from_array(voxels, affine, name="array")
    return read_volume(scan)

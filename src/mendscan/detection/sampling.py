"""Healthy slices that no one has: sampled from the prior, position by position, and decoded.

A sample is a restoration in which *every* code is replaced: z_i ~ p(· | z_<i, c) for all i, c the slice coordinate.  So
the engine of `restoration` draws it, with a threshold that every code exceeds.  What the prior has learnt is seen in
such samples, and so is what it has not.

Sample k is a function of (model, seed, k, c) alone: its uniforms are a stream of their own, and it is computed in a
batch of fixed size at a fixed place, so that not even rounding depends on how many samples are drawn.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mendscan.cohort.preparing import from_slices, slice_positions
from mendscan.config import PreparationSettings, Settings
from mendscan.detection.detector import Detector
from mendscan.detection.devices import one_thread
from mendscan.detection.encoded_scan import scan_generator
from mendscan.detection.networks import Networks
from mendscan.detection.restoration import draw_uniforms, restore_incrementally
from mendscan.errors import SettingsError
from mendscan.models.causal import folded_weights
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.parallel import available_cores, each_in_threads
from mendscan.progress import Progress, Silent
from mendscan.shapes import Affine
from mendscan.volumes.maps import write_map
from mendscan.volumes.volume import Volume, array_geometry

__all__ = ["Samples", "sample", "sample_uniforms", "trained_positions"]

_BATCH = 8
"""Samples computed together; the last batch is filled up, and what fills it is thrown away."""
_EVERY_CODE = -1.0
"""A threshold in nats that the NLL of every code exceeds."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Healthy slices sampled from the prior.

    Attributes:
        slices_nHW: The decoded slices, in prepared intensities (standard deviations of a scan's own intensities, or
            [-1, 1] for the recipe ``range``); H and W run to the right, to the front or up, as on the model grid.
        codes_nhw: Their codes.
        position_n: Slice coordinate of each, in [-0.5, 0.5].
        seed: The seed.
        temperature: The temperature.
        model_hash: Names the model.
        preparation: The model's grid and intensity recipe.
    """

    slices_nHW: Float32[np.ndarray, "n H W"]
    codes_nhw: Int[np.ndarray, "n h w"]
    position_n: Float32[np.ndarray, " n"]
    seed: int
    temperature: float
    model_hash: str
    preparation: PreparationSettings

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Size of a pixel across and up; 1 where the model's grid has no millimetres, because scans are stretched."""
        across, up = np.delete(self._spacing_mm, "XYZ".index(self.preparation.slice_axis)).tolist()
        return across, up

    @property
    def slice_ends(self) -> str:
        """What the smallest and largest slice coordinate are, in words."""
        first, last = {"X": ("left", "right"), "Y": ("posterior", "anterior"), "Z": ("inferior", "superior")}[
            self.preparation.slice_axis
        ]
        return f"-0.5 = most {first}, 0.5 = most {last}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the slices into one NIfTI file, sample after sample along the model's slice axis, in RAS+.

        Neighbours in it are samples of their own, not neighbouring slices of one subject.

        Raises:
            WriteError: If the name does not end in ``.nii.gz`` or the file cannot be written.
        """
        voxels_XYZ = np.ascontiguousarray(
            from_slices(self.slices_nHW, self.preparation.slice_axis, self.preparation.slice_view)
        )
        affine: Affine = np.diag([*self._spacing_mm, 1.0])
        geometry = array_geometry(voxels_XYZ.shape, affine, where=path)
        write_map(path, voxels_XYZ, Volume(voxels_XYZ, affine, "samples", geometry))

    @property
    def _spacing_mm(self) -> tuple[float, float, float]:
        return self.preparation.spacing_mm or (1.0, 1.0, 1.0)


def sample(
    model: str | os.PathLike[str],
    n: int = 16,
    *,
    position: float | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Samples:
    """Sample healthy slices from a model's prior.

    Args:
        model: The model folder.
        n: How many.
        position: Slice coordinate c of all samples, from -0.5, the first slice along the model's slice axis (the most
            inferior of axial ones), to 0.5, the last; None = spread evenly over the slices that the model was
            trained on.
        seed: Sample k depends on the model, the seed, k and its position alone: with a given `position`, fewer samples
            are the first of more.
        temperature: The logits are divided by it: below 1 only what is likely is drawn, above 1 also what is unlikely.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        progress: Told of every batch.

    Raises:
        SettingsError: If `n`, `position`, `seed` or `temperature` is out of range or the device is not available.
        ModelError: If the folder is no model or was altered.

    Example::

        samples = mendscan.sample("model", 16, seed=1)
        samples.slices_nHW.shape, samples.position_n
    """
    _check_request(n, seed, temperature)
    detector = Detector.load(model, device=device)
    position_n = _positions(detector.settings, n, position)
    networks, prior = detector.networks, _at_temperature(detector.networks.prior, temperature)
    with one_thread(networks.device):
        codes_nhw = _sample_codes(prior, position_n, detector.settings.latent_shape, seed, progress or Silent())
        slices_nHW = _decode(networks, codes_nhw, position_n)
    return Samples(
        slices_nHW.numpy(),
        codes_nhw.numpy(),
        position_n.numpy(),
        seed,
        temperature,
        detector.model_hash,
        detector.settings.preparation,
    )


def trained_positions(settings: Settings) -> Float32[np.ndarray, " m"]:
    """Return the slice coordinates that a model was trained on, ascending."""
    margin = settings.preparation.training_margin_slices
    return slice_positions(settings.slices)[margin : settings.slices - margin]


def sample_uniforms(seed: int, numbers: range, latent_shape: tuple[int, int]) -> Float[Tensor, "1 n h w"]:
    """Return the numbers that decide the codes of samples, each sample's from a stream of its own.

    Args:
        seed: The seed.
        numbers: Which samples, counted from 0.
        latent_shape: (h, w).
    """
    streams = [scan_generator(f"sample {number}", seed) for number in numbers]
    return torch.cat([draw_uniforms(1, 1, latent_shape, generator=stream) for stream in streams], dim=1)


def _check_request(n: int, seed: int, temperature: float) -> None:
    if n < 1:
        raise SettingsError("no sample is asked for", where="n", found=n, expected=">= 1")
    if seed < 0:
        raise SettingsError("not a seed", where="seed", found=seed, expected=">= 0")
    if not (math.isfinite(temperature) and temperature > 0):
        raise SettingsError("not a temperature", where="temperature", found=temperature, expected="a number above 0")


def _positions(settings: Settings, n: int, position: float | None) -> Float[Tensor, " n"]:
    """Return the slice coordinate of each sample: the middles of `n` equal parts of the trained ones, or the given."""
    trained = trained_positions(settings)
    if position is None:
        middles = (2 * np.arange(n) + 1) * len(trained) // (2 * n)
        return torch.from_numpy(trained[middles])
    first, last = float(trained[0]), float(trained[-1])
    if not first <= position <= last:
        raise SettingsError(
            "the model was trained on no slice there",
            where="position",
            found=position,
            expected=f"{first:.4g} (first slice) to {last:.4g} (last slice)",
        )
    return torch.full((n,), position)


def _at_temperature(prior: PixelSNAIL, temperature: float) -> PixelSNAIL:
    """Return a prior whose logits are divided by the temperature; they are linear in the last layer's parameters."""
    if temperature == 1:
        return prior
    changed = copy.deepcopy(prior)
    with torch.no_grad():
        changed.logits.gain.div_(temperature)
        changed.logits.bias.div_(temperature)
    return changed


def _sample_codes(
    prior: PixelSNAIL, position_n: Float[Tensor, " n"], latent_shape: tuple[int, int], seed: int, progress: Progress
) -> Int[Tensor, "n h w"]:
    starts = range(0, len(position_n), _BATCH)
    progress.begin("sample", len(starts))
    work, jobs = partial(_sample_batch, prior, position_n, latent_shape, seed), [(start,) for start in starts]
    with folded_weights(prior):
        batches = each_in_threads(work, jobs, workers=_threads(prior), after_each=progress.advance)
    return torch.cat(batches)[: len(position_n)]


@torch.inference_mode()
def _sample_batch(
    prior: PixelSNAIL,
    position_n: Float[Tensor, " n"],
    latent_shape: tuple[int, int],
    seed: int,
    start: int,
) -> Int[Tensor, "b h w"]:
    """Return the codes of one batch; beyond the last sample the last position goes on."""
    numbers = range(start, start + _BATCH)
    position_b = position_n[[min(number, len(position_n) - 1) for number in numbers]]
    device = next(prior.parameters()).device
    nothing_yet = torch.zeros(_BATCH, *latent_shape, dtype=torch.long, device=device)
    uniforms = sample_uniforms(seed, numbers, latent_shape)
    drawn = restore_incrementally(prior, nothing_yet, position_b.to(device), uniforms, threshold_nats=_EVERY_CODE)
    return drawn.codes_RShw[0].cpu()


def _decode(
    networks: Networks, codes_nhw: Int[Tensor, "n h w"], position_n: Float[Tensor, " n"]
) -> Float[Tensor, "n H W"]:
    """Decode samples one by one: the last bits of some convolutions depend on how many there are."""

    @torch.inference_mode()
    def decode(codes_1hw: Tensor, position_1: Tensor) -> Tensor:
        device = networks.device
        return networks.vqvae.decode_codes(codes_1hw.to(device), position_1.to(device)).float().cpu()

    jobs = list(zip(codes_nhw.split(1), position_n.split(1), strict=True))
    return torch.cat(each_in_threads(decode, jobs, workers=_threads(networks.prior)))


def _threads(prior: PixelSNAIL) -> int:
    return available_cores() if next(prior.parameters()).device.type == "cpu" else 1

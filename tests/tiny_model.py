"""A tiny model whose networks are random but whose calibration is real, and scans for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from mendscan.cohort.preparing import prepare
from mendscan.config import Settings
from mendscan.detection import saved_model
from mendscan.detection.calibration import Calibration, CodeThresholds
from mendscan.detection.detector import map_and_findings
from mendscan.detection.networks import Networks
from mendscan.detection.voxel_calibration import calibrate_voxels, left_out_maps
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.volumes.volume import volume_from_array

SHAPE = (18, 14, 11)
OBLIQUE = np.array(
    [
        [0.25, -1.75, 0.125, 11.0],
        [0.25, 0.25, -2.5, 30.0],
        [-1.25, -0.125, -0.25, 9.5],
        [0, 0, 0, 1],
    ]
)
"""File axes run to inferior, left and posterior, slightly tilted; exact in float32, as in a NIfTI header."""


def head(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """An ellipsoid of smooth texture in an empty background, as int16."""
    generator = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    texture = gaussian_filter(generator.normal(size=shape), 1.0)
    return (inside * (400 + 600 * texture)).astype(np.int16)


def random_networks(settings: Settings) -> Networks:
    """Random networks that spread scans over all codes and find some of them much likelier than others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqvae = VQVAE(settings.vqvae).eval()
        prior = PixelSNAIL(settings.prior, codes=settings.vqvae.codes).eval()
    scans = [prepare(volume_from_array(head(s), OBLIQUE, name="h"), settings.preparation) for s in (1, 2, 3)]
    with torch.no_grad():
        latents = [vqvae.encode(torch.from_numpy(p.slices_SHW), torch.from_numpy(p.positions_S)) for p in scans]
        vqvae.quantizer.start_from(
            torch.cat(latents).movedim(1, -1).flatten(0, -2), generator=torch.Generator().manual_seed(0)
        )
        prior.logits.gain.mul_(8.0)
    return Networks(vqvae, prior, settings)


def calibration_of(networks: Networks) -> Calibration:
    """Learnt from eight scans, as training does it."""
    settings = networks.settings
    scans = [volume_from_array(head(seed), OBLIQUE, name="h") for seed in range(10, 18)]
    prepared = [prepare(scan, settings.preparation) for scan in scans]
    encoded = [networks.encode(each) for each in prepared]
    thresholds = CodeThresholds.of(np.stack([scan.nll_Shw.numpy() for scan in encoded]), settings.detection)
    restored = [
        networks.restore(scan, restorations=2, threshold_nats=thresholds.restoration, seed=0) for scan in encoded
    ]
    evidence = [networks.evidence(scan, r.residual_SHW) for scan, r in zip(encoded, restored, strict=True)]
    scores = [float(scan.slice_scores(thresholds.score).sum()) for scan in encoded]
    voxels = calibrate_voxels(evidence, settings.detection)
    maps = left_out_maps(voxels, evidence)
    found = [
        map_and_findings(*each, at=scan.at, threshold=0.5)[1]
        for *each, scan in zip(maps, scans, prepared, encoded, strict=True)
    ]
    peaks = tuple(tuple(finding.peak for finding in findings) for findings in found)
    return Calibration(thresholds, tuple(sorted(scores)), voxels, peaks)


def save_model(folder: Path, networks: Networks, calibration: Calibration) -> None:
    saved_model.save_model(folder, networks, calibration, plan={}, split={}, card="# Tiny\n")

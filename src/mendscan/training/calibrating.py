"""The last stage: what the trained networks say about healthy scans they have never seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from mendscan.cohort.preparing import prepare
from mendscan.config import Settings, parse_settings
from mendscan.detection.calibration import Calibration, CodeThresholds, Evidence, calibrate_voxels
from mendscan.detection.devices import one_thread
from mendscan.detection.networks import EncodedScan, Networks
from mendscan.errors import ScanError
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.parallel import each_in_processes
from mendscan.progress import Progress
from mendscan.volumes.reading import read_volume

__all__ = ["calibrate"]


def calibrate(networks: Networks, scans: Sequence[Path], progress: Progress) -> Calibration:
    """Learn thresholds, the healthy distribution of the score and the maps' statistics.

    Args:
        networks: The trained networks.
        scans: Held-out healthy scans, prepared and scored exactly as in detection.
        progress: Told of every scan.

    Raises:
        ScanError: If a scan cannot be read any more.
    """
    settings = networks.settings.detection
    progress.begin("score healthy scans", len(scans))
    encoded = []
    with one_thread(networks.device):
        for path in scans:
            volume = read_volume(path)
            encoded.append(networks.encode(prepare(volume, networks.settings.preparation), volume.content_hash))
            progress.advance()
    thresholds = CodeThresholds.of(np.concatenate([scan.nll_Shw.numpy().ravel() for scan in encoded]), settings)
    scores = sorted(float(scan.slice_scores(thresholds.score).sum()) for scan in encoded)
    evidence = _restore_all(networks, encoded, thresholds.restoration, progress)
    return Calibration(thresholds, tuple(scores), calibrate_voxels(evidence, settings))


def _restore_all(
    networks: Networks, encoded: Sequence[EncodedScan], threshold_nats: float, progress: Progress
) -> list[Evidence]:
    progress.begin("restore healthy scans", len(encoded))
    weights = save(_all_tensors(networks))
    workers = None if networks.device.type == "cpu" else 0
    outcomes = each_in_processes(
        _evidence_of_scan,
        [(scan, threshold_nats) for scan in encoded],
        expected=ScanError,
        initializer=_load_networks,
        initargs=(networks.settings.model_dump(mode="json"), weights, str(networks.device)),
        workers=workers,
    )
    found: dict[int, Evidence] = {}
    for index, evidence in outcomes:
        found[index] = evidence
        progress.advance()
    return [found[index] for index in range(len(encoded))]


def _all_tensors(networks: Networks) -> dict[str, torch.Tensor]:
    parts = {"vqvae": networks.vqvae, "prior": networks.prior}
    return {f"{part}.{k}": v.cpu().contiguous() for part, net in parts.items() for k, v in net.state_dict().items()}


_NETWORKS: list[Networks] = []
"""The networks of this worker process, set once when it starts."""


def _load_networks(settings_json: dict[str, object], weights: bytes, device: str) -> None:
    if device == "cpu":
        torch.set_num_threads(1)
    settings: Settings = parse_settings(settings_json, where="worker")
    tensors = load(weights)
    vqvae, prior = VQVAE(settings.vqvae), PixelSNAIL(settings.prior, codes=settings.vqvae.codes)
    for name, network in (("vqvae.", vqvae), ("prior.", prior)):
        network.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        network.eval().to(device)
    _NETWORKS[:] = [Networks(vqvae, prior, settings, workers=1)]


def _evidence_of_scan(scan: EncodedScan, threshold_nats: float) -> Evidence:
    networks = _NETWORKS[0]
    restored = networks.restore(
        scan,
        restorations=networks.settings.detection.calibration_restorations,
        threshold_nats=threshold_nats,
        seed=networks.settings.seed,
    )
    return networks.evidence(scan, restored.residual_SHW)

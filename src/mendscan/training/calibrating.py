"""The last stage: what the trained networks say about healthy scans they have never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from mendscan.cohort.preparing import evenly_spaced, prepare
from mendscan.config import Settings, parse_settings
from mendscan.detection.calibration import Calibration, CodeThresholds, Evidence, calibrate_voxels
from mendscan.detection.detector import Networks, evidence_of, one_thread, scan_generator
from mendscan.detection.scoring import clipped_nll_score
from mendscan.errors import ScanError
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.parallel import each_in_processes
from mendscan.progress import Progress
from mendscan.volumes.reading import read_volume

__all__ = ["calibrate"]


@dataclass(frozen=True, eq=False)
class _EncodedScan:
    slices: torch.Tensor
    codes: torch.Tensor
    nll: torch.Tensor
    position: torch.Tensor
    foreground: np.ndarray
    content_hash: str


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
            encoded.append(_encode(networks, path))
            progress.advance()
    thresholds = CodeThresholds.of(np.concatenate([e.nll.numpy().ravel() for e in encoded]), settings)
    scores = [float(clipped_nll_score(e.nll, threshold_nats=thresholds.score).double().sum()) for e in encoded]
    evidence = _restore_all(networks, encoded, thresholds.restoration, progress)
    return Calibration(thresholds, tuple(sorted(scores)), calibrate_voxels(evidence, settings))


def _encode(networks: Networks, path: Path) -> _EncodedScan:
    volume = read_volume(path)
    prepared = prepare(volume, networks.settings.preparation)
    at = evenly_spaced(len(prepared.slices_SHW), networks.settings.preparation.scored_slices)
    slices = torch.from_numpy(prepared.slices_SHW[at]).to(networks.device)
    position = torch.from_numpy(prepared.positions_S[at]).to(networks.device)
    codes, nll = networks.codes_and_nll(slices, position)
    return _EncodedScan(
        slices=slices.cpu(),
        codes=codes.cpu(),
        nll=nll.cpu(),
        position=position.cpu(),
        foreground=prepared.foreground_SHW[at],
        content_hash=volume.content_hash,
    )


def _restore_all(
    networks: Networks, encoded: Sequence[_EncodedScan], threshold_nats: float, progress: Progress
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
    _NETWORKS[:] = [Networks(vqvae, prior, settings)]


def _evidence_of_scan(scan: _EncodedScan, threshold_nats: float) -> Evidence:
    networks = _NETWORKS[0]
    device = networks.device
    evidence, _ = evidence_of(
        networks,
        scan.slices.to(device),
        scan.codes.to(device),
        scan.nll.to(device),
        scan.position.to(device),
        scan.foreground,
        restorations=networks.settings.detection.calibration_restorations,
        threshold_nats=threshold_nats,
        generator=scan_generator(scan.content_hash, networks.settings.seed),
    )
    return evidence

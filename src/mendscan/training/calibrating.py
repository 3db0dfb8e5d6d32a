"""The last stage: what the trained networks say about healthy scans they have never seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from mendscan.cohort.preparing import prepare
from mendscan.cohort.store import measure_cohort
from mendscan.config import Settings, override, parse_settings
from mendscan.detection.calibration import Calibration, CodeThresholds, HealthyPeaks
from mendscan.detection.detector import map_and_findings
from mendscan.detection.devices import choose_device, one_thread
from mendscan.detection.evidence import Evidence
from mendscan.detection.networks import EncodedScan, Networks
from mendscan.detection.voxel_calibration import VoxelCalibration, calibrate_voxels, left_out_maps
from mendscan.errors import CohortError, ModelError, ScanError, SettingsError
from mendscan.models.bundle import load_bundle, save_bundle
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.parallel import each_in_processes
from mendscan.progress import Progress, Silent
from mendscan.volumes.reading import find_scans, read_volume
from mendscan.volumes.writing import make_folder

__all__ = ["calibrate", "healthy_peaks", "recalibrate"]

_FEWEST_LEFT_OUT = 3
"""With two scans, leaving one out leaves no spread to standardise it by."""


def calibrate(networks: Networks, scans: Sequence[Path], progress: Progress) -> Calibration:
    """Learn thresholds, the healthy distribution of scores and findings, and the maps' statistics.

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
    voxels = calibrate_voxels(evidence, settings)
    peaks = healthy_peaks(networks.settings, voxels, scans, encoded, evidence, progress)
    return Calibration(thresholds, tuple(scores), voxels, peaks)


def healthy_peaks(
    settings: Settings,
    voxels: VoxelCalibration,
    scans: Sequence[Path],
    encoded: Sequence[EncodedScan],
    evidence: Sequence[Evidence],
    progress: Progress,
) -> HealthyPeaks | None:
    """Return how strong the findings of each calibration scan are, each scan standardised by the others.

    Scans are read again, one at a time: a map has to go home to its scan, as in detection, and the scans of a cohort
    may be more than memory holds.

    Args:
        settings: The model's.
        voxels: What was learnt from `evidence`.
        scans: The calibration scans.
        encoded: The same as the networks see them.
        evidence: What the networks say of each.
        progress: Told of every scan.

    Returns:
        Peaks, descending, of each scan; the scans are sorted too, so that no scan can be told from its place.  None for
        a standardised map of two scans, which cannot be left out.

    Raises:
        ScanError: If a scan cannot be read any more.
    """
    if voxels.kinds and len(scans) < _FEWEST_LEFT_OUT:
        return None
    progress.begin("find in healthy scans", len(scans))
    found = []
    maps = left_out_maps(voxels, evidence, settings.detection)
    for path, scan, map_SHW in zip(scans, encoded, maps, strict=True):
        volume = read_volume(path)
        prepared = prepare(volume, settings.preparation)
        _, findings = map_and_findings(map_SHW, volume, prepared, at=scan.at, threshold=voxels.threshold)
        found.append(tuple(sorted((finding.peak for finding in findings), reverse=True)))
        progress.advance()
    return tuple(sorted(found, reverse=True))


def recalibrate(
    model: str | Path,
    healthy: str | Path,
    output: str | Path,
    *,
    assignments: Sequence[str] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> None:
    """Calibrate a trained model again, on the same calibration scans, into another model folder.

    For models of an earlier version, whose calibration knew less, and for other detection settings with the same
    networks.  Networks, all other settings, plan, split and card stay.

    Args:
        model: A model folder.
        healthy: The folder of healthy scans that it was trained on; its calibration scans are known by their content.
        output: The model folder to write.
        assignments: Detection settings as ``detection.key=value``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        progress: Told how far the work is.

    Raises:
        ModelError: If the model cannot be used, or `output` holds one.
        CohortError: If a calibration scan is not in `healthy`.
        SettingsError: If an assignment is unknown or not of detection: the networks were trained under the others.
    """
    progress, source, target = progress or Silent(), Path(model), Path(output)
    if (target / "manifest.json").exists():
        raise ModelError("there is a model already", where=target, code="E_EXISTS", remedy="name another folder")
    bundle, on = load_bundle(source), choose_device(device)
    plan, split = (json.loads((source / name).read_text(encoding="utf-8")) for name in ("plan.json", "split.json"))
    settings = override(bundle.settings, assignments)
    if settings != bundle.settings.model_copy(update={"detection": settings.detection}):
        raise SettingsError("only settings of detection can change in a trained model", found=list(assignments))
    networks = Networks(bundle.vqvae.to(on), bundle.prior.to(on), settings)
    calibration = calibrate(networks, _scans_by_content(Path(healthy), split["calibration"], progress), progress)
    save_bundle(
        make_folder(target),
        settings=settings,
        vqvae=networks.vqvae,
        prior=networks.prior,
        calibration=calibration.to_json(),
        calibration_arrays={name: torch.from_numpy(array) for name, array in calibration.arrays().items()},
        plan=plan,
        split=split,
        card=(source / "README.md").read_text(encoding="utf-8"),
    )


def _scans_by_content(folder: Path, wanted: Sequence[str], progress: Progress) -> list[Path]:
    paths, facts = measure_cohort(find_scans(folder), progress)
    found = {fact.content_hash: path for fact, path in zip(facts, paths, strict=True)}
    missing = [content for content in wanted if content not in found]
    if missing:
        raise CohortError(
            "not the scans that the model was calibrated on",
            where=folder,
            code="E_COHORT_OTHER",
            found=f"{len(missing)} of {len(wanted)} calibration scans missing",
            remedy="give the folder of healthy scans that the model was trained on",
        )
    return [found[content] for content in wanted]


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

"""The last stage: what the trained networks say about healthy scans they have never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mendscan.cohort.fingerprint import ScanFacts
from mendscan.cohort.preparing import prepare
from mendscan.cohort.store import measure_cohort
from mendscan.config import DetectionSettings, Settings, override
from mendscan.detection.acquisition import AcquisitionReference
from mendscan.detection.calibration import Calibration, CodeThresholds, HealthyPeaks, ScanReference
from mendscan.detection.code_usage import CodeUsage
from mendscan.detection.detector import map_and_findings
from mendscan.detection.devices import choose_device, one_thread
from mendscan.detection.encoded_scan import EncodedScan
from mendscan.detection.evidence import Evidence
from mendscan.detection.gate import AcquisitionGate
from mendscan.detection.networks import Networks
from mendscan.detection.saved_model import calibration_of, save_model
from mendscan.detection.scan_score import ScanCalibration, top_mean
from mendscan.detection.taken import as_taken
from mendscan.detection.voxel_calibration import (
    VoxelCalibration,
    calibrate_voxels,
    left_out_maps,
    left_out_nats,
    paper_map,
)
from mendscan.errors import CohortError, ModelError, SettingsError
from mendscan.models.bundle import load_bundle
from mendscan.progress import Progress, Silent
from mendscan.training.acquiring import learn_acquisition
from mendscan.training.gating import learn_gate
from mendscan.training.workplace import new_model_folder
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import STANDARD_READER, ScanReader

__all__ = ["calibrate", "healthy_peaks", "recalibrate"]

_FEWEST_LEFT_OUT = 3
"""With two scans, leaving one out leaves no spread to standardise it by."""


def calibrate(
    networks: Networks,
    scans: Sequence[Path],
    acquisition: AcquisitionReference | None,
    progress: Progress,
    *,
    gate: AcquisitionGate | None = None,
    reader: ScanReader = STANDARD_READER,
) -> Calibration:
    """Learn thresholds, the healthy distribution of scores and findings, and the maps' statistics.

    Args:
        networks: The trained networks.
        scans: Held-out healthy scans, prepared and scored exactly as in detection.
        acquisition: How the training scans were taken; None if the model has the paper's score alone.
        progress: Told of every scan.
        gate: What healthy scans look like from outside; the use of the codes is learnt here.
        reader: How the scans are read.

    Raises:
        ScanError: If a scan cannot be read any more.
    """
    settings = networks.settings.detection
    progress.begin("score healthy scans", len(scans))
    encoded, distances = [], []
    with one_thread(networks.device):
        for path in scans:
            volume = reader(path)
            prepared = prepare(volume, networks.settings.preparation)
            encoded.append(networks.encode(prepared))
            if acquisition is not None:
                distances.append(acquisition.length(as_taken(volume, prepared, networks, acquisition)))
            progress.advance()
    thresholds = CodeThresholds.of(np.concatenate([scan.nll_Shw.numpy().ravel() for scan in encoded]), settings)
    scores = sorted(scan.score(thresholds.score) for scan in encoded)
    evidence = _restore_all(networks, encoded, thresholds.restoration, progress)
    voxels = calibrate_voxels(evidence, settings)
    peaks = healthy_peaks(networks.settings, voxels, scans, encoded, evidence, progress, reader)
    paper_threshold = float(np.quantile([paper_map(each, settings) for each in evidence], settings.threshold_quantile))
    scan = (
        None if acquisition is None else ScanReference(acquisition, _scan_scores(voxels, evidence, distances, settings))
    )
    gate = None if gate is None else _with_codes(gate, encoded, networks.settings)
    return Calibration(thresholds, tuple(scores), voxels, peaks, scan, paper_threshold, gate)


def _with_codes(gate: AcquisitionGate, encoded: Sequence[EncodedScan], settings: Settings) -> AcquisitionGate:
    if len(encoded) < _FEWEST_LEFT_OUT:
        return gate
    codes = [scan.codes_Shw.numpy() for scan in encoded]
    return replace(gate, codes=CodeUsage.learn(codes, codes=settings.vqvae.codes))


def _scan_scores(
    voxels: VoxelCalibration, evidence: Sequence[Evidence], distances: Sequence[float], settings: DetectionSettings
) -> ScanCalibration:
    """Return how the parts of the scan score are in the calibration scans, each against the others."""
    local = [
        top_mean(nats_SHW[voxels.scored(each.foreground_SHW)], settings.scan_top_share)
        for nats_SHW, each in zip(left_out_nats(voxels, evidence), evidence, strict=True)
    ]
    return ScanCalibration.fit({"local": local, "acquisition": list(distances)})


def healthy_peaks(
    settings: Settings,
    voxels: VoxelCalibration,
    scans: Sequence[Path],
    encoded: Sequence[EncodedScan],
    evidence: Sequence[Evidence],
    progress: Progress,
    reader: ScanReader,
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
        reader: How the scans are read.

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
    maps = left_out_maps(voxels, evidence)
    for path, scan, map_SHW in zip(scans, encoded, maps, strict=True):
        volume = reader(path)
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
    reader: ScanReader = STANDARD_READER,
    progress: Progress | None = None,
) -> None:
    """Calibrate a trained model again, on the same calibration scans, into another model folder.

    For models of an earlier version, whose calibration knew less, and for other detection settings with the same
    networks.  The acquisition gate is learnt from all scans of the folder, and how the training scans were taken from
    these, if the model knows less of it than this version.  Networks, all other settings, plan, split
    and card stay.

    Args:
        model: A model folder.
        healthy: The folder of healthy scans that it was trained on; its calibration scans are known by their content.
        output: The model folder to write.
        assignments: Detection settings as ``detection.key=value``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        reader: How the scans are read; as in training, or they are not recognised.
        progress: Told how far the work is.

    Raises:
        ModelError: If the model cannot be used, or `output` holds one.
        CohortError: If a calibration scan is not in `healthy`.
        SettingsError: If an assignment is unknown or not of detection: the networks were trained under the others.
        WriteError: If another run is at work in `output` (E_LOCKED), or it cannot be written.
    """
    source, target = Path(model), Path(output)
    with new_model_folder(target, "calibration"):
        _recalibrate(source, healthy, target, assignments, device, reader, progress or Silent())


def _recalibrate(
    source: Path,
    healthy: str | Path,
    target: Path,
    assignments: Sequence[str],
    device: str,
    reader: ScanReader,
    progress: Progress,
) -> None:
    bundle, on = load_bundle(source), choose_device(device)
    if not bundle.split.get("calibration"):
        raise ModelError(
            "the model has no calibration scans", where=source, remedy="import its weights again, with --healthy"
        )
    settings = override(bundle.settings, assignments)
    if settings != bundle.settings.model_copy(update={"detection": settings.detection}):
        raise SettingsError("only settings of detection can change in a trained model", found=list(assignments))
    networks = Networks.of(bundle.networks, settings, device=on)
    known = calibration_of(bundle).scan
    if settings.detection.scan_score == "parts" and known is None:
        raise SettingsError(
            "the model does not know how its training scans were taken",
            where="detection.scan_score=parts",
            remedy="train again with it",
        )
    acquisition = None if known is None or settings.detection.scan_score == "paper" else known.acquisition
    paths, facts = measure_cohort(find_scans(healthy), progress, reader=reader)
    if acquisition is not None and not acquisition.is_whole:
        training = _scans_by_content(paths, facts, bundle.split["train"], where=healthy)
        prepared = [prepare(reader(path), settings.preparation).slices_SHW for path in training]
        acquisition = learn_acquisition(networks, training, prepared, progress, reader=reader)
    calibration_scans = _scans_by_content(paths, facts, bundle.split["calibration"], where=healthy)
    gate = learn_gate(paths, facts, progress, reader=reader)
    calibration = calibrate(networks, calibration_scans, acquisition, progress, gate=gate, reader=reader)
    save_model(target, networks, calibration, plan=bundle.plan, split=bundle.split, card=bundle.card)


def _scans_by_content(
    paths: Sequence[Path], facts: Sequence[ScanFacts], wanted: Sequence[str], *, where: object
) -> list[Path]:
    found = {fact.content_hash: path for fact, path in zip(facts, paths, strict=True)}
    missing = [content for content in wanted if content not in found]
    if missing:
        raise CohortError(
            "not the scans that the model was made from",
            where=where,
            code="E_COHORT_OTHER",
            found=f"{len(missing)} of {len(wanted)} scans missing",
            remedy="give the folder of healthy scans that the model was trained on",
        )
    return [found[content] for content in wanted]


def _restore_all(
    networks: Networks, encoded: Sequence[EncodedScan], threshold_nats: float, progress: Progress
) -> list[Evidence]:
    """Return the evidence of every calibration scan; threads share the slices of each, as in detection."""
    progress.begin("restore healthy scans", len(encoded))
    settings, found = networks.settings, []
    with one_thread(networks.device):
        for scan in encoded:
            restored = networks.restore(
                scan,
                restorations=settings.detection.calibration_restorations,
                threshold_nats=threshold_nats,
                seed=settings.seed,
            )
            found.append(networks.evidence(scan, restored.residual_SHW))
            progress.advance()
    return found

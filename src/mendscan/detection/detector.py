"""The conductor: scan → codes → score, restoration → map → the scan's own grid."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mendscan.cohort.preparing import Prepared, from_slices, prepare
from mendscan.config import Settings
from mendscan.detection.calibration import Calibration, Scores
from mendscan.detection.devices import choose_device, one_thread
from mendscan.detection.encoded_scan import EncodedScan
from mendscan.detection.evidence import Evidence
from mendscan.detection.networks import Networks, Precision, RestoredScan
from mendscan.detection.restoration import Schedule
from mendscan.detection.saved_model import calibration_of
from mendscan.detection.scan_score import ScanScore
from mendscan.detection.taken import as_taken
from mendscan.detection.voxel_calibration import paper_map
from mendscan.errors import SettingsError, UnfitScanError
from mendscan.models.bundle import load_bundle
from mendscan.results import CodeNLL, Detection, Finding, GateWarning, find_components
from mendscan.shapes import MapSHW, VoxelsXYZ
from mendscan.volumes.reading import Scan, as_volume
from mendscan.volumes.volume import Volume

__all__ = ["Detector", "map_and_findings"]


class Detector:
    """Finds what does not belong in a scan, having seen only healthy ones.

    Args:
        networks: The trained networks.
        calibration: What was learnt from held-out healthy scans.
        model_hash: Names the model in results.
        card: The model card, in Markdown.

    Example::

        detector = Detector.load("model")
        detection = detector.detect("scan.nii.gz")
        detection.score, detection.p_value, detection.anomaly_map
        detection.save("results")
    """

    def __init__(self, networks: Networks, calibration: Calibration, *, model_hash: str, card: str = "") -> None:
        self.networks = networks
        self.calibration = calibration
        self.model_hash = model_hash
        self.card = card

    @property
    def settings(self) -> Settings:
        """The model's settings."""
        return self.networks.settings

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", workers: int | None = None) -> Detector:
        """Load and verify a model folder.

        Args:
            folder: The model folder.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            workers: Threads that share the slices of a scan on a CPU; None = one per core.  The result does not
                depend on it.

        Raises:
            ModelError: If the folder is no model or was altered.
            SettingsError: If the device is not available.
        """
        bundle = load_bundle(Path(folder))
        calibration, target = calibration_of(bundle), choose_device(device)
        networks = Networks.of(bundle.networks, bundle.settings, device=target, workers=workers)
        return cls(networks, calibration, model_hash=bundle.model_hash, card=bundle.card)

    def detect(
        self,
        scan: Scan,
        *,
        restorations: int | None = None,
        seed: int = 0,
        maps: bool = True,
        schedule: Schedule = "incremental",
        precision: Precision = "exact",
        false_positives_per_scan: float | None = None,
        scores: Scores = "auto",
        strict: bool = False,
    ) -> Detection:
        """Score one scan, restore it and map where it departs from healthy anatomy.

        Args:
            scan: A file or folder that `read_volume` reads, a `Volume`, or a pair (array, affine).
            restorations: R; None for the model's settings (the paper: 15), by which there may be none (``soft``).
            seed: Seed of the restorations; together with the scan's codes it decides every sample.
            maps: Whether to restore and map; without, only the score is computed, faster.
            schedule: How restored codes are computed; all schedules give the same, the others far more slowly.
            precision: ``fast`` restores in bfloat16 where the processor has it: the score stays the same, the map
                changes slightly.
            false_positives_per_scan: Keep only findings so strong that a healthy scan has at most this many, on
                average (see `conformal.finding_threshold`); None keeps all.
            scores: ``auto``: score and map as the model's settings have them.  ``paper``: those of Naval Marimont &
                Tarroni (2021), exactly.
            strict: Refuse a scan that does not look like the training scans, or whose place in the world is not
                certain, rather than warn of it.

        Raises:
            ScanError: If the scan cannot be read or makes no sense.
            UnfitScanError: If `strict` and it does not look like the training scans.
            SettingsError: If there are too few calibration scans for `false_positives_per_scan`.
            ModelError: If the model does not know the findings of healthy scans, or nothing of the paper's map.
        """
        kept_above = self.finding_threshold(false_positives_per_scan, scores)
        volume, started = as_volume(scan, strict=strict), time.perf_counter()
        drawn = self.restorations_drawn(restorations, scores)
        restoring = self._restoring(drawn, seed=seed, schedule=schedule, precision=precision)
        with one_thread(self.networks.device):
            prepared, encoded, warnings = self._admit(volume, strict=strict)
            restored = restoring(encoded) if maps or self._needs_restorations(scores) else None
            residual_SHW = None if restored is None else restored.residual_SHW
            evidence = self.networks.evidence(encoded, residual_SHW, as_encoded=scores == "paper")
            nats = self._nats(evidence, scores, maps=maps)
            said = self._scan_score(volume, prepared, encoded, nats)
            map_XYZ = restored_XYZ = None
            findings: tuple[Finding, ...] = ()
            threshold = self.calibration.map_threshold(scores)
            if maps and restored is not None:
                on_grid = self._map(evidence, nats)
                map_XYZ, findings = map_and_findings(on_grid, volume, prepared, at=encoded.at, threshold=threshold)
                restored_XYZ = prepared.restored_scan(volume, restored.restored_SHW, at=encoded.at)
        return Detection(
            volume=volume,
            score=said.score,
            p_value=said.p_value,
            parts=said.parts,
            part_p_values=said.part_p_values,
            strangest=said.strangest,
            statistics=said.statistics,
            warnings=warnings,
            healthy_scores=tuple(self.calibration.healthy(scores)),
            code_nll=_code_nll(encoded, prepared, threshold=self.calibration.thresholds.score),
            paper_score=encoded.score(self.calibration.thresholds.score),
            slice_scores=encoded.slice_scores(self.calibration.thresholds.score),
            slice_indices=prepared.slice_indices(at=encoded.at),
            slice_axis=prepared.slice_axis,
            map_XYZ=map_XYZ,
            restored_XYZ=restored_XYZ,
            threshold=threshold,
            findings=self._expected(findings, scores, above=kept_above),
            seconds=time.perf_counter() - started,
        )

    def ranking_map(self, volume: Volume, *, seed: int = 0) -> VoxelsXYZ:
        """Map a scan for a measure that only looks at the order of voxels, such as average precision.

        Evidence and order are those of the map of `detect`, but nothing is cut off at 1, and neither the scan's score
        nor its restoration nor findings are computed.

        Args:
            volume: The scan.
            seed: As in `detect`.

        Returns:
            On the scan's RAS+ grid, in [0, 1), 0.5 = the healthy threshold, higher = more anomalous.

        Raises:
            IntensityError: If the scan has no contrast.
        """
        settings, voxels = self.settings.detection, self.calibration.voxels
        with one_thread(self.networks.device):
            prepared = prepare(volume, self.settings.preparation)
            encoded = self.networks.encode(prepared)
            residual_SHW = None
            if not voxels.kinds or "residual" in voxels.kinds:
                threshold = self.calibration.thresholds.restoration
                restored = self.networks.restore(
                    encoded, restorations=settings.restorations, threshold_nats=threshold, seed=seed
                )
                residual_SHW = restored.residual_SHW
            ranking_SHW = voxels.ranking_of(self.networks.evidence(encoded, residual_SHW))
            return prepared.to_scan(ranking_SHW, at=encoded.at)

    def _admit(self, volume: Volume, *, strict: bool) -> tuple[Prepared, EncodedScan, tuple[GateWarning, ...]]:
        """Prepare and encode a scan, and say what is unusual about it."""
        gate = self.calibration.gate
        warnings = () if gate is None else gate.warnings(volume)
        if strict:
            _refuse_unfit(volume, warnings)
        prepared = prepare(volume, self.settings.preparation)
        encoded = self.networks.encode(prepared)
        if gate is not None:
            warnings += gate.code_warnings(encoded.codes_Shw.numpy())
        if strict:
            _refuse_unfit(volume, warnings)
        return prepared, encoded, warnings

    def restorations_drawn(self, asked: int | None, scores: Scores) -> int:
        """Return how many restorations of a slice are drawn; 0 = none, the scan is restored softly.

        Args:
            asked: R, if its number was given.
            scores: As in `detect`.

        Raises:
            SettingsError: If the number is below 1.
        """
        settings, kinds = self.settings.detection, self.calibration.voxels.kinds
        map_needs_them = scores == "paper" or not kinds or "residual" in kinds
        if asked is None and settings.restored_scan == "soft" and not map_needs_them:
            return 0
        if asked is not None and asked < 1:
            raise SettingsError("no restoration is asked for", where="restorations", found=asked, expected="at least 1")
        return settings.restorations if asked is None else asked

    def _restoring(
        self, count: int, *, seed: int, schedule: Schedule, precision: Precision
    ) -> Callable[[EncodedScan], RestoredScan]:
        """Return how a scan is restored."""
        threshold_nats = self.calibration.thresholds.restoration
        if count == 0:
            return partial(self.networks.restore_softly, threshold_nats=threshold_nats)
        return partial(
            self.networks.restore,
            restorations=count,
            threshold_nats=threshold_nats,
            seed=seed,
            schedule=schedule,
            precision=precision,
        )

    def _needs_restorations(self, scores: Scores) -> bool:
        """Return whether even the score needs them."""
        return scores == "auto" and self.calibration.scan is not None and "residual" in self.calibration.voxels.kinds

    def _nats(self, evidence: Evidence, scores: Scores, *, maps: bool) -> MapSHW | None:
        """Return the combined evidence, once for score and map; None where both are the paper's or need none."""
        voxels, wanted = self.calibration.voxels, maps or self.calibration.scan is not None
        return voxels.nats_of(evidence) if scores == "auto" and voxels.kinds and wanted else None

    def _scan_score(
        self, volume: Volume, prepared: Prepared, encoded: EncodedScan, nats_SHW: MapSHW | None
    ) -> ScanScore:
        """Return the scan score: in parts, or the paper's, which has none."""
        if nats_SHW is None or self.calibration.scan is None:
            score = encoded.score(self.calibration.thresholds.score)
            return ScanScore(score, self.calibration.p_value(score), {}, {})
        taken = as_taken(volume, prepared, self.networks, self.calibration.scan.acquisition)
        return self.calibration.scan_score(nats_SHW, encoded.foreground_SHW, taken, self.settings.detection)

    def _map(self, evidence: Evidence, nats_SHW: MapSHW | None) -> MapSHW:
        if nats_SHW is None:
            return paper_map(evidence, self.settings.detection)
        return self.calibration.voxels.as_map(nats_SHW)

    def _expected(self, findings: Sequence[Finding], scores: Scores, *, above: float) -> tuple[Finding, ...]:
        """Return the findings above a peak, each with how many such ones a healthy scan has."""
        kept = (found for found in findings if found.peak > above)
        if not self._knows_peaks(scores):
            return tuple(kept)
        return tuple(replace(found, expected_false=self.calibration.expected_false(found.peak)) for found in kept)

    def _knows_peaks(self, scores: Scores) -> bool:
        """Return whether the calibration's peaks are of the map that is given."""
        return scores == "auto" or not self.calibration.voxels.kinds

    def finding_threshold(self, false_positives_per_scan: float | None, scores: Scores) -> float:
        """Return what voxels of a finding exceed.

        Args:
            false_positives_per_scan: How many findings a healthy scan may have; None = the map's healthy threshold.
            scores: As in `detect`.

        Raises:
            ModelError: If the model does not know the findings of its calibration scans.
            SettingsError: If the number is too small for the model, or the map is not the one that it is known for.
        """
        if false_positives_per_scan is None:
            return self.calibration.map_threshold(scores)
        if not self._knows_peaks(scores):
            raise SettingsError(
                "false positives per scan are counted for the model's own map only",
                where="--scores paper",
                remedy="leave out one of the two, or train with detection.voxel_map=residual",
            )
        return self.calibration.finding_threshold(false_positives_per_scan=false_positives_per_scan)


def map_and_findings(
    on_grid_SHW: MapSHW, volume: Volume, prepared: Prepared, *, at: Int[np.ndarray, " S"], threshold: float
) -> tuple[VoxelsXYZ, tuple[Finding, ...]]:
    """Bring a map home onto its scan and return it with its findings: the one way, of new and calibration scans alike.

    Args:
        on_grid_SHW: The map of the scored slices, on the model grid, in [0, 1].
        volume: The scan.
        prepared: The same scan on the model grid.
        at: Indices of the scored slices.
        threshold: Voxels of the scan above it belong to a finding; it needs at least two voxels of the model grid.

    Returns:
        The map on the scan's RAS+ grid, in [0, 1], 0 where the scan had no value, and the findings, largest sum of the
        map first.
    """
    map_XYZ = np.clip(prepared.to_scan(on_grid_SHW, at=at), 0, 1)
    if volume.missing_XYZ is not None:
        map_XYZ[volume.missing_XYZ] = 0
    model_voxel_mm3 = float(np.prod(prepared.grid.model_spacing_mm(volume.affine)))
    return map_XYZ, find_components(map_XYZ, volume, threshold=threshold, smallest_mm3=2 * model_voxel_mm3)


def _refuse_unfit(volume: Volume, warnings: Sequence[GateWarning]) -> None:
    if warnings:
        raise UnfitScanError(
            "the scan does not look like the training scans",
            where=volume.name,
            found="; ".join(warning.message for warning in warnings),
            remedy="check the scan, or detect without strict",
        )


def _code_nll(encoded: EncodedScan, prepared: Prepared, *, threshold: float) -> CodeNLL:
    """Lay the codes' NLL out as the scan is; the codes of a slice share its model grid evenly."""
    axis, grid = "XYZ".index(prepared.slice_axis), prepared.grid
    nats_XYZ = from_slices(encoded.nll_Shw.numpy(), prepared.slice_axis, prepared.slice_view)
    first, second = (
        (grid.offset[a] - grid.scale[a] / 2, grid.offset[a] + grid.scale[a] * (grid.shape_XYZ[a] - 0.5))
        for a in range(3)
        if a != axis
    )
    return CodeNLL(np.moveaxis(nats_XYZ, axis, 0), (first, second), threshold)

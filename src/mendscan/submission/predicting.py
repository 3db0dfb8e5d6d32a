"""Predict a folder of scans by the challenge's rules: what its container runs.

Every scan gets a prediction, whatever happens to it: a missing file counts as zeros, and one scan must not cost the
others.  A scan that cannot be read or worked on is predicted 0 everywhere, with a warning.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mendscan.detection.detector import Detector
from mendscan.errors import GeometryError, MendscanError, ScanError, SettingsError, WriteError
from mendscan.progress import Progress, Silent
from mendscan.submission.challenge import Mode, cases_in, prediction_name
from mendscan.submission.ranks import challenge_map, challenge_score
from mendscan.volumes.chunks import open_voxels
from mendscan.volumes.maps import write_map
from mendscan.volumes.reading import DEFAULT_MAX_BYTES, case_name, read_volume
from mendscan.volumes.volume import NativeGeometry, Volume, array_geometry
from mendscan.volumes.writing import make_folder, write_text

__all__ = ["Predicted", "predict_folder"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predicted:
    """How it went.

    Attributes:
        cases: Scans, each of which has a prediction.
        zeros: Names of those that were predicted 0 because they could not be worked on.
    """

    cases: int
    zeros: tuple[str, ...]


def predict_folder(
    model: Path | str,
    data: Path | str,
    predictions: Path | str,
    *,
    mode: Mode,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Predicted:
    """Write a prediction for every scan of a folder, one scan after the other.

    No process is started beside this one: slices are shared out to threads, so that nothing is asked of a container
    but processor and memory.

    Args:
        model: A model folder.
        data: Folder with ``NAME.nii.gz``; nothing is written there.
        predictions: Folder that gets the predictions; files of the same names are replaced.
        mode: ``sample``: one number per scan; ``pixel``: one map.
        seed: Seed of the restorations.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.  What fails on an accelerator is computed again on the CPU.
        workers: Threads; None = one per core.
        progress: Told of every scan.

    Raises:
        CohortError: If there is no scan.
        ModelError: If the model cannot be used.
        SettingsError: If the device is not there, or the two folders are one (E_OUTPUT_AMONG_INPUTS).
        WriteError: If a prediction cannot be written.
    """
    if Path(data).resolve() == Path(predictions).resolve():
        raise SettingsError(
            "the predictions would overwrite the scans, whose names they have",
            where=predictions,
            code="E_OUTPUT_AMONG_INPUTS",
            remedy="name another folder",
        )
    told, folder = progress or Silent(), make_folder(predictions)
    scans, zeros = cases_in(Path(data)), []
    predictor = _Predictor(Path(model), Detector.load(model, device=device, workers=workers), seed, workers)
    told.begin(f"predict {mode}", len(scans))
    for scan in scans:
        target = folder / prediction_name(scan, mode)
        try:
            predictor.write(scan, target, mode)
        except WriteError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one scan, the others are predicted
            _LOG.warning("%s: predicted as 0: %s", scan.name, _described(error))
            _LOG.debug("%s", scan.name, exc_info=error)
            _write_zeros(scan, target, mode)
            zeros.append(scan.name)
        told.advance()
    return Predicted(len(scans), tuple(zeros))


@dataclass
class _Predictor:
    model: Path
    detector: Detector
    seed: int
    workers: int | None

    @cached_property
    def on_cpu(self) -> Detector:
        return Detector.load(self.model, device="cpu", workers=self.workers)

    def write(self, scan: Path, target: Path, mode: Mode) -> None:
        volume = read_volume(scan)
        try:
            self._write(self.detector, volume, target, mode)
        except RuntimeError as error:  # such as an accelerator without enough memory
            if self.detector.networks.device.type == "cpu":
                raise
            _LOG.warning("%s: computed again on the CPU: %s", scan.name, _described(error))
            self._write(self.on_cpu, volume, target, mode)

    def _write(self, detector: Detector, volume: Volume, target: Path, mode: Mode) -> None:
        if mode == "pixel":
            write_map(target, challenge_map(detector.ranking_map(volume, seed=self.seed)), volume)
            return
        score = detector.detect(volume, maps=False, seed=self.seed).score
        write_text(target, f"{challenge_score(score, detector.calibration.healthy())!r}\n")


def _write_zeros(scan: Path, target: Path, mode: Mode) -> None:
    """Write 0 everywhere; where even the shape is unknown, a single voxel: of a wrong shape, which counts as zeros."""
    if mode == "sample":
        write_text(target, "0.0\n")
        return
    shape, native = (1, 1, 1), None
    with suppress(ScanError), open_voxels(scan, max_bytes=DEFAULT_MAX_BYTES) as stream:
        shape = stream.shape
        native = stream.native
    try:
        _write_zero_map(target, native or array_geometry(shape, np.eye(4), where=scan.name))
    except GeometryError:  # an affine that no header can hold; the challenge does not look at it
        _write_zero_map(target, array_geometry(shape, np.eye(4), where=scan.name))


def _write_zero_map(target: Path, native: NativeGeometry) -> None:
    zeros = np.zeros([native.shape[axis] for axis in _file_axes(native)], np.float32)
    write_map(target, zeros, Volume(zeros, native.affine, case_name(target), native))


def _file_axes(native: NativeGeometry) -> list[int]:
    """Return for each RAS+ axis the axis of the file."""
    return [int(axis) for axis in np.argsort([ras_axis for ras_axis, _ in native.orientation])]


def _described(error: Exception) -> str:
    found = error.problem if isinstance(error, MendscanError) else f"{type(error).__name__}: {error}"
    return " ".join(found.split())[:200]

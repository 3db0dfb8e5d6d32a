"""One case of a batch, in the process that does it: detect, put the files in place, vouch for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mendscan.detection.conformal import flagged
from mendscan.detection.detector import Detector
from mendscan.detection.run_facts import Options
from mendscan.errors import ModelError, WriteError
from mendscan.failures import told_apart
from mendscan.results import Detection
from mendscan.results.layout import RECORDS, files_of_case, remove
from mendscan.results.records import CaseRecord, read_record, scan_digest, unverified, write_record
from mendscan.volumes import dicom_sources
from mendscan.volumes.reading import ScanReader, comes_from_dicom
from mendscan.volumes.volume import Volume

__all__ = ["AfterSave", "Case", "CaseDone", "Task", "detect_case", "drop_detector", "load_detector", "take_detector"]

AfterSave = Callable[[Detection, Path], None]


@dataclass(frozen=True)
class Case:
    """A scan of the batch, the name of its results, and the same again if it is a pseudonym."""

    path: Path
    name: str
    pseudonym: str | None


@dataclass(frozen=True)
class Task:
    """What every scan of the batch is done with."""

    folder: Path
    options: Options
    reader: ScanReader
    request: str
    resume: bool
    after_save: AfterSave | None


@dataclass(frozen=True)
class CaseDone:
    """What came of a case.

    Attributes:
        record: What vouches for it.
        seconds: How long it took; None if it was kept from a stopped run.
        why_again: Why what was there could not be kept, in words; None if nothing was.
    """

    record: CaseRecord
    seconds: float | None = None
    why_again: str | None = None


_DETECTOR: list[Detector] = []
"""The detector of this process, loaded once."""


def load_detector(model: str, device: str, threads: int, model_hash: str) -> None:
    """Load the detector of this process.

    Raises:
        ModelError: If the model cannot be used, or is no longer the one that the batch began with.
    """
    detector = Detector.load(model, device=device, workers=threads)
    if detector.model_hash != model_hash:
        raise ModelError(
            "the model was replaced while the batch ran",
            where=model,
            found=detector.model_hash[:16],
            expected=model_hash[:16],
            remedy="detect again with the model that you want",
        )
    _DETECTOR[:] = [detector]


def take_detector(detector: Detector) -> None:
    """Use a detector that is there in this process."""
    _DETECTOR[:] = [detector]


def drop_detector() -> None:
    """Forget the detector of this process."""
    _DETECTOR.clear()


def detect_case(case: Case, task: Task) -> CaseDone:
    """Detect in a scan and put its files in place, unless they are there and their record verifies."""
    volume = task.reader(case.path, name=case.pseudonym)
    scan = scan_digest(volume, dicom_sources(case.path) if comes_from_dicom(case.path) else ())
    why_again = None
    if task.resume:
        record = read_record(task.folder, case.name)
        why_again = unverified(record, task.folder, request=task.request, scan=scan)
        if record is not None and why_again is None:
            return CaseDone(record)
        if record is None and not files_of_case(task.folder, case.name):
            why_again = None
    detection = _detect(volume, task.options)
    try:
        _replace_files(detection, task)
    except WriteError as error:
        raise told_apart(error) from error.__cause__
    known, rate = len(_DETECTOR[0].calibration.healthy_scores), task.options.false_positive_rate
    row = detection.score_row() | {"flagged": flagged(detection.p_value, known, false_positive_rate=rate)}
    findings = detection.finding_rows()
    record = write_record(task.folder, case.name, request=task.request, scan=scan, row=row, findings=findings)
    return CaseDone(record, detection.seconds, why_again)


def _detect(volume: Volume, options: Options) -> Detection:
    return _DETECTOR[0].detect(
        volume,
        restorations=options.restorations,
        seed=options.seed,
        maps=options.maps,
        schedule=options.schedule,
        precision=options.precision,
        false_positives_per_scan=options.false_positives_per_scan,
        scores=options.scores,
        strict=options.strict,
    )


def _replace_files(detection: Detection, task: Task) -> None:
    """Put the files of a case in place of those that an earlier run left, and remove what is left of these."""
    remove(task.folder / RECORDS / f"{detection.case}.json")
    # Every write makes a new file, so one that is still the same was not written now.
    before = {name: path.stat().st_ino for name, path in files_of_case(task.folder, detection.case).items()}
    detection.save(task.folder)
    if task.after_save is not None:
        task.after_save(detection, task.folder)
    for name, path in files_of_case(task.folder, detection.case).items():
        if before.get(name) == path.stat().st_ino:
            remove(path)

"""Results as DICOM: which scans of a batch have files to derive from, and the step that writes beside the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from mendscan.errors import SettingsError
from mendscan.models.folder import ModelFolder
from mendscan.results import Detection, locate_findings
from mendscan.volumes import dicom_sources
from mendscan.volumes.dicom_objects import MOST_SEGMENTS, Provenance
from mendscan.volumes.dicom_writing import DICOM, require_highdicom, write_dicom_results
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import case_name, comes_from_dicom

__all__ = ["DicomResults", "dicom_results", "label_findings"]

_CASES_NAMED = 5


@dataclass(frozen=True)
class DicomResults:
    """Writes each detection as DICOM whose scan came from DICOM files; called when it is saved.

    Attributes:
        scans: What each case that comes from DICOM files is read from, as `find_scans` lists it.
        without: Cases that come from others.
        model: SHA-256 of the model, in hex.
        seed: Seed of the restorations.
        patient: Whether the objects are filed under the patient.
    """

    scans: Mapping[str, Path]
    without: tuple[str, ...]
    model: str
    seed: int
    patient: bool

    def __call__(self, detection: Detection, folder: Path) -> None:
        """Write map and findings into the folder ``dicom`` of a results folder, if there are files to derive from."""
        if detection.map_XYZ is None or detection.case not in self.scans:
            return
        write_dicom_results(
            folder,
            volume=detection.volume,
            sources=dicom_sources(self.scans[detection.case]),
            map_XYZ=detection.map_XYZ,
            labels_XYZ=label_findings(detection),
            findings=detection.findings,
            provenance=Provenance(self.model, self.seed, detection.threshold),
            patient=self.patient,
        )

    @property
    def description(self) -> str:
        """What is written, in words that change when the files do."""
        return f"DICOM objects{' filed under the patient' if self.patient else ''}"

    def notes_before(self) -> list[str]:
        """Return what is to be said before anything is computed."""
        notes = []
        if self.patient:
            notes.append("--dicom-patient: name, id and birth date of the patients will be in the DICOM objects")
        if self.without:
            notes.append(f"no DICOM objects for scans that do not come from DICOM: {_named(self.without)}")
        return notes

    def notes_after(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what is to be said of the objects that were written, and of those that were not.

        Args:
            rows: Of ``scores.csv``.
        """
        counts = {str(row["case"]): row["findings"] for row in rows if row["status"] == "ok"}
        counts = {case: count for case, count in counts.items() if case in self.scans}
        empty = [case for case, count in counts.items() if count == 0]
        crowded = [case for case, count in counts.items() if count > MOST_SEGMENTS]
        notes = [f"DICOM objects of {len(counts)} scans in the folder {DICOM} of the results"]
        if empty:
            notes.append(f"no DICOM Segmentation where there is no finding: {_named(empty)}")
        if crowded:
            notes.append(f"the DICOM Segmentation has only the first {MOST_SEGMENTS} findings: {_named(crowded)}")
        return notes


def dicom_results(model: str | Path, scans: str | Path, *, seed: int, maps: bool, patient: bool) -> DicomResults:
    """Prepare to write results as DICOM, and refuse before anything is computed if that cannot be.

    Args:
        model: The model folder.
        scans: A scan, or a folder of scans.
        seed: Seed of the restorations.
        maps: Whether there will be maps.
        patient: Whether the objects are filed under the patient.

    Raises:
        SettingsError: If highdicom is not installed (E_EXTRA), no map is wanted, or no scan comes from DICOM files.
        CohortError: If there is no scan.
        ModelError: If the model cannot be used.
    """
    require_highdicom()
    if not maps:
        raise SettingsError(
            "there is nothing to write as DICOM without maps", where="--dicom-out", remedy="leave out --no-maps"
        )
    found = {case_name(path): path for path in find_scans(scans)}
    from_dicom = {case: path for case, path in found.items() if comes_from_dicom(path)}
    if not from_dicom:
        raise SettingsError(
            "no scan comes from DICOM files, so there is no study to write results into",
            where="--dicom-out",
            found=f"{len(found)} other scans",
            expected="at least one DICOM series",
            remedy="leave it out: maps are written as NIfTI in any case",
        )
    without = tuple(case for case in found if case not in from_dicom)
    return DicomResults(from_dicom, without, ModelFolder.open(Path(model)).model_hash, seed, patient)


def label_findings(detection: Detection) -> Integer[np.ndarray, "X Y Z"]:
    """Return the number of the finding that each voxel belongs to, 0 = none, on the scan's RAS+ grid.

    Args:
        detection: With a map; its findings are components of it, or some of them.

    Raises:
        ValueError: If there is no map, or a finding is not of it.
    """
    if detection.map_XYZ is None:
        raise ValueError("the detection has no map")
    labels_XYZ, places = locate_findings(
        detection.findings, detection.map_XYZ, detection.volume, threshold=detection.threshold
    )
    numbers = np.zeros(int(labels_XYZ.max()) + 1, np.int32)
    for number, place in enumerate(places, start=1):
        if place is None:
            raise ValueError(f"finding {number} is not of the map")
        numbers[place.component] = number
    return numbers[labels_XYZ]


def _named(cases: Sequence[str]) -> str:
    more = len(cases) - _CASES_NAMED
    return ", ".join(cases[:_CASES_NAMED]) + (f" and {more} more" if more > 0 else "")

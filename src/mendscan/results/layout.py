"""The results folder: the contract between computing and showing.  Reading it needs no torch.

===========================  ==============================================================================
file                         content
===========================  ==============================================================================
``scores.csv``               one row per scan, failed ones too: `SCORE_COLUMNS`
``findings.csv``             one row per connected component above the healthy threshold: `FINDING_COLUMNS`
``maps/CASE.nii.gz``         anomaly map, float32 in [0, 1], higher = more anomalous, in the scan's own geometry
``restored/CASE.nii.gz``     the healthy version of the scan, float32, own geometry and intensity scale
``scans/CASE.nii.gz``        the scan's voxels and geometry, nothing else of its header
``details/CASE.json``        score of every slice, NLL of every code, whole-scan statistics, warnings
``dicom/CASE-map.dcm``       on request: the map as a DICOM Parametric Map
``dicom/CASE-findings.dcm``  on request: the findings as a DICOM Segmentation
``figures/CASE.png``         scan, restoration and map on the worst slices
``records/CASE.json``        digests of scan, request and files, and the case's rows: what a resumed batch believes
``results.json``             model hash, settings, seed, versions, healthy scores and thresholds
``timing.csv``               seconds that each scan took in the last run: all that differs between two runs
``model-card.md``            the model's card
===========================  ==============================================================================
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mendscan.errors import ResultsError, WriteError
from mendscan.strict_json import read_json
from mendscan.volumes.dicom_writing import DICOM, FINDINGS_SUFFIX, MAP_SUFFIX
from mendscan.volumes.tables import read_csv, write_csv
from mendscan.volumes.writing import write_json

__all__ = [
    "DETAILS",
    "FIGURES",
    "FINDING_COLUMNS",
    "MAPS",
    "MODEL_CARD",
    "RECORDS",
    "RESTORED",
    "SCANS",
    "SCORE_COLUMNS",
    "SUBFOLDERS",
    "TIMING",
    "files_of_case",
    "forget_case",
    "read_run",
    "read_scores",
    "remove_temporary",
    "write_results",
]

SCORE_COLUMNS = (
    "case",
    "status",
    "score",
    "p_value",
    "flagged",
    "part",
    "local",
    "local_p_value",
    "acquisition",
    "acquisition_p_value",
    "strangest",
    "warnings",
    "paper_score",
    "max_slice",
    "max_slice_axis",
    "map_max",
    "findings",
    "code",
    "message",
)
FINDING_COLUMNS = (
    "case",
    "finding",
    "volume_mm3",
    "voxels",
    "peak",
    "mean",
    "expected_false_per_scan",
    "centre_x_mm",
    "centre_y_mm",
    "centre_z_mm",
    "centre_i",
    "centre_j",
    "centre_k",
)
SCANS = "scans"
MAPS = "maps"
RESTORED = "restored"
FIGURES = "figures"
DETAILS = "details"
RECORDS = "records"
RUN_FILE = "results.json"
MODEL_CARD = "model-card.md"
TIMING = "timing.csv"
_FILES_OF_A_CASE = (
    (SCANS, ".nii.gz"),
    (MAPS, ".nii.gz"),
    (RESTORED, ".nii.gz"),
    (FIGURES, ".png"),
    (DETAILS, ".json"),
    (DICOM, MAP_SUFFIX),
    (DICOM, FINDINGS_SUFFIX),
)
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""What `mendscan.volumes.writing` calls a file until it is complete."""
_NOT_THERE = (errno.ENOTDIR, errno.ENAMETOOLONG)
"""What the system says of files that cannot be there: where a scan has the longest of names, its results have none."""
SUBFOLDERS = tuple(sorted({name for name, _ in _FILES_OF_A_CASE} | {RECORDS}))
"""Folders that a run writes files to."""


def write_results(
    folder: Path,
    score_rows: Sequence[Mapping[str, Any]],
    finding_rows: Sequence[Mapping[str, Any]],
    run: dict[str, Any],
) -> None:
    """Write the tables and ``results.json``, rows sorted by case."""
    write_csv(folder / "scores.csv", sorted(score_rows, key=lambda row: str(row["case"])), SCORE_COLUMNS)
    ordered = sorted(finding_rows, key=lambda row: (row["case"], row["finding"]))
    write_csv(folder / "findings.csv", ordered, FINDING_COLUMNS)
    write_json(folder / RUN_FILE, run)


def files_of_case(folder: Path, case: str) -> dict[str, Path]:
    """Return the files that a results folder has of a case, by their path in it; without its record."""
    paths = {f"{name}/{case}{suffix}": folder / name / f"{case}{suffix}" for name, suffix in _FILES_OF_A_CASE}
    return {name: path for name, path in paths.items() if is_there(path)}


def forget_case(folder: Path, case: str) -> None:
    """Remove the files that an earlier run left of a case, its record first.

    Raises:
        WriteError: If one cannot be removed.
    """
    for path in (folder / RECORDS / f"{case}.json", *files_of_case(folder, case).values()):
        remove(path)


def remove_temporary(folder: Path) -> None:
    """Remove the unfinished files of a run that was killed; only for the run that holds the folder's lock."""
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        for path in place.glob(".*.tmp"):
            if _UNFINISHED.fullmatch(path.name):
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        WriteError: If it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return
        raise WriteError(
            "an old file cannot be removed", where=path, found=error.strerror, remedy="check whose folder it is"
        ) from error


def is_file_name(case: str) -> bool:
    """Return whether files can be called after a case, so that they lie in the folders of the results."""
    return case not in ("", "..") and Path(case).name == case


def is_there(path: Path) -> bool:
    """Return whether a file of results is there; not if it cannot be, for its name is too long."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise


def read_scores(folder: Path) -> dict[str, float]:
    """Return the score of every scan that did not fail.

    Raises:
        ResultsError: If there is no readable ``scores.csv``.
    """
    path = folder / "scores.csv"
    rows = read_csv(path, ("case", "status", "score"), key=("case",))
    try:
        return {row["case"]: float(row["score"]) for row in rows if row["status"] == "ok"}
    except ValueError as error:
        raise ResultsError(
            "the scores cannot be read", where=path, found=error, remedy="give a folder that mendscan detect wrote"
        ) from None


def read_run(folder: Path) -> dict[str, Any]:
    """Return ``results.json``.

    Raises:
        ResultsError: If it is missing or damaged.
    """
    path = folder / RUN_FILE
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise ResultsError(
            "not a results folder", where=path, found=error, remedy="give a folder that mendscan detect wrote"
        ) from None

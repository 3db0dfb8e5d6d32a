"""The record of a case: what vouches for its files, so that a stopped batch goes on without believing what it finds.

``records/CASE.json`` is written last, when all files of the case are in place.  It holds the SHA-256 of each of them,
of the scan they were made from and of the request they answer, the case's rows of the tables, and a digest of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mendscan.results.layout import FINDING_COLUMNS, RECORDS, SCORE_COLUMNS, files_of_case
from mendscan.strict_json import read_json
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import make_folder, write_json

__all__ = ["CaseRecord", "digest_of", "read_record", "scan_digest", "unverified", "write_record"]


@dataclass(frozen=True)
class CaseRecord:
    """What vouches for a case.

    Attributes:
        case: Its name.
        request: `digest_of` everything asked of the scan: model, options, versions.
        scan: `scan_digest` of the scan as it was read.
        files: SHA-256 of each file of the case, by its path in the results folder.
        row: The case's row of ``scores.csv``.
        findings: Its rows of ``findings.csv``.
    """

    case: str
    request: str
    scan: str
    files: Mapping[str, str]
    row: Mapping[str, Any]
    findings: Sequence[Mapping[str, Any]]


def digest_of(values: object) -> str:
    """Return the SHA-256, in hex, of JSON values."""
    text = json.dumps(values, sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def scan_digest(volume: Volume, sources: Sequence[Path] = ()) -> str:
    """Return the SHA-256, in hex, of all that results take from a scan: voxels, affine, and the file's own geometry.

    Args:
        volume: The scan as it was read.
        sources: Files of which results take over more, such as those of a DICOM series.
    """
    native = volume.native
    geometry = (
        native.shape, native.affine.tolist(), native.sform_code, native.qform_code, native.zooms, native.xyzt_units,
        native.orientation, native.qform_parameters, native.nifti_version,
    )  # fmt: skip
    return digest_of([volume.content_hash, repr(geometry), [_file_digest(path) for path in sources]])


def write_record(
    folder: Path,
    case: str,
    *,
    request: str,
    scan: str,
    row: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]],
) -> CaseRecord:
    """Write the record of a case whose files are all in place, and return it as it will be read.

    Raises:
        WriteError: If it cannot be written.
    """
    files = {name: _file_digest(path) for name, path in files_of_case(folder, case).items()}
    values = {
        "format": 1,
        "case": case,
        "request": request,
        "scan": scan,
        "files": files,
        "row": dict(row),
        "findings": [dict(finding) for finding in findings],
    }
    write_json(make_folder(folder / RECORDS) / f"{case}.json", values | {"digest": digest_of(values)})
    return CaseRecord(case, request, scan, files, values["row"], values["findings"])  # type: ignore[arg-type]


def read_record(folder: Path, case: str) -> CaseRecord | None:
    """Return the record of a case; None if there is none that is whole."""
    try:
        values = read_json(folder / RECORDS / f"{case}.json")
        if values.pop("digest") != digest_of(values) or (values["format"], values["case"]) != (1, case):
            return None
        if set(values["row"]) - set(SCORE_COLUMNS) or any(
            set(row) - set(FINDING_COLUMNS) for row in values["findings"]
        ):
            return None
        return CaseRecord(case, *(values[name] for name in ("request", "scan", "files", "row", "findings")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def unverified(record: CaseRecord | None, folder: Path, *, request: str, scan: str) -> str | None:
    """Return why a case must be done again, in words; None if its record vouches for everything that is there."""
    if record is None:
        return "it has no whole record"
    if record.request != request:
        return "model, options or versions are others"
    if record.scan != scan:
        return "the scan has changed"
    found = files_of_case(folder, record.case)
    missing = sorted(set(record.files) - set(found))
    if missing:
        return f"{missing[0]} is missing"
    for name, path in found.items():
        if _file_digest(path) != record.files.get(name):
            return f"{name} is not what was written"
    return None


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""

"""Reading a results folder back, for reports, viewers and programs of your own; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mendscan.errors import ResultsError
from mendscan.results.components import Finding
from mendscan.results.detection import CodeNLL, GateWarning
from mendscan.results.layout import (
    DETAILS,
    FINDING_COLUMNS,
    MAPS,
    MODEL_CARD,
    RESTORED,
    SCANS,
    SCORE_COLUMNS,
    is_file_name,
    is_there,
    read_run,
)
from mendscan.shapes import VoxelsXYZ
from mendscan.strict_json import read_json
from mendscan.volumes.reading import read_values, read_volume
from mendscan.volumes.remarks import Remark
from mendscan.volumes.tables import read_csv
from mendscan.volumes.volume import Volume

__all__ = ["Details", "ResultCase", "Results", "read_results"]

_REMEDY = "run mendscan detect again"


@dataclass(frozen=True, eq=False)
class Details:
    """What ``details/CASE.json`` holds.

    Attributes:
        slice_axis: The axis of RAS+ that slices cut: ``X``, ``Y`` or ``Z``.
        positions: Of every scored slice along it, in the scan's RAS+ voxels.
        slice_scores: The paper's score of each, in nats.
        code_nll: NLL of their codes; None if it was not kept.
        statistics: Each whole-scan statistic in healthy standard deviations, by its name.
        warnings: Why the scan does not look like the training scans.
        remarks: What was odd about its file, although it could be read.
    """

    slice_axis: str
    positions: Float[np.ndarray, " n"]
    slice_scores: Float[np.ndarray, " n"]
    code_nll: CodeNLL | None
    statistics: Mapping[str, float]
    warnings: tuple[GateWarning, ...]
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class ResultCase:
    """One scan of a results folder.

    Attributes:
        name: The case.
        row: Its row of ``scores.csv``, column to text; empty text where there is no value.
        findings: Its findings, most anomalous first: number 1 is the first.
        folder: The results folder.
    """

    name: str
    row: Mapping[str, str]
    findings: tuple[Finding, ...]
    folder: Path

    @property
    def failed(self) -> bool:
        """Whether the scan could not be scored; `row` has ``code`` and ``message``."""
        return self.row["status"] != "ok"

    @property
    def score(self) -> float | None:
        """The scan's score; None if it failed."""
        return self.number("score")

    @property
    def p_value(self) -> float | None:
        """Its conformal p-value; None if it failed."""
        return self.number("p_value")

    @property
    def flagged(self) -> bool | None:
        """Whether the scan is flagged; None if it failed or no p-value could be small enough."""
        return {"1": True, "0": False}.get(self.row["flagged"])

    @property
    def has_map(self) -> bool:
        """Whether scan, map and restoration are there to be looked at."""
        return all(is_there(path) for path in (self.scan_path, self.map_path, self.restored_path))

    @property
    def scan_path(self) -> Path:
        """The scan's voxels, in its own geometry."""
        return self.folder / SCANS / f"{self.name}.nii.gz"

    @property
    def map_path(self) -> Path:
        """The anomaly map."""
        return self.folder / MAPS / f"{self.name}.nii.gz"

    @property
    def restored_path(self) -> Path:
        """The healthy version of the scan."""
        return self.folder / RESTORED / f"{self.name}.nii.gz"

    def number(self, column: str) -> float | None:
        """Return a number of the row; None if there is none.

        Raises:
            ResultsError: If the cell holds something else.
        """
        try:
            return float(self.row[column]) if self.row[column] else None
        except ValueError:
            where = self.folder / "scores.csv"
            raise ResultsError(
                f"{column} of {self.name} is not a number", where=where, found=self.row[column], remedy=_REMEDY
            ) from None

    def scan(self) -> Volume:
        """Read the scan.

        Raises:
            ResultsError: If it is a link that leads out of the folder, as of the map and the rest.
            ScanError: If it cannot be read.
        """
        return read_volume(_confined(self.scan_path, self.folder))

    def map_of(self, scan: Volume) -> VoxelsXYZ:
        """Read the anomaly map, on the scan's RAS+ grid, in [0, 1].

        Raises:
            ScanError: If it cannot be read or does not overlay the scan.
        """
        return read_values(_confined(self.map_path, self.folder), scan)

    def restored_of(self, scan: Volume) -> VoxelsXYZ:
        """Read the healthy version, on the scan's RAS+ grid, in the scan's intensity scale.

        Raises:
            ScanError: If it cannot be read or does not overlay the scan.
        """
        return read_values(_confined(self.restored_path, self.folder), scan)

    def details(self) -> Details | None:
        """Read slice scores, code NLL, whole-scan statistics and warnings; None if the folder has none of them.

        Raises:
            ResultsError: If the file is damaged.
        """
        path = self.folder / DETAILS / f"{self.name}.json"
        if not is_there(path):
            return None
        try:
            return _details(read_json(_confined(path, self.folder)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError("the details cannot be read", where=path, found=error, remedy=_REMEDY) from None


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        folder: Where it is.
        run: ``results.json``.
        cases: Scans that were scored, least likely first (p-value, then score), then those that failed, by name.
        model_card: The model's card, in Markdown; empty if the folder has none.
    """

    folder: Path
    run: Mapping[str, Any]
    cases: tuple[ResultCase, ...]
    model_card: str

    @property
    def map_threshold(self) -> float:
        """The healthy threshold of the maps."""
        return float(self.run["map_threshold"])

    def case(self, name: str) -> ResultCase:
        """Return one scan.

        Raises:
            ResultsError: If there is none of this name.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise ResultsError("no such scan", where=self.folder, found=name, remedy="see scores.csv for the names")


def read_results(folder: str | Path) -> Results:
    """Read a results folder that ``mendscan detect`` wrote; scans and maps are read only when asked for.

    Raises:
        ResultsError: If it is none, or a table is damaged.
    """
    folder = Path(folder)
    run = read_run(folder)
    findings: dict[str, list[Finding]] = {}
    for row in read_csv(folder / "findings.csv", FINDING_COLUMNS, key=("case", "finding")):
        findings.setdefault(row["case"], []).append(_finding(row, folder / "findings.csv"))
    needed = [column for column in SCORE_COLUMNS if column != "warnings"]
    rows = read_csv(folder / "scores.csv", needed, key=("case",))
    for row in rows:
        if not is_file_name(row["case"]):
            table, name = folder / "scores.csv", repr(row["case"])
            raise ResultsError("the name of a scan is no file name", where=table, found=name, remedy=_REMEDY)
    cases = [
        ResultCase(row["case"], {"warnings": ""} | row, tuple(findings.get(row["case"], ())), folder) for row in rows
    ]
    card = folder / MODEL_CARD
    text = _confined(card, folder).read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return Results(folder, run, tuple(sorted(cases, key=_rank)), text)


def _rank(case: ResultCase) -> tuple[bool, float, float, str]:
    p_value, score = case.p_value, case.score
    return case.failed, 2.0 if p_value is None else p_value, 0.0 if score is None else -score, case.name


def _finding(row: Mapping[str, str], where: Path) -> Finding:
    try:
        x_mm, y_mm, z_mm = (float(row[f"centre_{axis}_mm"]) for axis in "xyz")
        i, j, k = (float(row[f"centre_{axis}"]) for axis in "ijk")
        expected_false = row["expected_false_per_scan"]
        return Finding(
            volume_mm3=float(row["volume_mm3"]),
            voxels=int(row["voxels"]),
            peak=float(row["peak"]),
            mean=float(row["mean"]),
            centre_mm=(x_mm, y_mm, z_mm),
            centre_voxel=(i, j, k),
            expected_false=float(expected_false) if expected_false else None,
        )
    except ValueError as error:
        raise ResultsError("a finding cannot be read", where=where, found=error, remedy=_REMEDY) from None


def _details(values: Mapping[str, Any]) -> Details:
    nll, axis = values["code_nll"], values["slice_axis"]
    if axis not in tuple("XYZ"):
        raise ValueError(f"slice axis {axis!r}")
    return Details(
        slice_axis=axis,
        positions=np.array([each["position"] for each in values["slices"]], dtype=np.float64),
        slice_scores=np.array([each["score"] for each in values["slices"]], dtype=np.float64),
        code_nll=None if nll is None else CodeNLL.from_json(nll),
        statistics={str(name): float(value) for name, value in values["statistics"].items()},
        warnings=tuple(GateWarning(str(each["code"]), str(each["message"])) for each in values["warnings"]),
        remarks=tuple(Remark(str(each["code"]), str(each["message"])) for each in values.get("remarks", ())),
    )


def _confined(path: Path, folder: Path) -> Path:
    """Return a path that leads to no file outside the folder: a report would carry it to others."""
    if path.resolve().is_relative_to(folder.resolve()):
        return path
    raise ResultsError("a link leads out of the results", where=path, remedy="put the file itself there")

"""Reading back what `labelled_cohort` and `suite` wrote; for evaluation only."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import cast, get_args

from mendscan.cohort.anomalies import Anomaly
from mendscan.cohort.anomaly_strata import Contrast, Size
from mendscan.cohort.labelled_case import Case, Scope
from mendscan.cohort.labelled_cohort import ANOMALY_COLUMNS, CASE_COLUMNS, LabelledCohort
from mendscan.errors import ResultsError
from mendscan.volumes.tables import read_csv

__all__ = ["read_labelled_cohort"]


def read_labelled_cohort(folder: Path | str) -> LabelledCohort:
    """Return the labelled cohort of a folder, with the figures of its anomalies as they were rounded in its tables.

    Raises:
        ResultsError: If its tables are missing or damaged, or a scan is missing.
    """
    folder = Path(folder)
    cases = tuple(_case(row, folder) for row in read_csv(folder / "cases.csv", CASE_COLUMNS, key=("case",)))
    anomalies: dict[str, tuple[Anomaly, ...]] = {case.name: () for case in cases}
    for row in read_csv(folder / "anomalies.csv", ANOMALY_COLUMNS):
        if row["case"] not in anomalies:
            raise ResultsError("an anomaly of no case", where=folder / "anomalies.csv", found=row["case"])
        anomalies[row["case"]] += (_anomaly(row, folder),)
    scans = tuple(folder / "scans" / f"{case.name}.nii.gz" for case in cases)
    for scan in scans:
        if not scan.is_file():
            raise ResultsError("a scan is missing", where=scan, remedy="simulate the cohort again")
    return LabelledCohort(folder, cases, scans, MappingProxyType(anomalies))


def _case(row: dict[str, str], folder: Path) -> Case:
    if row["scope"] not in get_args(Scope):
        expected = ", ".join(get_args(Scope))
        raise ResultsError("no such scope", where=folder / "cases.csv", found=row["scope"], expected=expected)
    return Case(row["case"], row["subject"], cast("Scope", row["scope"]))


def _anomaly(row: dict[str, str], folder: Path) -> Anomaly:
    try:
        strength, contrast = float(row["strength"]), cast("Contrast", row["contrast"])
        if row["scope"] == "scan":
            return Anomaly(row["kind"], strength, contrast)
        x_mm, y_mm, z_mm = (float(row[f"{axis}_mm"]) for axis in "xyz")
        x, y, z = (int(row[f"{axis}_index"]) for axis in "xyz")
        return Anomaly(
            row["kind"], strength, contrast, (x, y, z), (x_mm, y_mm, z_mm),
            float(row["radius_mm"]), int(row["voxels"]), cast("Size", row["size"]),
        )  # fmt: skip
    except ValueError as error:
        raise ResultsError("an anomaly cannot be read", where=folder / "anomalies.csv", found=error) from None

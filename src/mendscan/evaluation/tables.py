"""An evaluation as files: JSON for programs, CSV for spreadsheets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mendscan.cohort.held_folder import held_folder
from mendscan.errors import WriteError
from mendscan.evaluation.bootstrap import Difference, Interval
from mendscan.evaluation.measures import FIGURES
from mendscan.evaluation.metrics import (
    CASE_COLUMNS,
    LESION_COLUMNS,
    Evaluation,
    case_rows,
    differences_as_dict,
    lesion_rows,
)
from mendscan.volumes.tables import write_csv
from mendscan.volumes.writing import make_folder, write_json

__all__ = ["evaluation_folder", "figure_rows", "stratum_rows", "write_evaluation"]

FIGURE_COLUMNS = ("figure", "value", "low", "high", "interval", "undefined_share", "meaning")
STRATUM_COLUMNS = ("family", "name", "anomalies", "scans", "voxels", "figure", "value", "low", "high", "interval")


_TABLES = ("figures.csv", "strata.csv", "cases.csv", "lesions.csv")


@contextmanager
def evaluation_folder(folder: Path, labels: Path) -> Iterator[None]:
    """Hold the folder of an evaluation, made if need be, for as long as the block lasts: the whole work.

    Raises:
        WriteError: If it holds the labels or tables that no evaluation wrote, another run is at work in it (E_LOCKED),
            or it cannot be made.
    """
    if folder.resolve() in (labels.resolve(), (labels / "labels").resolve()):
        raise WriteError("the folder of the labels", where=folder, remedy="name another folder for the evaluation")
    with held_folder(folder, "evaluation"):
        foreign = [name for name in _TABLES if (folder / name).exists()]
        if foreign and not (folder / "evaluation.json").exists():
            raise WriteError(
                "the folder holds tables that no evaluation wrote", where=folder, code="E_NOT_EMPTY",
                found=", ".join(foreign), remedy="name another folder",
            )  # fmt: skip
        yield


def write_evaluation(
    evaluation: Evaluation, folder: Path, *, differences: Mapping[str, Difference] | None = None
) -> None:
    """Write ``evaluation.json``, ``histogram.npz``, ``figures.csv``, ``strata.csv``, ``cases.csv``, ``lesions.csv``.

    Args:
        evaluation: What to write.
        folder: Where; it is made if it is not there.
        differences: A paired comparison with another method, for ``differences.json``.

    Raises:
        WriteError: If something cannot be written.
    """
    make_folder(folder)
    write_json(folder / "evaluation.json", evaluation.as_dict())
    evaluation.histogram.save(folder / "histogram.npz")
    write_csv(folder / "figures.csv", figure_rows(evaluation), FIGURE_COLUMNS)
    write_csv(folder / "strata.csv", stratum_rows(evaluation), STRATUM_COLUMNS)
    write_csv(folder / "cases.csv", case_rows(evaluation), CASE_COLUMNS)
    write_csv(folder / "lesions.csv", lesion_rows(evaluation), LESION_COLUMNS)
    if differences is None:
        (folder / "differences.json").unlink(missing_ok=True)  # of an evaluation before this one
    else:
        write_json(folder / "differences.json", differences_as_dict(differences))


def figure_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row per figure, in the order of `FIGURES`."""
    return [
        {"figure": name, **_cells(evaluation.figures[name]), "undefined_share": one.undefined_share, "meaning": meaning}
        for name, meaning in FIGURES.items()
        if (one := evaluation.figures.get(name)) is not None
    ]


def stratum_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row per stratum and figure."""
    return [
        {
            "family": stratum.family,
            "name": stratum.name,
            "anomalies": stratum.anomalies,
            "scans": stratum.scans,
            "voxels": stratum.voxels,
            "figure": name,
            **_cells(figure),
        }
        for stratum in evaluation.strata
        for name, figure in stratum.figures.items()
    ]


def _cells(figure: Interval) -> Mapping[str, Any]:
    values = {"value": figure.estimate, "low": figure.low, "high": figure.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()} | {
        "interval": figure.method
    }

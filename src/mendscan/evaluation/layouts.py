"""Which files belong together?  Folders of maps and folders of labels, as different tools lay them out.

Predictions::

    ours           maps/NAME.nii.gz   scores.csv   results.json
    the challenge  pixel/NAME.nii.gz   sample/NAME.nii.gz.txt     (MOOD, Zimmerer et al. 2022)
    anything else  NAME.nii.gz and, if there are scan scores, NAME.nii.gz.txt or scores.csv (columns case, score)

Labels::

    the challenge and ours   pixel/NAME.nii.gz   sample/NAME.nii.gz.txt, here or in labels/
    anything else            NAME.nii.gz, such as nnU-Net's labelsTs; a scan is anomalous if any voxel is above 0

Beside labels may lie what `mendscan simulate` writes: ``lesions/NAME.nii.gz``, ``anomalies.csv``, ``cases.csv``.
nnU-Net's channel suffix ``_0000`` of a map's name is ignored where the label has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from mendscan.errors import ResultsError
from mendscan.strict_json import read_json
from mendscan.volumes.tables import read_csv

__all__ = ["AnomalyFacts", "Labels", "Predictions", "find_labels", "find_predictions"]

_NIFTI = (".nii", ".nii.gz")
_CHANNEL_SUFFIX = "_0000"
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class AnomalyFacts:
    """What is known of one anomaly beyond its voxels: its row of ``anomalies.csv``.

    Attributes:
        case: The scan.
        lesion: Its number in ``lesions/NAME.nii.gz``; None if that is unknown.
        whole: Whether it changes the scan as a whole.
        kind: Such as ``bright`` or ``ghosting``.
        size: ``small``, ``medium``, ``large``; empty if it is not in one place.
        contrast: ``faint``, ``medium``, ``plain``.
    """

    case: str
    lesion: int | None
    whole: bool
    kind: str
    size: str
    contrast: str


@dataclass(frozen=True)
class Labels:
    """The truth, by case name.

    Attributes:
        pixel: Voxel labels, above 0 = anomalous.
        lesions: Lesion number of each voxel.
        sample: Whether the scan is anomalous, where a file says so.
        anomalies: What is known of the anomalies.
        subjects: Which scans are of one subject; a scan that is not listed is a subject of its own.
    """

    pixel: Mapping[str, Path]
    lesions: Mapping[str, Path]
    sample: Mapping[str, bool]
    anomalies: tuple[AnomalyFacts, ...]
    subjects: Mapping[str, str]

    @property
    def cases(self) -> tuple[str, ...]:
        """Every case that has a label, by name."""
        return tuple(sorted(self.pixel.keys() | self.sample.keys()))


@dataclass(frozen=True)
class Predictions:
    """What a method says, by case name.

    Attributes:
        maps: Anomaly maps, higher = more anomalous.
        scores: Scan scores, higher = more anomalous; None if the folder has none at all.
        p_values: p-values of the scan scores, where given.
        map_threshold: The voxel threshold learnt from healthy scans; None if the folder names none.
    """

    maps: Mapping[str, Path]
    scores: Mapping[str, float] | None
    p_values: Mapping[str, float]
    map_threshold: float | None

    @property
    def names(self) -> set[str]:
        """Every case that has a prediction."""
        return self.maps.keys() | (self.scores or {}).keys()

    def of(self, labels: Labels) -> Predictions:
        """Return the same without the maps if none has a voxel label, and without the scores if no case has one."""
        known = set(labels.cases)
        return replace(
            self,
            maps=self.maps if self.maps.keys() & labels.pixel.keys() else {},
            scores=self.scores if self.scores is not None and self.scores.keys() & known else None,
        )

    def named_as(self, labels: Labels) -> Predictions:
        """Return the same with nnU-Net's channel suffix dropped where only then a label has the name."""
        known = set(labels.cases)
        return replace(
            self,
            maps=_renamed(self.maps, known),
            scores=None if self.scores is None else _renamed(self.scores, known),
            p_values=_renamed(self.p_values, known),
        )


def find_labels(folder: Path) -> Labels:
    """Find the labels of a folder.

    Raises:
        ResultsError: If there are none, a file cannot be read, or two files are of the same case.
    """
    root = folder / "labels" if (folder / "labels").is_dir() else folder
    structured = (root / "pixel").is_dir() or (root / "sample").is_dir()
    pixel = _cases_in(root / "pixel" if structured else root, _NIFTI)
    sample = {name: _read_sample_label(path) for name, path in _cases_in(root / "sample", (".txt",)).items()}
    if not pixel and not sample:
        raise ResultsError(
            "no labels",
            where=folder,
            found=_entries(folder),
            expected="pixel/NAME.nii.gz, sample/NAME.nii.gz.txt or NAME.nii.gz",
            remedy="point to the folder that holds the labels",
        )
    return Labels(
        pixel, _cases_in(root / "lesions", _NIFTI), sample, _read_anomalies(_beside(root, "anomalies.csv")),
        _read_subjects(_beside(root, "cases.csv")),
    )  # fmt: skip


def find_predictions(folder: Path) -> Predictions:
    """Find the maps and scores of a folder.

    Raises:
        ResultsError: If there are neither, a table cannot be read, or two files are of the same case.
    """
    inside = next((folder / name for name in ("maps", "pixel") if (folder / name).is_dir()), folder)
    maps = _cases_in(inside, _NIFTI)
    texts = _cases_in(folder / "sample" if (folder / "sample").is_dir() else folder, (".nii.txt", ".nii.gz.txt"))
    scores: dict[str, float] = {name: _number(path) for name, path in texts.items()}
    p_values: dict[str, float] = {}
    table = folder / "scores.csv"
    if table.is_file():
        rows = read_csv(table, ("case", "score"), key=("case",))
        scores |= {row["case"]: _as_number(row["score"]) for row in rows if row.get("status", "ok") != "failed"}
        told = {row["case"]: _as_number(row["p_value"]) for row in rows if row.get("p_value")}
        p_values = {case: value for case, value in told.items() if 0 <= value <= 1}  # such as NA where there is none
    if not maps and not scores:
        raise ResultsError(
            "no maps and no scores",
            where=folder,
            found=_entries(folder),
            expected="maps/NAME.nii.gz, pixel/NAME.nii.gz, NAME.nii.gz or scores.csv",
            remedy="point to the folder that a detection wrote",
        )
    has_scores = bool(scores) or table.is_file()
    return Predictions(maps, scores if has_scores else None, p_values, _map_threshold(folder / "results.json"))


def _renamed(values: Mapping[str, _Value], known: set[str]) -> dict[str, _Value]:
    """Drop the channel suffix where only then a label has the name; an exact name goes first."""
    shorter = {name: name.removesuffix(_CHANNEL_SUFFIX) for name in values if name not in known}
    return {
        shorter[name] if shorter.get(name) in known - values.keys() else name: value for name, value in values.items()
    }


def _cases_in(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files by case name; none if there is no such folder."""
    cases: dict[str, Path] = {}
    for path in _visible_files(folder, suffixes):
        name = path.name.removesuffix(".txt").removesuffix(".gz").removesuffix(".nii")
        if name in cases:
            raise ResultsError(
                "two files of the same case",
                where=folder,
                found=f"{cases[name].name} and {path.name}",
                expected="one file per case",
                remedy="remove one of them",
            )
        cases[name] = path
    return cases


def _visible_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith(".") and path.name.endswith(suffixes):
                yield path


def _entries(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "an empty folder"


def _beside(root: Path, name: str) -> Path:
    return root / name if (root / name).is_file() else root.parent / name


def _read_sample_label(path: Path) -> bool:
    value = _number(path)
    if not math.isfinite(value):
        raise ResultsError(
            "a scan label cannot be read", where=path, expected="one number, above 0 = anomalous", remedy="correct it"
        )
    return value > 0


def _number(path: Path) -> float:
    """The number in a file; NaN if there is none."""
    try:
        return _as_number(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return math.nan


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_anomalies(path: Path) -> tuple[AnomalyFacts, ...]:
    if not path.is_file():
        return ()
    rows = read_csv(path, ("case", "kind"))
    facts = tuple(
        AnomalyFacts(
            row["case"],
            _lesion_number(row.get("lesion", ""), path),
            row.get("scope") == "scan",
            row["kind"],
            row.get("size", ""),
            row.get("contrast", ""),
        )
        for row in rows
    )
    numbered = Counter((fact.case, fact.lesion) for fact in facts if fact.lesion is not None)
    twice = [f"{case} {lesion}" for (case, lesion), count in numbered.items() if count > 1]
    if twice:
        raise ResultsError(
            "two rows of the same lesion", where=path, found=twice[0], expected="one row each", remedy="remove one"
        )
    return facts


def _lesion_number(text: str, path: Path) -> int | None:
    """A whole number, also as a table of floats has it (``1.0``); None if the cell is empty."""
    if not text.strip():
        return None
    number = _as_number(text)
    if not (number >= 1 and number.is_integer()):
        raise ResultsError(
            "not the number of a lesion", where=path, found=text, expected="1, 2, … or nothing", remedy="correct it"
        )
    return int(number)


def _read_subjects(path: Path) -> dict[str, str]:
    """Case to subject, where one is named."""
    if not path.is_file():
        return {}
    rows = read_csv(path, ("case", "subject"), key=("case",))
    return {row["case"]: row["subject"] for row in rows if row["subject"].strip()}


def _map_threshold(path: Path) -> float | None:
    try:
        found = read_json(path).get("map_threshold")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise ResultsError("not the facts of a detection", where=path, found=error, remedy="detect again") from None
    if found is None:
        return None
    if isinstance(found, bool | str | list | dict) or not 0 <= found <= 1:
        raise ResultsError(
            "map_threshold is no threshold", where=path, found=found, expected="0 to 1", remedy="detect again"
        )
    return float(found)

"""The figures of the Medical Out-of-Distribution challenge, by the rules of its own script.

Cases are the files of the label folder.  A prediction has the same file name; one that is missing, cannot be read or
has another shape counts as zeros, as does a scan score that is no number.  Where a label cannot be read the script goes
on without the case; so do we, and say so.  Voxel labels are rounded to whole numbers and clipped to 0 or 1, predictions
are read as float16 and clipped to [0, 1].  Where voxels lie in space is not looked at.  All voxels of all cases are
pooled into one average precision, and so are all scans.  Unlike the script, checksums and lengths of files are looked
at: a damaged one, which the script may read without notice, counts as one that cannot be read.

Facts from the challenge's published evaluation (Zimmerer et al., "MOOD 2020", IEEE TMI 2022, and its repository); the
figure comes from exact counts, in a few megabytes.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt16

from mendscan.errors import MendscanError, ResultsError
from mendscan.evaluation.ranking import Ranking
from mendscan.evaluation.sparse import N_VALUES
from mendscan.progress import Progress, Silent
from mendscan.volumes.chunks import open_voxels

__all__ = ["CaseProblem", "OfficialFigure", "official_figure", "official_figures"]

Mode = Literal["pixel", "sample"]
Totals = Int64[np.ndarray, "2 values"]
"""Healthy and anomalous items per score value."""

_LOG = logging.getLogger(__name__)
_CHUNK_VOXELS = 1 << 18
_WITHOUT_SIGN = np.uint16(0x7FFF)  # -0.0 is 0.0
_UNREADABLE = (MendscanError, OSError, EOFError, ValueError, OverflowError, zlib.error)


@dataclass(frozen=True)
class CaseProblem:
    """A case that did not count as it was meant to.

    Attributes:
        case: Its file name in the label folder.
        problem: What was wrong, and what it counts as.
    """

    case: str
    problem: str


@dataclass(frozen=True)
class OfficialFigure:
    """The challenge's figure of one task.

    Attributes:
        value: Average precision; 0 without anything anomalous, as scikit-learn has it.
        cases: How many cases it rests on.
        problems: What counted as zeros or was left out.
        n_items: Voxels or scans.
        n_anomalous: How many of them are anomalous.
    """

    value: float
    cases: int
    problems: tuple[CaseProblem, ...]
    n_items: int
    n_anomalous: int


def official_figures(
    submission: Path | str, labels: Path | str, *, progress: Progress | None = None
) -> dict[Mode, OfficialFigure]:
    """Return the figures of a submission for every task that has labels.

    A task for which the submission has not a single prediction is left out, with a warning.

    Args:
        submission: Folder with ``pixel/`` (or ``maps/``, as `mendscan detect` has it) and ``sample/``, or with
            ``NAME.nii.gz`` and ``NAME.nii.gz.txt`` themselves.
        labels: Folder with ``pixel/``, ``sample/`` or both, here or in ``labels/``.
        progress: Told of every case.

    Raises:
        ResultsError: As `official_figure`, or if there are no labels or no label has a prediction.
    """
    folder = Path(submission)
    truth = Path(labels) / "labels" if (Path(labels) / "labels").is_dir() else Path(labels)
    modes: tuple[Mode, ...] = ("pixel", "sample")
    labelled: list[Mode] = [mode for mode in modes if (truth / mode).is_dir()]
    if not labelled:
        raise ResultsError(
            "no labels", where=labels, expected="pixel/ or sample/", remedy="give the challenge's labels"
        )
    given = {mode: _folder_of(folder, mode) for mode in labelled}
    answered = [mode for mode, inside in given.items() if _any_in_common(inside, truth / mode)]
    if not answered:
        raise ResultsError(
            "no label has a prediction of its name",
            where=submission,
            expected="pixel/NAME.nii.gz or sample/NAME.nii.gz.txt",
            remedy="name predictions as labels are named",
        )
    for mode in labelled:
        if mode not in answered:
            _LOG.warning("%s: no prediction for the %s task, which is left out", submission, mode)
    return {mode: official_figure(given[mode], truth / mode, mode=mode, progress=progress) for mode in answered}


def _folder_of(submission: Path, mode: Mode) -> Path:
    names = ("pixel", "maps") if mode == "pixel" else ("sample",)
    return next((submission / name for name in names if (submission / name).is_dir()), submission)


def _any_in_common(predictions: Path, labels: Path) -> bool:
    return any((predictions / path.name).is_file() for path in labels.iterdir())


def official_figure(
    predictions: Path | str, labels: Path | str, *, mode: Mode, progress: Progress | None = None
) -> OfficialFigure:
    """Return the challenge's average precision of a folder of predictions.

    Args:
        predictions: Folder of predictions, named as the labels are.
        labels: Folder of labels.
        mode: ``pixel`` for maps, ``sample`` for scan scores.
        progress: Told of every case.

    Raises:
        ResultsError: If a folder is missing, no label can be read, or a prediction is NaN: the script then fails.
    """
    told, folder, truth = progress or Silent(), Path(predictions), Path(labels)
    for path in (folder, truth):
        if not path.is_dir():
            raise ResultsError("no such folder", where=path, remedy="check the path")
    names = sorted(path.name for path in truth.iterdir())
    told.begin(f"official {mode}", len(names))
    count = _count_voxels if mode == "pixel" else _count_scan
    totals, problems, cases = np.zeros((2, N_VALUES), np.int64), list[CaseProblem](), 0
    exact: list[tuple[float, bool]] = []
    for name in names:
        try:
            found, scans, problem = count(folder / name, truth / name)
        except _BadLabelError as error:
            problems.append(CaseProblem(name, f"{error}: the case is left out"))
            _LOG.warning("%s: %s", name, problems[-1].problem)
        else:
            totals, cases = totals + found, cases + 1
            exact += scans
            problems += [CaseProblem(name, f"{problem}: counted as zeros")] if problem else []
        told.advance()
    if not cases:
        raise ResultsError("no label can be read", where=labels, found=f"{len(names)} files")
    return _figure(totals, exact, cases, tuple(problems), mode)


class _BadLabelError(Exception):
    """A label that cannot be read."""


def _figure(
    totals: Totals,
    exact: list[tuple[float, bool]],
    cases: int,
    problems: tuple[CaseProblem, ...],
    mode: Mode,
) -> OfficialFigure:
    if mode == "sample":  # scan scores are not rounded to float16
        values, columns = np.unique([score for score, _ in exact], return_inverse=True)
        totals = np.zeros((2, len(values)), np.int64)
        np.add.at(totals, (np.array([int(label) for _, label in exact]), columns), 1)
    occurring = totals.sum(axis=0) > 0
    healthy, anomalous = (row[occurring][None].astype(np.float64) for row in totals)
    n_anomalous, n_items = int(totals[1].sum()), int(totals.sum())
    if n_anomalous == 0:
        value = 0.0
    elif n_anomalous == n_items:
        value = 1.0
    else:
        value = float(Ranking(healthy, anomalous).average_precision()[0])
    return OfficialFigure(value, cases, problems, n_items, n_anomalous)


def _count_voxels(prediction: Path, label: Path) -> tuple[Totals, list[tuple[float, bool]], str | None]:
    """Count voxels per score, healthy and anomalous, reading both files side by side."""
    try:
        return _count_pairs(prediction, label), [], None
    except (ResultsError, _BadLabelError):
        raise
    except FileNotFoundError:
        problem = "the prediction is missing"
    except _UNREADABLE as error:
        problem = _described(error)
    totals = np.zeros((2, N_VALUES), np.int64)
    for chunk in _label_chunks(label):
        anomalous = int(np.count_nonzero(chunk))
        totals[:, 0] += chunk.size - anomalous, anomalous
    return totals, [], problem


def _count_pairs(prediction: Path, label: Path) -> Totals:
    if not prediction.exists():
        raise FileNotFoundError
    counts, has_nan = np.zeros(2 * N_VALUES, np.int64), False
    with open_voxels(prediction) as stream:
        shape = _label_shape(label)
        if stream.stored_shape != shape:
            raise ValueError(f"the prediction has shape {stream.stored_shape}, the label {shape}")
        chunks = zip(stream.chunks(_CHUNK_VOXELS), _label_chunks(label), strict=True)
        for patterns, inside in ((_patterns(values), inside) for values, inside in chunks):
            if patterns.max(initial=0) >= N_VALUES:
                has_nan = True  # read on: a damaged file counts as zeros, and that shows only at its end
                continue
            patterns += np.uint16(N_VALUES) * inside
            counts += np.bincount(patterns, minlength=2 * N_VALUES)
    if has_nan:
        raise _nan_error(prediction)
    return counts.reshape(2, N_VALUES)


def _patterns(values: Shaped[np.ndarray, " n"]) -> UInt16[np.ndarray, " n"]:
    """Return the bit patterns of values read as float16 and clipped; clipped first, which is the same and faster."""
    return np.clip(values, 0, 1).astype(np.float16).view(np.uint16) & _WITHOUT_SIGN


def _label_shape(path: Path) -> tuple[int, ...]:
    with _label_errors(), open_voxels(path) as stream:
        return stream.stored_shape


def _label_chunks(path: Path) -> Iterator[Bool[np.ndarray, " n"]]:
    """Yield where a label, rounded and clipped, is 1."""
    with _label_errors(), open_voxels(path) as stream:
        for chunk in stream.chunks(_CHUNK_VOXELS):
            yield chunk >= 1 if chunk.dtype.kind in "iu" else np.rint(chunk) >= 1


@contextmanager
def _label_errors() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise _BadLabelError(f"the label cannot be read ({_described(error)})") from None


def _count_scan(prediction: Path, label: Path) -> tuple[Totals, list[tuple[float, bool]], str | None]:
    none = np.zeros((2, N_VALUES), np.int64)
    try:
        anomalous = int(_first_line(label))
    except _UNREADABLE as error:
        raise _BadLabelError(f"the label is no whole number ({_described(error)})") from None
    try:
        score = float(_first_line(prediction))
    except FileNotFoundError:
        return none, [(0.0, bool(anomalous))], "the prediction is missing"
    except _UNREADABLE as error:
        return none, [(0.0, bool(anomalous))], f"the prediction is no number ({_described(error)})"
    if np.isnan(score):
        raise _nan_error(prediction)
    return none, [(float(np.clip(score, 0, 1)), bool(anomalous))], None


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as opened:
        return opened.readline()


def _nan_error(where: Path) -> ResultsError:
    return ResultsError(
        "the prediction is NaN somewhere, on which the challenge's script fails",
        where=where,
        expected="numbers",
        remedy="write 0 where nothing is known",
    )


def _described(error: Exception) -> str:
    return error.problem if isinstance(error, MendscanError) else " ".join(str(error).split())

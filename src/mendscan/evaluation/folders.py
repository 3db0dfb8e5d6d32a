"""How well does a folder of results agree with a folder of labels?

Labels as the challenge (MOOD) lays them out::

    labels/pixel/NAME.nii.gz        one number per voxel, above 0 = anomalous
    labels/sample/NAME.nii.gz.txt   one number, above 0 = an anomalous scan

Results: ``maps/NAME.nii.gz`` with scores in [0, 1] on the scan's own grid, and one score per scan.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from mendscan.errors import ResultsError
from mendscan.evaluation.histograms import ScoreHistogram
from mendscan.evaluation.metrics import CaseMetrics, Metrics
from mendscan.shapes import Affine

__all__ = ["evaluate_folder"]

_LOG = logging.getLogger(__name__)

CORNER_TOLERANCE_MM = 1e-2
"""How far a map's corner may lie from its label's: far below a voxel, far above the rounding of a stored affine."""
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


def evaluate_folder(
    results: Path, labels: Path, *, healthy_threshold: float | None, scores: Mapping[str, float]
) -> Metrics:
    """Compare maps and scan scores with labels, one case in memory at a time.

    A case is known by its file name without ``.nii`` or ``.nii.gz``.  A case with only a voxel label or only a scan
    label enters only that label's figures.  A map that is missing, unreadable, of another shape than the label, or
    not a number somewhere counts as zeros, as in the challenge; a missing or non-finite scan score counts as 0, or as
    the lowest score given if that is negative.  Both are listed under the case's `problems`.

    Args:
        results: A results folder with ``maps/``; without voxel labels, ``maps/`` is not needed.
        labels: A folder with ``pixel/``, ``sample/`` or both.
        healthy_threshold: The voxel threshold learnt from healthy scans, in map units; None if there is none.
        scores: The scans' scores by case name, higher = more anomalous.

    Returns:
        Pooled figures and one row per labelled case.

    Raises:
        ResultsError: If a folder is missing or empty, a label cannot be read, two labels are of the same case, or a
            map lies elsewhere in space than its label.
    """
    pixel_labels, sample_labels = _find_labels(labels)
    maps = _find_maps(results, needed=bool(pixel_labels))
    lowest = min([0.0, *(float(score) for score in scores.values() if math.isfinite(score))])
    pooled, cases = ScoreHistogram.empty(), []
    for name in sorted(pixel_labels.keys() | sample_labels.keys()):
        case = CaseMetrics(name)
        if name in pixel_labels:
            compared = _compare_map(maps.get(name), pixel_labels[name])
            case = _with_voxels(case, compared, healthy_threshold)
            pooled += compared.histogram
        if name in sample_labels:
            case = _with_sample(case, scores.get(name), _read_sample_label(sample_labels[name]), lowest)
        for problem in case.problems:
            _LOG.warning("%s: %s", name, problem)
        cases.append(case)
    n_unlabelled = len((maps.keys() | scores.keys()) - pixel_labels.keys() - sample_labels.keys())
    return Metrics.of(cases, pooled, healthy_threshold=healthy_threshold, n_unlabelled=n_unlabelled)


@dataclass(frozen=True)
class _Compared:
    histogram: ScoreHistogram
    problem: str | None = None


def _with_voxels(case: CaseMetrics, compared: _Compared, healthy_threshold: float | None) -> CaseMetrics:
    histogram = compared.histogram
    return replace(
        case,
        n_voxels=histogram.n_voxels,
        voxel_prevalence=histogram.prevalence,
        voxel_ap=histogram.average_precision,
        voxel_auroc=histogram.auroc,
        best_dice=histogram.best_dice[0],
        dice_at_healthy_threshold=None if healthy_threshold is None else histogram.dice_at(healthy_threshold),
        problems=case.problems + ((compared.problem,) if compared.problem else ()),
    )


def _with_sample(case: CaseMetrics, score: float | None, anomalous: bool, lowest: float) -> CaseMetrics:
    if score is not None and math.isfinite(score):
        return replace(case, sample_anomalous=anomalous, sample_score=float(score))
    problem = "the scan score is missing" if score is None else f"the scan score is {score}, not a finite number"
    counted = f"{problem}: counted as {lowest:g}"
    return replace(case, sample_anomalous=anomalous, sample_score=lowest, problems=(*case.problems, counted))


def _compare_map(map_path: Path | None, label_path: Path) -> _Compared:
    """Count a map's scores against its label; what cannot be used counts as zeros."""
    label_affine, label = _read_label(label_path)
    if map_path is None:
        return _counted_as_zeros(label, "the map is missing")
    try:
        image = _load(map_path)
        shape = _shape(image)
        values = _voxels(image) if shape == label.shape else None
    except _UNREADABLE as error:
        message = " ".join(str(error).split()).replace(str(map_path), map_path.name)
        return _counted_as_zeros(label, f"the map cannot be read ({message})")
    if values is None:
        return _counted_as_zeros(label, f"the map has shape {shape}, the label {label.shape}")
    _check_same_place(map_path, image.affine, label_path, label_affine, label.shape)
    try:
        return _Compared(ScoreHistogram.of(values, label))
    except ValueError:
        return _counted_as_zeros(label, "the map is not a number everywhere")


def _counted_as_zeros(label: Bool[np.ndarray, "..."], problem: str) -> _Compared:
    zeros = np.broadcast_to(np.float32(0), label.shape)
    return _Compared(ScoreHistogram.of(zeros, label), f"{problem}: counted as zeros")


def _check_same_place(
    map_path: Path, map_affine: Affine, label_path: Path, label_affine: Affine, shape: tuple[int, ...]
) -> None:
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape[:3]))], np.float64)
    apart_mm = float(np.linalg.norm(corners @ (map_affine - label_affine).T, axis=1).max())
    # Written so that a NaN in an affine fails, too.
    if not apart_mm <= CORNER_TOLERANCE_MM:
        raise ResultsError(
            f"the map lies elsewhere in space than its label {label_path}",
            where=map_path,
            found=f"corners up to {apart_mm:.3g} mm apart",
            expected=f"at most {CORNER_TOLERANCE_MM:g} mm",
            remedy="evaluate maps on the grid of the scans that were labelled",
        )


def _find_labels(labels: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    pixel = _cases_in(labels / "pixel", (".nii", ".nii.gz"))
    sample = _cases_in(labels / "sample", (".txt",))
    if not pixel and not sample:
        raise ResultsError(
            "no labels",
            where=labels,
            found=_entries(labels),
            expected="pixel/NAME.nii.gz or sample/NAME.nii.gz.txt",
            remedy="point to the folder that holds pixel/ and sample/",
        )
    return pixel, sample


def _find_maps(results: Path, *, needed: bool) -> dict[str, Path]:
    if needed and not (results / "maps").is_dir():
        raise ResultsError(
            "no maps to compare with the voxel labels",
            where=results,
            found=_entries(results),
            expected="maps/NAME.nii.gz",
            remedy="point to the folder that the detection wrote",
        )
    return _cases_in(results / "maps", (".nii", ".nii.gz"))


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
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.endswith(suffixes) and not path.name.startswith("."):
            yield path


def _entries(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return ", ".join([*names[:5], "..."] if len(names) > 5 else names) or "an empty folder"


def _read_sample_label(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8").strip()
        number = float(text)
    except (OSError, ValueError) as error:
        raise _unusable_label(path, "no number", "one number, above 0 = anomalous") from error
    if math.isnan(number):
        raise _unusable_label(path, text, "one number, above 0 = anomalous")
    return number > 0


def _read_label(path: Path) -> tuple[Affine, Bool[np.ndarray, "..."]]:
    try:
        image = _load(path)
        return image.affine, _voxels(image) > 0
    except _UNREADABLE as error:
        raise _unusable_label(path, str(error), "a NIfTI image, above 0 = anomalous") from error


def _unusable_label(path: Path, found: str, expected: str) -> ResultsError:
    return ResultsError(
        "the label cannot be read",
        where=path,
        found=found,
        expected=expected,
        remedy="replace the file, or remove it to leave the case out",
    )


def _load(path: Path) -> Any:
    return nib.load(path)


def _shape(image: Any) -> tuple[int, ...]:
    """The image's shape with at least three axes, and none of length 1 appended to those, as some programs do."""
    shape = (*(int(n) for n in image.shape), *(1,) * (3 - len(image.shape)))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _voxels(image: Any) -> Float[np.ndarray, "..."]:
    return np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged")).reshape(_shape(image), order="A")

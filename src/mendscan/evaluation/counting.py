"""What does one scan's map say, counted: per score value, per lesion, per connected component?

Counting is all that touches files.  Every figure, interval and stratum is then computed from counts, and counts of
cases add up: in any order, from any machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from mendscan.errors import MendscanError, ResultsError
from mendscan.evaluation.layouts import AnomalyFacts
from mendscan.evaluation.lesions import NOT_FOUND, LesionMatch, match_lesions, number_lesions
from mendscan.evaluation.sparse import N_VALUES, SparseCounts, float32_cut
from mendscan.shapes import Affine
from mendscan.volumes.chunks import open_voxels

__all__ = ["CaseFiles", "CountedCase", "CountedLesion", "count_voxels", "with_lesions_matched"]

CORNER_TOLERANCE_MM = 1e-2
"""How far a map's corner may lie from its label's: far below a voxel, far above the rounding of a stored affine."""
_CHUNK_VOXELS = 1 << 18
_UNREADABLE = (MendscanError, OSError, EOFError, ValueError, zlib.error)


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case that has a voxel label.

    Attributes:
        name: The case.
        map: Its anomaly map; None if the method made none.
        label: Its voxel label.
        lesions: Its lesion numbers; None = the label's connected components.
        facts: What is known of its anomalies.
    """

    name: str
    map: Path | None
    label: Path
    lesions: Path | None
    facts: tuple[AnomalyFacts, ...]


@dataclass(frozen=True, eq=False)
class CountedLesion:
    """One lesion, and what the map says about it.

    Attributes:
        number: In its scan, from 1.
        scores: Its voxels per score value.
        kind: What it is, if known; else empty.
        size: ``small``, ``medium`` or ``large``, if known.
        contrast: ``faint``, ``medium`` or ``plain``, if known.
    """

    number: int
    scores: SparseCounts
    kind: str = ""
    size: str = ""
    contrast: str = ""

    @property
    def voxels(self) -> int:
        """Its size."""
        return self.scores.n_voxels


@dataclass(frozen=True, eq=False)
class CountedCase:
    """One labelled case.

    Attributes:
        name: The case.
        subject: Whose scan it is; several cases may be of one subject.
        healthy: Healthy voxels per score value; None without a voxel label.
        lesions: Its lesions, by number.
        match: Which of them the map's components hit, in the same order; None without a voxel label.
        anomalous: The scan's label; None if unknown.
        score: The scan's score, higher = more anomalous; None if the method gave no scores.
        p_value: The scan's p-value; None if there is none.
        artefact: What is known of a change that is not in one place; None if there is none.
        problems: What was wrong with the predictions.
        map_counts_as_zeros: Whether the map was missing or unusable.
        n_clipped: Voxels whose score was outside [0, 1].
    """

    name: str
    subject: str
    healthy: SparseCounts | None = None
    lesions: tuple[CountedLesion, ...] = ()
    match: LesionMatch | None = None
    anomalous: bool | None = None
    score: float | None = None
    p_value: float | None = None
    artefact: AnomalyFacts | None = None
    problems: tuple[str, ...] = ()
    map_counts_as_zeros: bool = False
    n_clipped: int = 0

    @property
    def n_anomalous_voxels(self) -> int:
        """Voxels in lesions."""
        return sum(lesion.voxels for lesion in self.lesions)


def count_voxels(files: CaseFiles, case: CountedCase) -> CountedCase:
    """Count a case's voxels per score value; the map is read as a stream and never held.

    A map that is missing, unreadable, of another shape than the label, or not a number somewhere counts as zeros, as
    in the challenge, and is listed under the case's problems.

    Raises:
        ResultsError: If a label cannot be read or the map lies elsewhere in space than its label.
    """
    affine, numbers_v, shape = _read_lesions(files)
    try:
        counted = _count_map(files, affine, numbers_v, shape)
    except _Unusable as problem:
        problems = (*case.problems, f"{problem}: counted as zeros")
        case, counted = replace(case, problems=problems, map_counts_as_zeros=True), _counted_as_zeros(numbers_v)
    facts = {fact.lesion: fact for fact in files.facts if fact.lesion is not None}
    lesions = tuple(
        CountedLesion(number, scores, *_strata(facts.get(number))) for number, scores in counted.lesions.items()
    )
    return replace(case, healthy=counted.healthy, lesions=lesions, n_clipped=counted.n_clipped)


def with_lesions_matched(
    files: CaseFiles, case: CountedCase, *, threshold: float, smallest_voxels: int, iou: float
) -> CountedCase:
    """Find which lesions the map's connected components hit, and which components hit none.

    Args:
        files: The case's files.
        case: Its counts; a map that counted as zeros has no components.
        threshold: Components are of voxels above it, in map units, both rounded as scores are counted.
        smallest_voxels: Smaller components are left out.
        iou: A component that overlaps a lesion by this intersection over union hits it; so does one whose centre lies
            in it.
    """
    if files.map is None or case.healthy is None or case.map_counts_as_zeros:
        return replace(case, match=_nothing_found(case))
    _, numbers_v, shape = _read_lesions(files)
    with open_voxels(files.map) as stream:
        values_v = np.concatenate([np.clip(np.asarray(one, np.float32), 0, 1) for one in stream.chunks(_CHUNK_VOXELS)])
    match = match_lesions(
        values_v.reshape(shape, order="F"),
        numbers_v.reshape(shape, order="F"),
        threshold=float(float32_cut(threshold)),
        smallest_voxels=smallest_voxels,
        iou=iou,
    )
    return replace(case, match=match)


class _Unusable(Exception):
    """A map that counts as zeros, and why."""


@dataclass(frozen=True, eq=False)
class _Counted:
    healthy: SparseCounts
    lesions: dict[int, SparseCounts]
    n_clipped: int = 0


def _count_map(files: CaseFiles, affine: Affine, numbers_v: Int[np.ndarray, " v"], shape: tuple[int, ...]) -> _Counted:
    if files.map is None:
        raise _Unusable("the map is missing")
    try:
        with open_voxels(files.map) as stream:
            if stream.shape != shape:
                raise _Unusable(f"the map has shape {stream.shape}, the label {shape}")
            _check_same_place(files, stream.affine, affine, shape)
            return _counted(stream.chunks(_CHUNK_VOXELS), numbers_v)
    except _UNREADABLE as error:
        if isinstance(error, ResultsError):
            raise
        problem = error.problem if isinstance(error, MendscanError) else " ".join(str(error).split())
        raise _Unusable(f"the map cannot be read ({problem})") from None


def _counted(chunks: Iterable[Shaped[np.ndarray, " n"]], numbers_v: Int[np.ndarray, " v"]) -> _Counted:
    """Count healthy voxels per value, and set the few in lesions aside until all have been read."""
    healthy, start, n_clipped = np.zeros(N_VALUES, np.int64), 0, 0
    in_lesions: list[Shaped[np.ndarray, " n"]] = []
    for chunk in chunks:
        if np.isnan(chunk).any():
            raise _Unusable("the map is not a number everywhere")
        inside = numbers_v[start : start + chunk.size] > 0
        healthy += SparseCounts.of(chunk[~inside] if inside.any() else chunk).dense()
        in_lesions.append(chunk[inside])
        n_clipped += int(np.count_nonzero((chunk < 0) | (chunk > 1)))
        start += chunk.size
    scores, owners = np.concatenate(in_lesions), numbers_v[numbers_v > 0]
    lesions = {int(n): SparseCounts.of(scores[owners == n]) for n in np.unique(owners)}
    return _Counted(SparseCounts.of_dense(healthy), lesions, n_clipped)


def _counted_as_zeros(numbers_v: Int[np.ndarray, " v"]) -> _Counted:
    return _counted([np.zeros(numbers_v.size, np.float32)], numbers_v)


def _nothing_found(case: CountedCase) -> LesionMatch:
    count, nothing = len(case.lesions), np.zeros(0)
    numbers, voxels = ([getattr(lesion, name) for lesion in case.lesions] for name in ("number", "voxels"))
    return LesionMatch(
        np.array(numbers, np.int64), np.array(voxels, np.int64), np.full(count, NOT_FOUND), np.zeros(count), nothing
    )


def _strata(fact: AnomalyFacts | None) -> tuple[str, str, str]:
    return ("", "", "") if fact is None else (fact.kind, fact.size, fact.contrast)


def _read_lesions(files: CaseFiles) -> tuple[Affine, Int[np.ndarray, " v"], tuple[int, int, int]]:
    """Return the label's affine, the lesion number of each voxel in the file's order, and its shape."""
    affine, label_v, shape = _read_label(files.label, np.int8)
    anomalous_v = label_v > 0
    if files.lesions is None:
        numbered = number_lesions(anomalous_v.reshape(shape, order="F"))
        return affine, numbered.ravel(order="F"), shape
    _, numbers_v, lesions_shape = _read_label(files.lesions, np.int32)
    if numbers_v.max(initial=0) > numbers_v.size:
        raise ResultsError(
            "a lesion's number is out of range",
            where=files.lesions,
            found=numbers_v.max(),
            expected=f"1 to {numbers_v.size}, the number of voxels",
            remedy="number the lesions from 1",
        )
    if lesions_shape != shape or not np.array_equal(numbers_v > 0, anomalous_v):
        raise ResultsError(
            "lesions and voxel label disagree",
            where=files.lesions,
            expected="a number above 0 exactly where the voxel label is above 0",
            remedy="correct it, or remove the folder lesions/: connected components are taken then",
        )
    return affine, numbers_v, shape


def _read_label(
    path: Path, number_type: type[np.signedinteger[Any]]
) -> tuple[Affine, Shaped[np.ndarray, " v"], tuple[int, int, int]]:
    try:
        with open_voxels(path) as stream:
            values = np.concatenate([_small(chunk, number_type) for chunk in stream.chunks(_CHUNK_VOXELS)])
            return stream.affine, values, stream.shape
    except _UNREADABLE as error:
        problem = error.problem if isinstance(error, MendscanError) else " ".join(str(error).split())
        raise ResultsError(
            "a voxel label cannot be read", where=path, found=problem, remedy="correct or remove it"
        ) from None


def _small(chunk: Shaped[np.ndarray, " n"], number_type: type[np.signedinteger[Any]]) -> Shaped[np.ndarray, " n"]:
    """Labels in few bytes: what is not a number is refused, what is between 0 and 1 is anomalous."""
    if np.isnan(chunk).any():
        raise ValueError("not a number everywhere")
    return np.ceil(np.clip(chunk.astype(np.float64), 0, np.iinfo(number_type).max)).astype(number_type)


def _check_same_place(files: CaseFiles, map_affine: Affine, label_affine: Affine, shape: tuple[int, ...]) -> None:
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape))], np.float64)
    apart_mm = float(np.linalg.norm(corners @ (map_affine - label_affine).T, axis=1).max())
    # Written so that a NaN in an affine fails, too.
    if not apart_mm <= CORNER_TOLERANCE_MM:
        raise ResultsError(
            f"the map lies elsewhere in space than its label {files.label}",
            where=files.map,
            found=f"corners up to {apart_mm:.3g} mm apart",
            expected=f"at most {CORNER_TOLERANCE_MM:g} mm",
            remedy="evaluate maps on the grid of the scans that were labelled",
        )

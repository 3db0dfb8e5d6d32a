"""Which lesions does a map find, and how much else does it point at?

A voxel measure is ruled by the largest lesions.  Here each lesion counts once.  The map's *candidates* are its
connected components above a base threshold, each as sure as its highest value, its peak.  Shapes stay as they are at
the base threshold while the peak decides which candidates count, as a detector's boxes stay while their scores do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64, Integer, Shaped
from scipy.sparse import coo_array

from mendscan.evaluation.candidates import SMALLEST_VOXELS, Candidates, connected_components

__all__ = [
    "FALSE_POSITIVES_PER_SCAN",
    "IOU",
    "NOT_FOUND",
    "FrocCurve",
    "LesionMatch",
    "froc",
    "match_lesions",
    "number_lesions",
    "sensitivity_at",
]

IOU = 0.1
"""The overlap that makes a hit, as in nnDetection (Baumgartner et al. 2021): enough to lead a reader there."""
FALSE_POSITIVES_PER_SCAN = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""Where the LUNA16 challenge (Setio et al. 2017) reads the sensitivity; their mean is its score."""
NOT_FOUND = -np.inf
"""The peak of a lesion that no candidate hits: below every threshold."""


@dataclass(frozen=True, eq=False)
class LesionMatch:
    """What a map's candidates make of one case's lesions.

    Args:
        numbers: The lesions' numbers in the label, ascending.
        lesion_voxels: Size of each lesion.
        found_peaks: Highest peak among the candidates that hit each lesion; −∞ if none does.
        covered_shares: Share of each lesion's voxels above the base threshold, in [0, 1].
        false_peaks: Peak of each candidate that hits no lesion, the highest first.
    """

    numbers: Int64[np.ndarray, " L"]
    lesion_voxels: Int64[np.ndarray, " L"]
    found_peaks: Float64[np.ndarray, " L"]
    covered_shares: Float64[np.ndarray, " L"]
    false_peaks: Float64[np.ndarray, " F"]

    @property
    def found(self) -> Bool[np.ndarray, " L"]:
        """Which lesions any candidate hits."""
        return self.found_peaks > NOT_FOUND


@dataclass(frozen=True, eq=False)
class FrocCurve:
    """Sensitivity against false positives as the threshold of the peaks falls; a step holds up to the next point.

    Args:
        thresholds: Candidates count from this peak on: +∞, then every peak that finds a lesion, falling, then −∞.
        false_positives_per_scan: Candidates that hit no lesion, per scan; rising.
        sensitivity: Share of the lesions found; rising.
    """

    thresholds: Float64[np.ndarray, " T"]
    false_positives_per_scan: Float64[np.ndarray, " T"]
    sensitivity: Float64[np.ndarray, " T"]


def number_lesions(label_XYZ: Shaped[np.ndarray, "X Y Z"]) -> Int32[np.ndarray, "X Y Z"]:
    """Number the connected components (26 neighbours) of a label that only tells anomalous from healthy.

    Args:
        label_XYZ: Above 0 = anomalous.

    Returns:
        0, or the number 1..n of the voxel's lesion, in the order of their first voxels.

    Raises:
        ValueError: If the label is not three-dimensional.

    Example:
        >>> number_lesions(np.array([[[1, 1, 0, 0, 1]]]))
        array([[[1, 1, 0, 0, 2]]], dtype=int32)
    """
    return connected_components(label_XYZ > 0)


def match_lesions(
    map_XYZ: Float[np.ndarray, "X Y Z"],
    lesions_XYZ: Integer[np.ndarray, "X Y Z"],
    *,
    threshold: float,
    smallest_voxels: int = SMALLEST_VOXELS,
    iou: float = IOU,
) -> LesionMatch:
    """Match the candidates of one case's map with its lesions.

    A candidate *hits* a lesion if they share a voxel, and either their intersection over union is at least `iou`
    (nnDetection's criterion) or the voxel nearest to the candidate's centre of mass belongs to the lesion (a centre
    hit, the criterion of LUNA16).  Without the shared voxel, a ring around the whole brain would find every lesion in
    the brain's middle.  Several candidates may hit one lesion, which is then found once, by the surest; none of them
    is false.  One candidate may hit several lesions.

    Args:
        map_XYZ: The map, higher = more anomalous.
        lesions_XYZ: 0, or the number 1..n of the voxel's lesion; see `number_lesions`.  Lesions may touch.
        threshold: The base threshold: candidates are the components of `map > threshold`.
        smallest_voxels: Candidates of fewer voxels are left out: they neither hit nor are they false.
        iou: The intersection over union that makes a hit, in [0, 1]; 0 = any shared voxel.

    Returns:
        The lesions with what they were found by, and the false candidates.

    Raises:
        ValueError: If the arrays are not three-dimensional and of one shape, the map is not finite, the threshold is
            NaN, `iou` is outside [0, 1], or a lesion's number is negative or above the number of voxels.

    Example:
        >>> map_XYZ, lesions_XYZ = np.zeros((1, 1, 8)), np.zeros((1, 1, 8), int)
        >>> map_XYZ[0, 0] = [0.9, 0.8, 0, 0, 0.4, 0, 0, 0]
        >>> lesions_XYZ[0, 0] = [0, 1, 1, 0, 0, 0, 0, 2]
        >>> match = match_lesions(map_XYZ, lesions_XYZ, threshold=0.2)
        >>> match.found_peaks, match.false_peaks
        (array([ 0.9, -inf]), array([0.4]))
    """
    if map_XYZ.shape != lesions_XYZ.shape:
        raise ValueError(f"the map has shape {map_XYZ.shape}, the lesions {lesions_XYZ.shape}; they must be the same")
    if not 0 <= iou <= 1:
        raise ValueError(f"found iou={iou}; expected a share in [0, 1]")
    if np.isfortran(map_XYZ):
        # Neighbours, overlaps and centres do not mind the order of the axes; memory does.
        map_XYZ, lesions_XYZ = map_XYZ.T, lesions_XYZ.T
    candidates = Candidates.of(map_XYZ, threshold=threshold, smallest_voxels=smallest_voxels)
    inside_XYZ = lesions_XYZ != 0
    numbers, lesion_of, lesion_voxels = _listed(lesions_XYZ[inside_XYZ], map_XYZ.size)
    above = np.bincount(lesion_of, weights=map_XYZ[inside_XYZ] > threshold, minlength=numbers.size)
    pairs = _shared_voxels(lesion_of, candidates.numbers_XYZ[inside_XYZ], numbers.size, candidates.peaks.size)
    hit_lesions, hitting = _hits(pairs, candidates, numbers, lesion_voxels, lesions_XYZ, iou)
    found_peaks = np.full(numbers.size, NOT_FOUND)
    np.maximum.at(found_peaks, hit_lesions, candidates.peaks[hitting])
    false_peaks = np.sort(np.delete(candidates.peaks, hitting))[::-1]
    return LesionMatch(numbers, lesion_voxels, found_peaks, above / lesion_voxels, false_peaks)


def froc(
    found: Sequence[Float[np.ndarray, " _"]],
    false: Sequence[Float[np.ndarray, " _"]],
    weights_N: Float[np.ndarray, " N"],
) -> FrocCurve:
    """Find the free-response curve of all cases pooled.

    A candidate counts if its peak is at least the threshold.  Only thresholds at which another lesion is found, and the
    two ends, are points of the curve: between them the sensitivity stays as it is.

    Args:
        found: Per case, `LesionMatch.found_peaks`: one entry per lesion, −∞ if it is not found.
        false: Per case, `LesionMatch.false_peaks`.
        weights_N: How often each case counts; ones for the plain curve.

    Returns:
        The curve; its sensitivity is NaN without lesions, its false positives are NaN without cases.

    Raises:
        ValueError: If there are not as many cases in all arguments.

    Example:
        >>> curve = froc([np.array([0.9, 0.3])], [np.array([0.5])], np.ones(1))
        >>> curve.false_positives_per_scan, curve.sensitivity
        (array([0., 0., 1., 1.]), array([0. , 0.5, 1. , 1. ]))
    """
    thresholds, rates_1T, sensitivity_1T = _steps(found, false, weights_N[None])
    return FrocCurve(thresholds, rates_1T[0], sensitivity_1T[0])


def sensitivity_at(
    found: Sequence[Float[np.ndarray, " _"]],
    false: Sequence[Float[np.ndarray, " _"]],
    weights_BN: Float[np.ndarray, "B N"],
    *,
    false_positives_per_scan: Sequence[float] = FALSE_POSITIVES_PER_SCAN,
) -> Float64[np.ndarray, "B R"]:
    """Read the free-response curve where a reader has so many false positives per scan.

    The largest share of lesions found by any threshold with no more false positives per scan than wanted: a step, never
    interpolated, for no threshold lies between two that differ.  The mean over the default rates is the LUNA16 score.

    Args:
        found: Per case, `LesionMatch.found_peaks`: one entry per lesion, −∞ if it is not found.
        false: Per case, `LesionMatch.false_peaks`.
        weights_BN: How often each case counts in each resample.
        false_positives_per_scan: The R wanted rates, >= 0.

    Returns:
        Sensitivity in [0, 1]; NaN where the weights leave no lesion.

    Raises:
        ValueError: If there are not as many cases in all arguments, or a rate is negative or NaN.

    Example:
        >>> found, false = [np.array([0.9, 0.3])], [np.array([0.5])]
        >>> sensitivity_at(found, false, np.ones((1, 1)), false_positives_per_scan=(0.5, 1.0))
        array([[0.5, 1. ]])
    """
    wanted = np.asarray(false_positives_per_scan, np.float64)
    if not (wanted >= 0).all():
        raise ValueError(f"found false positives per scan {wanted.tolist()}; expected none below 0")
    _, rates_BT, sensitivity_BT = _steps(found, false, weights_BN)
    affordable = [(rates_BT <= rate).sum(axis=1) for rate in wanted]
    # The first point costs nothing; where there is no case at all the rate is NaN, and so is its sensitivity.
    chosen_BR = np.maximum(np.stack(affordable, axis=1) - 1, 0)
    return np.take_along_axis(sensitivity_BT, chosen_BR, axis=1)


def _steps(
    found: Sequence[Float[np.ndarray, " _"]],
    false: Sequence[Float[np.ndarray, " _"]],
    weights_BN: Float[np.ndarray, "B N"],
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, "B T"], Float64[np.ndarray, "B T"]]:
    """Thresholds, false positives per scan and sensitivity at each."""
    if not len(found) == len(false) == weights_BN.shape[1]:
        raise ValueError(
            f"found {len(found)} cases with lesions, {len(false)} with false peaks and {weights_BN.shape[1]} weights; "
            "expected as many of each"
        )
    peaks = np.concatenate([np.zeros(0), *found])
    thresholds = np.concatenate([[np.inf], np.unique(peaks[peaks > NOT_FOUND])[::-1], [-np.inf]])
    found_BT, false_BT = (weights_BN @ _newly_counted(per_case, thresholds) for per_case in (found, false))
    lesions_B = weights_BN @ np.array([lesions.size for lesions in found], np.float64)
    # A lesion that is not found has its peak at −∞: the last threshold must not find it.
    found_BT[:, -1] = 0
    with np.errstate(invalid="ignore"):
        rates_BT = np.cumsum(false_BT, axis=1) / weights_BN.sum(axis=1)[:, None]
        return thresholds, rates_BT, np.cumsum(found_BT, axis=1) / lesions_B[:, None]


def _newly_counted(
    peaks_per_case: Sequence[Float[np.ndarray, " _"]], thresholds: Float[np.ndarray, " T"]
) -> Float64[np.ndarray, "N T"]:
    """How many of each case's peaks reach each threshold but none of the higher ones."""
    case_of = np.repeat(np.arange(len(peaks_per_case)), [peaks.size for peaks in peaks_per_case])
    first_reached = np.searchsorted(-thresholds, -np.concatenate([np.zeros(0), *peaks_per_case]))
    places = case_of * thresholds.size + first_reached
    counted = np.bincount(places, minlength=len(peaks_per_case) * thresholds.size)
    return counted.reshape(len(peaks_per_case), thresholds.size).astype(np.float64)


_Pairs = tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " P"]]
"""Lesion, candidate (both from 0) and the voxels they share."""


def _shared_voxels(
    lesion_of: Int[np.ndarray, " V"], candidate_number_of: Int[np.ndarray, " V"], n_lesions: int, n_candidates: int
) -> _Pairs:
    both = candidate_number_of > 0
    places = (lesion_of[both], candidate_number_of[both] - 1)
    # Nearly all pairs share nothing: a dense table of pairs could exceed the scan.  The conversion adds duplicates up.
    shared = coo_array((np.ones(places[0].size, np.int64), places), shape=(n_lesions, n_candidates)).tocsr().tocoo()
    return shared.coords[0], shared.coords[1], shared.data


def _hits(
    pairs: _Pairs,
    candidates: Candidates,
    numbers: Int[np.ndarray, " L"],
    lesion_voxels: Int[np.ndarray, " L"],
    lesions_XYZ: Integer[np.ndarray, "X Y Z"],
    iou: float,
) -> tuple[Int[np.ndarray, " H"], Int[np.ndarray, " H"]]:
    """The lesion and the candidate of each hit, both from 0."""
    lesion, candidate, shared = pairs
    union = lesion_voxels[lesion] + candidates.voxels[candidate] - shared
    centre_voxels = np.floor(candidates.centres[candidate] + 0.5).astype(np.intp)
    at_centre = lesions_XYZ[tuple(centre_voxels.T)] == numbers[lesion]
    hit = (shared / union >= iou) | at_centre
    return lesion[hit], candidate[hit]


def _listed(
    number_of: Integer[np.ndarray, " V"], n_voxels: int
) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " V"], Int64[np.ndarray, " L"]]:
    """The numbers that occur, the place of each voxel's number among them, and how often each occurs."""
    if number_of.size and not 0 < int(number_of.min()) <= int(number_of.max()) <= n_voxels:
        raise ValueError(f"found lesions numbered {number_of.min()} to {number_of.max()}; expected 1..n")
    counts = np.bincount(number_of.astype(np.int64))
    numbers = np.flatnonzero(counts)
    place_of_number = np.cumsum(counts > 0) - 1
    return numbers, place_of_number[number_of], counts[numbers]

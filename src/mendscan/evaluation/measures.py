"""Every figure as a function of case weights, so that one computation gives values, intervals and comparisons.

A row of ones gives the plain figures.  A row that says how often a resample drew each case gives the figures of that
resample: voxels are never resampled, for voxels of one scan are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, UInt16

from mendscan.evaluation.aupro import PooledRegions
from mendscan.evaluation.counting import CountedCase, CountedLesion
from mendscan.evaluation.lesions import FALSE_POSITIVES_PER_SCAN, sensitivity_at
from mendscan.evaluation.pooled import PooledVoxels
from mendscan.evaluation.ranking import Ranking
from mendscan.evaluation.sparse import SparseCounts

__all__ = ["AUPRO_LIMIT", "FIGURES", "Measure"]

Weights = Float[np.ndarray, "B N"]
Figures = dict[str, Float[np.ndarray, " B"]]
PickLesion = Callable[[CountedLesion], bool]

AUPRO_LIMIT = 0.3
"""False-positive rate up to which the per-region overlap is integrated (Bergmann et al., 2021)."""

FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "voxel_ap": "average precision of all voxels of all scans pooled, the challenge's measure",
        "voxel_auroc": "area under the ROC curve of the same voxels",
        "voxel_fpr_at_95_tpr": "share of healthy voxels above the threshold that finds 95 % of the anomalous ones",
        "best_dice": "Dice at the best of all thresholds: an oracle, for it has seen the labels",
        "dice": "Dice at the threshold learnt from healthy scans: what a user gets",
        "case_ap": "average precision of one scan's voxels, mean over the scans with anomalies",
        "case_dice": "Dice of one scan at the healthy threshold, mean over the scans with anomalies",
        "aupro": "per-region overlap against the false-positive rate, area up to a rate of 0.3",
        "lesion_sensitivity": "share of lesions hit by a component above the healthy threshold",
        "false_positives_per_scan": "components above the healthy threshold that hit no lesion, per scan",
        "false_positives_per_healthy_scan": "the same in scans without any anomaly",
        "lesion_froc": "sensitivity for lesions, mean over 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan",
        "sample_ap": "average precision of the scan scores",
        "sample_auroc": "area under the ROC curve of the scan scores",
        "sample_auroc_local": "the same, scans with local anomalies against healthy ones",
        "sample_auroc_whole": "the same, scans with whole-scan artefacts against healthy ones",
    }
)
"""What each figure means.  Higher is better but for the false-positive ones."""


def _every(_: CountedLesion) -> bool:
    return True


@dataclass(frozen=True, eq=False)
class Measure:
    """Figures of some cases, as functions of case weights.

    Args:
        cases: The cases, in the order of the weights' columns.
        threshold: The healthy voxel threshold, in map units; None if there is none.
    """

    cases: Sequence[CountedCase]
    threshold: float | None

    def __call__(self, weights_BN: Weights) -> Figures:
        """Return every figure that these cases can have; NaN where a weighting leaves it undefined."""
        figures: Figures = {}
        if self._matched_N.any():
            figures |= self._voxels.figures(weights_BN) | self._case_means(weights_BN)
            figures |= self.lesion_figures(weights_BN)
            figures["aupro"] = self._regions.aupro(weights_BN, limits=(AUPRO_LIMIT,))[:, 0]
        return figures | self._scan_figures(weights_BN)

    def pooled(self, pick: PickLesion = _every) -> PooledVoxels:
        """Return the voxels of the picked lesions and all healthy ones."""
        return PooledVoxels(self.values_V, self.healthy_NV, self.anomalous_NV(pick), self.threshold)

    def lesion_figures(self, weights_BN: Weights, pick: PickLesion = _every) -> Figures:
        """Return how many of the picked lesions are found, and at the cost of how many false findings."""
        weights_BM = weights_BN[:, self._matched_N]
        matched = [(case.match, _picked(case, pick)) for case in self.cases if case.match is not None]
        found = [match.found_peaks[picked] for match, picked in matched]
        false = [match.false_peaks for match, _ in matched]
        rates = sensitivity_at(found, false, weights_BM, false_positives_per_scan=FALSE_POSITIVES_PER_SCAN)
        figures = {"lesion_froc": rates.mean(axis=1)}
        if self.threshold is None:
            return figures
        hits_M = _counts(np.isfinite(peaks).sum() for peaks in found)
        lesions_M = _counts(peaks.size for peaks in found)
        false_M, healthy_M = _counts(peaks.size for peaks in false), self._without_lesions_M
        return figures | {
            "lesion_sensitivity": _ratio(weights_BM @ hits_M, weights_BM @ lesions_M),
            "false_positives_per_scan": _ratio(weights_BM @ false_M, weights_BM.sum(axis=1)),
            "false_positives_per_healthy_scan": _ratio(weights_BM @ (false_M * healthy_M), weights_BM @ healthy_M),
        }

    def scan_auroc(self, weights_BN: Weights, anomalous_N: Bool[np.ndarray, " N"]) -> Float[np.ndarray, " B"]:
        """Return the area under the ROC curve of the scan scores of some anomalous scans against all healthy ones."""
        healthy_NV, anomalous_NV = self._scan_counts(anomalous_N)
        return Ranking(weights_BN @ healthy_NV, weights_BN @ anomalous_NV).auroc()

    @cached_property
    def of_each_case(self) -> Mapping[str, Float[np.ndarray, " N"]]:
        """The voxel figures of each case alone; none without voxel labels."""
        return self._voxels.figures(np.eye(len(self.cases))) if self._matched_N.any() else {}

    @cached_property
    def values_V(self) -> Float[np.ndarray, " V"]:
        """The score values that occur, ascending."""
        return self._patterns_V.view(np.float16).astype(np.float64)

    @cached_property
    def healthy_NV(self) -> Float[np.ndarray, "N V"]:
        """Healthy voxels of each case per value."""
        return self._dense([[] if case.healthy is None else [case.healthy] for case in self.cases])

    def anomalous_NV(self, pick: PickLesion = _every) -> Float[np.ndarray, "N V"]:
        """Voxels of each case's picked lesions per value."""
        return self._dense([[lesion.scores for lesion in case.lesions if pick(lesion)] for case in self.cases])

    def local_N(self) -> Bool[np.ndarray, " N"]:
        """Which scans are anomalous somewhere: they have lesions."""
        return self._with_lesions_N & self._anomalous_N

    def whole_N(self) -> Bool[np.ndarray, " N"]:
        """Which scans are known to be anomalous as a whole."""
        return np.array([case.artefact is not None for case in self.cases]) & self._anomalous_N

    def _case_means(self, weights_BN: Weights) -> Figures:
        of_each = self.of_each_case
        figures = {"case_ap": _mean(weights_BN, of_each["voxel_ap"])}
        if "dice" in of_each:
            figures["case_dice"] = _mean(weights_BN, of_each["dice"])
        return figures

    def _scan_figures(self, weights_BN: Weights) -> Figures:
        if not self._scored_N.any():
            return {}
        healthy_NV, anomalous_NV = self._scan_counts(self._anomalous_N)
        ranking = Ranking(weights_BN @ healthy_NV, weights_BN @ anomalous_NV)
        figures = {"sample_ap": ranking.average_precision(), "sample_auroc": ranking.auroc()}
        local_N, whole_N = self.local_N(), self.whole_N()
        if local_N.any() and whole_N.any():
            figures["sample_auroc_local"] = self.scan_auroc(weights_BN, local_N)
            figures["sample_auroc_whole"] = self.scan_auroc(weights_BN, whole_N)
        return figures

    def _scan_counts(
        self, anomalous_N: Bool[np.ndarray, " N"]
    ) -> tuple[Float[np.ndarray, "N V"], Float[np.ndarray, "N V"]]:
        """One scan per row, in the column of its score."""
        scores = np.array([0.0 if case.score is None else case.score for case in self.cases])
        values, columns = np.unique(scores, return_inverse=True)
        one_NV = np.zeros((len(scores), len(values)))
        one_NV[np.arange(len(scores)), columns] = 1.0
        healthy_N = self._scored_N & np.array([case.anomalous is False for case in self.cases])
        return one_NV * healthy_N[:, None], one_NV * (self._scored_N & anomalous_N)[:, None]

    @cached_property
    def _voxels(self) -> PooledVoxels:
        return self.pooled()

    @cached_property
    def _patterns_V(self) -> UInt16[np.ndarray, " V"]:
        every = [case.healthy.patterns for case in self.cases if case.healthy is not None]
        every += [lesion.scores.patterns for case in self.cases for lesion in case.lesions]
        return np.unique(np.concatenate(every)) if every else np.zeros(0, np.uint16)

    def _dense(self, counts: Sequence[Sequence[SparseCounts]]) -> Float[np.ndarray, "N V"]:
        dense_NV = np.zeros((len(counts), len(self._patterns_V)))
        for row, parts in zip(dense_NV, counts, strict=True):
            for part in parts:
                row[np.searchsorted(self._patterns_V, part.patterns)] += part.counts
        return dense_NV

    @cached_property
    def _regions(self) -> PooledRegions:
        healthy = [SparseCounts.empty() if case.healthy is None else case.healthy for case in self.cases]
        return PooledRegions.of(healthy, [[lesion.scores for lesion in case.lesions] for case in self.cases])

    @cached_property
    def _matched_N(self) -> Bool[np.ndarray, " N"]:
        return np.array([case.match is not None for case in self.cases])

    @cached_property
    def _without_lesions_M(self) -> Float[np.ndarray, " M"]:
        return _counts(not case.lesions and not case.anomalous for case in self.cases if case.match is not None)

    @cached_property
    def _with_lesions_N(self) -> Bool[np.ndarray, " N"]:
        return np.array([bool(case.lesions) for case in self.cases])

    @cached_property
    def _scored_N(self) -> Bool[np.ndarray, " N"]:
        return np.array([case.anomalous is not None and case.score is not None for case in self.cases])

    @cached_property
    def _anomalous_N(self) -> Bool[np.ndarray, " N"]:
        return np.array([case.anomalous is True for case in self.cases])


def _picked(case: CountedCase, pick: PickLesion) -> Bool[np.ndarray, " L"]:
    return np.array([pick(lesion) for lesion in case.lesions], np.bool_)


def _counts(numbers: Iterable[int | np.integer | bool]) -> Float[np.ndarray, " M"]:
    return np.array([float(number) for number in numbers])


def _ratio(part_B: Float[np.ndarray, " B"], whole_B: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole_B > 0, part_B / whole_B, np.nan)


def _mean(weights_BN: Weights, figure_N: Float[np.ndarray, " N"]) -> Float[np.ndarray, " B"]:
    """The weighted mean over the cases that have the figure."""
    defined_N = np.isfinite(figure_N)
    return _ratio(weights_BN @ np.where(defined_N, figure_N, 0.0), weights_BN @ defined_N.astype(np.float64))

"""How well do scores agree with the truth, per voxel, per scan and per case?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.metrics import average_precision_score, roc_auc_score

from mendscan.evaluation.histograms import ScoreHistogram

__all__ = ["CaseMetrics", "Metrics", "sample_auroc", "sample_average_precision"]


@dataclass(frozen=True)
class CaseMetrics:
    """One labelled case; what it has no label for, or what its label leaves undefined, is None.

    Args:
        name: The case: its file name without ``.nii`` or ``.nii.gz``.
        n_voxels: Labelled voxels; None without a voxel label.
        voxel_prevalence: The share of them that are anomalous.
        voxel_ap: Average precision of this case's voxels alone.
        voxel_auroc: The same voxels' area under the ROC curve.
        best_dice: Dice at this case's own best threshold, an oracle.
        dice_at_healthy_threshold: Dice at the threshold learnt from healthy scans.
        sample_anomalous: The scan's label; None without one.
        sample_score: The scan's score as it entered the figures, higher = more anomalous; None without a scan label.
        problems: Why a prediction counts as zeros; empty if none does.
    """

    name: str
    n_voxels: int | None = None
    voxel_prevalence: float | None = None
    voxel_ap: float | None = None
    voxel_auroc: float | None = None
    best_dice: float | None = None
    dice_at_healthy_threshold: float | None = None
    sample_anomalous: bool | None = None
    sample_score: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metrics:
    """The agreement of predictions with labels; a figure that the labels leave undefined is None.

    Args:
        voxel_ap: Average precision of all voxels of all cases pooled, exactly the challenge's.
        voxel_auroc: Area under the ROC curve of the same voxels.
        voxel_prevalence: The share of anomalous voxels: the `voxel_ap` of chance.
        sample_ap: Average precision of the scans' scores.
        sample_auroc: Area under the ROC curve of the scans' scores.
        best_dice: Pooled Dice at the best of all thresholds.  An *oracle*: it has seen the labels.
        best_dice_threshold: Where that is, for `score > threshold`.
        dice_at_healthy_threshold: Pooled Dice at `healthy_threshold`: what a user would get.
        healthy_threshold: The voxel threshold learnt from healthy scans; None if none was given.
        n_cases_pixel: Cases with a voxel label.
        n_cases_sample: Cases with a scan label.
        n_anomalous_pixel: Cases with at least one anomalous voxel.
        n_anomalous_sample: Cases whose scan label says anomalous.
        n_unlabelled: Predicted cases without any label; they enter no figure.
        n_counted_as_zeros: Cases with a prediction that was missing or unusable; see their `problems`.
        cases: One row per labelled case, by name.
    """

    voxel_ap: float | None
    voxel_auroc: float | None
    voxel_prevalence: float | None
    sample_ap: float | None
    sample_auroc: float | None
    best_dice: float | None
    best_dice_threshold: float | None
    dice_at_healthy_threshold: float | None
    healthy_threshold: float | None
    n_cases_pixel: int
    n_cases_sample: int
    n_anomalous_pixel: int
    n_anomalous_sample: int
    n_unlabelled: int
    n_counted_as_zeros: int
    cases: tuple[CaseMetrics, ...]

    @classmethod
    def of(
        cls,
        cases: Sequence[CaseMetrics],
        pooled: ScoreHistogram,
        *,
        healthy_threshold: float | None = None,
        n_unlabelled: int = 0,
    ) -> Metrics:
        """Put the figures of the cases and of their pooled voxels together.

        Args:
            cases: One row per labelled case.
            pooled: The sum of the cases' histograms; no threshold and no rank is averaged over cases.
            healthy_threshold: The voxel threshold learnt from healthy scans, never from these labels.
            n_unlabelled: Predicted cases without any label.

        Returns:
            Every figure that the labels define.

        Raises:
            ValueError: If a scan's score is not finite.

        Example:
            >>> voxels = ScoreHistogram.of(np.array([0.1, 0.2, 0.9]), np.array([0, 0, 1]))
            >>> metrics = Metrics.of([CaseMetrics("a", n_voxels=3, voxel_prevalence=1 / 3)], voxels)
            >>> metrics.voxel_ap, metrics.sample_ap, metrics.n_anomalous_pixel
            (1.0, None, 1)
        """
        rated = [(case.sample_score, case.sample_anomalous) for case in cases if case.sample_anomalous is not None]
        scores = np.array([score for score, _ in rated], np.float64)
        truths = np.array([truth for _, truth in rated], np.bool_)
        best_dice, best_dice_threshold = pooled.best_dice
        return cls(
            voxel_ap=pooled.average_precision,
            voxel_auroc=pooled.auroc,
            voxel_prevalence=pooled.prevalence,
            sample_ap=sample_average_precision(scores, truths),
            sample_auroc=sample_auroc(scores, truths),
            best_dice=best_dice,
            best_dice_threshold=best_dice_threshold,
            dice_at_healthy_threshold=None if healthy_threshold is None else pooled.dice_at(healthy_threshold),
            healthy_threshold=healthy_threshold,
            n_cases_pixel=sum(case.n_voxels is not None for case in cases),
            n_cases_sample=len(rated),
            n_anomalous_pixel=sum(bool(case.voxel_prevalence) for case in cases),
            n_anomalous_sample=int(truths.sum()),
            n_unlabelled=n_unlabelled,
            n_counted_as_zeros=sum(bool(case.problems) for case in cases),
            cases=tuple(sorted(cases, key=lambda case: case.name)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, text, lists and None, ready for JSON."""
        return asdict(self) | {"cases": [asdict(case) | {"problems": list(case.problems)} for case in self.cases]}


def sample_average_precision(scores: Float[np.ndarray, "..."], labels: Shaped[np.ndarray, "..."]) -> float | None:
    """Average precision of the scans' scores.

    Unlike the challenge, the scores are not clipped to [0, 1]: the figure depends on ranks alone, and a clip ties the
    most anomalous scans with each other.  For scores inside [0, 1] it is the challenge's.

    Args:
        scores: One per scan, any finite number, higher = more anomalous.
        labels: One per scan; above 0 = anomalous.

    Returns:
        The average precision in [0, 1]; None unless there are both healthy and anomalous scans.

    Raises:
        ValueError: If a score is not finite, or there are not as many scores as labels in one dimension.

    Example:
        >>> sample_average_precision(np.array([0.3, 2.0, 7.0]), np.array([0, 0, 1]))
        1.0
    """
    truths = _checked_truths(scores, labels)
    return float(average_precision_score(truths, scores)) if _has_both(truths) else None


def sample_auroc(scores: Float[np.ndarray, "..."], labels: Shaped[np.ndarray, "..."]) -> float | None:
    """The chance that an anomalous scan scores above a healthy one, ties counting half.

    Args:
        scores: One per scan, any finite number, higher = more anomalous.
        labels: One per scan; above 0 = anomalous.

    Returns:
        The area under the ROC curve in [0, 1]; None unless there are both healthy and anomalous scans.

    Raises:
        ValueError: If a score is not finite, or there are not as many scores as labels in one dimension.

    Example:
        >>> sample_auroc(np.array([0.3, 2.0, 7.0]), np.array([0, 1, 0]))
        0.5
    """
    truths = _checked_truths(scores, labels)
    return float(roc_auc_score(truths, scores)) if _has_both(truths) else None


def _checked_truths(scores: Float[np.ndarray, "..."], labels: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, " n"]:
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape}, labels {labels.shape}; expected one of each per scan")
    if not np.isfinite(scores).all():
        raise ValueError("a scan's score is not finite; every score must be a finite number")
    return labels > 0


def _has_both(truths: Shaped[np.ndarray, " n"]) -> bool:
    return bool(truths.any()) and not bool(truths.all())

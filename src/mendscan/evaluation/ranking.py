"""Figures of ranked scores, for many weightings of the cases at once.

Every figure here needs two counts per score value, of healthy and of anomalous items (voxels or scans), with the values
ascending along the last axis `V`.  The first axis `B` holds weightings of the same cases: one row of ones is the plain
figure, many rows of how often a resample drew each case are its bootstrap.  Where a figure is undefined it is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["Counts", "Figures", "Ranking"]

Counts = Float[np.ndarray, "B V"]
Figures = Float[np.ndarray, " B"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Healthy and anomalous items per score value.

    Args:
        healthy_BV: How many healthy items have each value.
        anomalous_BV: How many anomalous items have it.

    Example:
        >>> ranking = Ranking(np.array([[1.0, 1, 0]]), np.array([[0.0, 0, 1]]))
        >>> ranking.average_precision(), ranking.auroc()
        (array([1.]), array([1.]))
    """

    healthy_BV: Counts
    anomalous_BV: Counts

    def average_precision(self) -> Figures:
        """AP = Σ_i (R_i − R_{i−1}) P_i from the highest value down; P precision, R recall.

        One row of whole counts gives `sklearn.metrics.average_precision_score` to the last bit: the same operations on
        the same numbers in the same order.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = self._true_positives / self._true_positives[:, :1]
            # Above the highest value that a resample drew nothing is predicted; precision does not matter there.
            precision = np.where(self._predicted > 0, self._true_positives / self._predicted, 0.0)
        steps = np.diff(np.concatenate([recall, np.zeros((len(recall), 1))], axis=1), axis=1)
        return self._where_both(np.maximum(0.0, -(steps * precision).sum(axis=1)))

    def auroc(self) -> Figures:
        """The chance that an anomalous item scores above a healthy one, ties counting half."""
        healthy_B, anomalous_B = self.healthy_BV.sum(axis=1), self.anomalous_BV.sum(axis=1)
        below = healthy_B[:, None] - self._false_positives + 0.5 * self.healthy_BV
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.einsum("bv,bv->b", self.anomalous_BV, below) / (healthy_B * anomalous_B)
        return self._where_both(share)

    def best_dice(self) -> Figures:
        """The highest Dice over all thresholds: an *oracle*, for it has seen the labels."""
        with np.errstate(invalid="ignore", divide="ignore"):
            dice = 2 * self._true_positives / (self._predicted + self._true_positives[:, :1])
        return np.where(self._true_positives[:, 0] > 0, dice.max(axis=1, initial=0.0), np.nan)

    def dice_where(self, predicted_V: Bool[np.ndarray, " V"]) -> Figures:
        """Dice = 2 TP / (predicted + anomalous) when exactly the items with the values `predicted_V` are predicted."""
        true_positives = self.anomalous_BV[:, predicted_V].sum(axis=1)
        anomalous = self.anomalous_BV.sum(axis=1)
        size = self.healthy_BV[:, predicted_V].sum(axis=1) + true_positives + anomalous
        with np.errstate(invalid="ignore", divide="ignore"):
            dice = 2 * true_positives / size
        return np.where(anomalous > 0, dice, np.nan)

    def fpr_at_tpr(self, tpr: float = 0.95) -> Figures:
        """The false-positive rate at the highest threshold that finds at least `tpr` of the anomalous items."""
        enough = self._true_positives >= tpr * self._true_positives[:, :1]
        highest = enough.shape[1] - 1 - np.argmax(enough[:, ::-1], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = self._false_positives[np.arange(len(highest)), highest] / self._false_positives[:, 0]
        return self._where_both(rate)

    @cached_property
    def _true_positives(self) -> Counts:
        return _sum_from(self.anomalous_BV)

    @cached_property
    def _false_positives(self) -> Counts:
        return _sum_from(self.healthy_BV)

    @cached_property
    def _predicted(self) -> Counts:
        return self._true_positives + self._false_positives

    def _where_both(self, figure_B: Figures) -> Figures:
        both = self.healthy_BV.any(axis=1) & self.anomalous_BV.any(axis=1)
        return np.where(both, figure_B, np.nan)


def _sum_from(counts_BV: Counts) -> Counts:
    """Σ_{j >= i} counts_j, per row."""
    return np.cumsum(counts_BV[:, ::-1], axis=1)[:, ::-1]

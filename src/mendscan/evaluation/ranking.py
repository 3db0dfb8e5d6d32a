"""Figures of ranked scores, for many weightings of the cases at once.

Every figure here needs two counts per score value, of healthy and of anomalous items (voxels or scans), with the values
ascending along the last axis `V`.  The first axis `B` holds weightings of the same cases: one row of ones is the plain
figure, many rows of how often a resample drew each case are its bootstrap.  Where a figure is undefined it is NaN.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["Counts", "Figures", "auroc", "average_precision", "best_dice", "dice_where", "fpr_at_tpr"]

Counts = Float[np.ndarray, "B V"]
Figures = Float[np.ndarray, " B"]


def average_precision(healthy_BV: Counts, anomalous_BV: Counts) -> Figures:
    """AP = Σ_i (R_i − R_{i−1}) P_i from the highest value down; P precision, R recall.

    One row of whole counts gives `sklearn.metrics.average_precision_score` to the last bit: the same operations on the
    same numbers in the same order.

    Example:
        >>> average_precision(np.array([[1.0, 1, 0]]), np.array([[0.0, 0, 1]]))
        array([1.])
    """
    true_positives, predicted = _sum_from(anomalous_BV), _sum_from(healthy_BV + anomalous_BV)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true_positives / true_positives[:, :1]
        # Above the highest value that a resample drew nothing is predicted; what precision is there does not matter.
        precision = np.where(predicted > 0, true_positives / predicted, 0.0)
    steps = np.diff(np.concatenate([recall, np.zeros((len(recall), 1))], axis=1), axis=1)
    return _where_both(np.maximum(0.0, -(steps * precision).sum(axis=1)), healthy_BV, anomalous_BV)


def auroc(healthy_BV: Counts, anomalous_BV: Counts) -> Figures:
    """The chance that an anomalous item scores above a healthy one, ties counting half."""
    below = np.cumsum(healthy_BV, axis=1) - 0.5 * healthy_BV
    won = (anomalous_BV * below).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = won / (healthy_BV.sum(axis=1) * anomalous_BV.sum(axis=1))
    return _where_both(share, healthy_BV, anomalous_BV)


def best_dice(healthy_BV: Counts, anomalous_BV: Counts) -> Figures:
    """The highest Dice over all thresholds: an *oracle*, for it has seen the labels."""
    true_positives, predicted = _sum_from(anomalous_BV), _sum_from(healthy_BV + anomalous_BV)
    with np.errstate(invalid="ignore", divide="ignore"):
        dice = 2 * true_positives / (predicted + true_positives[:, :1])
    return np.where(true_positives[:, 0] > 0, dice.max(axis=1, initial=0.0), np.nan)


def dice_where(healthy_BV: Counts, anomalous_BV: Counts, predicted_V: Bool[np.ndarray, " V"]) -> Figures:
    """Dice = 2 TP / (predicted + anomalous) when exactly the items with the values `predicted_V` are predicted."""
    true_positives = anomalous_BV[:, predicted_V].sum(axis=1)
    size = healthy_BV[:, predicted_V].sum(axis=1) + true_positives + anomalous_BV.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        dice = 2 * true_positives / size
    return np.where(anomalous_BV.sum(axis=1) > 0, dice, np.nan)


def fpr_at_tpr(healthy_BV: Counts, anomalous_BV: Counts, *, tpr: float = 0.95) -> Figures:
    """The false-positive rate at the highest threshold that finds at least `tpr` of the anomalous items."""
    true_positives, false_positives = _sum_from(anomalous_BV), _sum_from(healthy_BV)
    enough = true_positives >= tpr * true_positives[:, :1]
    highest = enough.shape[1] - 1 - np.argmax(enough[:, ::-1], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = false_positives[np.arange(len(highest)), highest] / false_positives[:, 0]
    return _where_both(rate, healthy_BV, anomalous_BV)


def _sum_from(counts_BV: Counts) -> Counts:
    """Σ_{j >= i} counts_j, per row."""
    return np.cumsum(counts_BV[:, ::-1], axis=1)[:, ::-1]


def _where_both(figure_B: Figures, healthy_BV: Counts, anomalous_BV: Counts) -> Figures:
    both = (healthy_BV.sum(axis=1) > 0) & (anomalous_BV.sum(axis=1) > 0)
    return np.where(both, figure_B, np.nan)

"""How are millions of voxel scores ranked exactly, in kilobytes?

The challenge (MOOD) pools every voxel of every case into one average precision, of scores clipped to [0, 1] and
rounded to float16.  float16 has 15 361 values in [0, 1], and its non-negative bit patterns, read as integers, are in
the order of the values.  Two integer histograms over these patterns, one of healthy and one of anomalous voxels,
therefore hold everything that a rank-based figure needs: nothing is binned away, and nothing is sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64, Shaped

__all__ = ["ScoreHistogram"]

N_VALUES = 0x3C00 + 1
"""float16 values in [0, 1]: the bit patterns from 0x0000 (0.0) to 0x3C00 (1.0)."""
_WITHOUT_SIGN = np.uint16(0x7FFF)
_CHUNK_VOXELS = 1 << 17


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """The scores of labelled voxels, counted per float16 value in [0, 1].

    Histograms of several cases add up to the histogram of their pooled voxels, in any order and on any machine.
    Figures that the voxels leave undefined are None, never NaN.

    Args:
        negatives: Healthy voxels per value; index = the value's float16 bit pattern.
        positives: Anomalous voxels per value.

    Example:
        >>> scores = np.array([0.0, 0.1, 0.4, 0.9])
        >>> first = ScoreHistogram.of(scores, np.array([False, False, True, True]))
        >>> second = ScoreHistogram.of(scores, np.array([False, False, True, False]))
        >>> first.average_precision, second.average_precision
        (1.0, 0.5)
        >>> (first + second).n_voxels
        8
    """

    negatives: Int64[np.ndarray, " 15361"]
    positives: Int64[np.ndarray, " 15361"]

    def __post_init__(self) -> None:
        # Figures are cached, so the counts must stay as they are.
        for counts in (self.negatives, self.positives):
            counts.setflags(write=False)

    @classmethod
    def empty(cls) -> ScoreHistogram:
        """The histogram of no voxel: the neutral element of `+`."""
        return cls(np.zeros(N_VALUES, np.int64), np.zeros(N_VALUES, np.int64))

    @classmethod
    def of(cls, values: Float[np.ndarray, "..."], labels: Shaped[np.ndarray, "..."]) -> ScoreHistogram:
        """Count the scores of healthy and of anomalous voxels, as the challenge rounds them.

        Args:
            values: Scores, higher = more anomalous; clipped to [0, 1], then rounded to float16.
            labels: Truth of the same shape; above 0 = anomalous.

        Returns:
            The histogram.  Beyond it, memory use is about two megabytes whatever the size and the memory layout.

        Raises:
            ValueError: If the shapes differ or a score is NaN.
        """
        if values.shape != labels.shape:
            raise ValueError(f"scores have shape {values.shape}, labels {labels.shape}; they must be the same")
        counts = np.zeros(2 * N_VALUES, np.int64)
        # nditer walks both arrays in their memory order: a Fortran-ordered scan is never copied.
        with np.nditer(
            [values, labels], flags=["external_loop", "buffered", "zerosize_ok"], buffersize=_CHUNK_VOXELS
        ) as chunks:
            for values_chunk, labels_chunk in chunks:
                patterns = _bit_patterns(values_chunk).astype(np.intp)
                patterns += N_VALUES * (labels_chunk > 0)
                counts += np.bincount(patterns, minlength=2 * N_VALUES)
        return cls(counts[:N_VALUES].copy(), counts[N_VALUES:].copy())

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        """The histogram of both histograms' voxels together."""
        if not isinstance(other, ScoreHistogram):
            return NotImplemented
        return ScoreHistogram(self.negatives + other.negatives, self.positives + other.positives)

    @property
    def n_voxels(self) -> int:
        """All voxels counted."""
        return self.n_positives + self.n_negatives

    @cached_property
    def n_positives(self) -> int:
        """Anomalous voxels."""
        return int(self.positives.sum())

    @cached_property
    def n_negatives(self) -> int:
        """Healthy voxels."""
        return int(self.negatives.sum())

    @property
    def prevalence(self) -> float | None:
        """The share of anomalous voxels: the average precision of chance.  None without voxels."""
        return self.n_positives / self.n_voxels if self.n_voxels else None

    @cached_property
    def average_precision(self) -> float | None:
        """AP = Σ_i (R_i − R_{i−1}) P_i over the distinct scores, from the highest down; P precision, R recall.

        Equal to `sklearn.metrics.average_precision_score` on the pooled float16 scores to the last bit: the same
        operations on the same numbers in the same order.  None unless both healthy and anomalous voxels were counted.
        """
        if not self._has_both:
            return None
        true_positives, predicted = self._cuts
        recall = np.append(true_positives / true_positives[0], 0.0)
        precision = true_positives / predicted
        return float(max(0.0, -np.sum(np.diff(recall) * precision)))

    @cached_property
    def auroc(self) -> float | None:
        """The chance that an anomalous voxel scores above a healthy one, ties counting half.

        Computed in integers of any size, rounded once.  None unless both healthy and anomalous voxels were counted.
        """
        if not self._has_both:
            return None
        positives, negatives = self.positives[self._populated], self.negatives[self._populated]
        # Twice the healthy voxels below: a tie counts half, and 10^9 x 10^10 pairs would overflow int64.
        twice_below = 2 * np.cumsum(negatives) - negatives
        twice_won = int(np.dot(positives.astype(object), twice_below.astype(object)))
        return twice_won / (2 * self.n_positives * self.n_negatives)

    @cached_property
    def best_dice(self) -> tuple[float | None, float | None]:
        """The highest Dice over all thresholds, and its threshold: an *oracle*, for it has seen the labels.

        The threshold is the largest that attains it, for `score > threshold`; slightly negative if every voxel is
        predicted.  Always print it beside `dice_at` the threshold learnt from healthy scans.
        (None, None) without anomalous voxels.
        """
        if not self.n_positives:
            return None, None
        true_positives, predicted = self._cuts
        dice = 2 * true_positives / (predicted + self.n_positives)
        best = dice.size - 1 - int(np.argmax(dice[::-1]))
        lowest_predicted = np.flatnonzero(self._populated)[best].astype(np.uint16).view(np.float16)
        return float(dice[best]), float(np.nextafter(lowest_predicted, np.float16(-1)))

    def dice_at(self, threshold: float) -> float | None:
        """Dice = 2 TP / (predicted + anomalous) when the voxels with `score > threshold` are predicted.

        Args:
            threshold: Compared, strictly, with the scores as rounded to float16.

        Returns:
            The Dice coefficient in [0, 1]; None without anomalous voxels, whatever was predicted.

        Raises:
            ValueError: If the threshold is NaN.

        Example:
            >>> histogram = ScoreHistogram.of(np.array([0.2, 0.5, 0.7]), np.array([0, 1, 1]))
            >>> histogram.dice_at(0.1), histogram.dice_at(0.5)
            (0.8, 0.6666666666666666)
        """
        if np.isnan(threshold):
            raise ValueError("the threshold is NaN; it must be a number")
        if not self.n_positives:
            return None
        above = _float16_values() > threshold
        true_positives = int(self.positives[above].sum())
        predicted = true_positives + int(self.negatives[above].sum())
        return 2 * true_positives / (predicted + self.n_positives)

    @property
    def _has_both(self) -> bool:
        return self.n_positives > 0 and self.n_negatives > 0

    @cached_property
    def _populated(self) -> Bool[np.ndarray, " 15361"]:
        return (self.positives + self.negatives) > 0

    @cached_property
    def _cuts(self) -> tuple[Int[np.ndarray, " cuts"], Int[np.ndarray, " cuts"]]:
        """True positives and predicted voxels if a score at or above v is predicted, per occurring v, ascending."""
        positives = self.positives[self._populated]
        everyone = positives + self.negatives[self._populated]
        return _sum_from(positives), _sum_from(everyone)


def _bit_patterns(values: Float[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Clip to [0, 1], round to float16 and read the bits as integers, which keep the order of the values."""
    patterns = np.clip(values, 0, 1).astype(np.float16).view(np.uint16)
    patterns &= _WITHOUT_SIGN  # -0.0 is 0.0
    if patterns.size and patterns.max() >= N_VALUES:
        raise ValueError("a score is NaN; every score must be a number")
    return patterns


def _float16_values() -> Float64[np.ndarray, " 15361"]:
    """Every float16 value in [0, 1], ascending."""
    return np.arange(N_VALUES, dtype=np.uint16).view(np.float16).astype(np.float64)


def _sum_from(counts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Σ_{j >= i} counts_j, per i."""
    return np.cumsum(counts[::-1])[::-1]

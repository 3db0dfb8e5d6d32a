"""How are millions of voxel scores ranked exactly, in kilobytes?

The challenge (MOOD) pools every voxel of every case into one average precision, of scores clipped to [0, 1] and
rounded to float16.  float16 has 15 361 values in [0, 1], and its non-negative bit patterns, read as integers, are in
the order of the values.  Two integer histograms over these patterns, one of healthy and one of anomalous voxels,
therefore hold everything that a rank-based figure needs: nothing is binned away, and nothing is sorted.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped

from mendscan.errors import ResultsError
from mendscan.evaluation.ranking import Figures, Ranking
from mendscan.evaluation.sparse import N_VALUES, bit_patterns
from mendscan.volumes.writing import write_bytes

__all__ = ["ScoreHistogram"]

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
                patterns = bit_patterns(values_chunk).astype(np.intp)
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
        return _defined(self._ranking.average_precision())

    @cached_property
    def auroc(self) -> float | None:
        """The chance that an anomalous voxel scores above a healthy one, ties counting half.

        None unless both healthy and anomalous voxels were counted.
        """
        return _defined(self._ranking.auroc())

    @cached_property
    def best_dice(self) -> tuple[float | None, float | None]:
        """The highest Dice over all thresholds, and its threshold: an *oracle*, for it has seen the labels.

        The threshold is the largest that attains it, for `score > threshold`; slightly negative if every voxel is
        predicted.  Always print it beside `dice_at` the threshold learnt from healthy scans.
        (None, None) without anomalous voxels.
        """
        if not self.n_positives:
            return None, None
        negatives, positives = self._ranking.healthy_BV[0], self._ranking.anomalous_BV[0]
        predicted = np.cumsum((negatives + positives)[::-1])[::-1]
        dice = 2 * np.cumsum(positives[::-1])[::-1] / (predicted + self.n_positives)
        best = dice.size - 1 - int(np.argmax(dice[::-1]))
        lowest_predicted = self._values[best].astype(np.float16)
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
        return _defined(self._ranking.dice_where(self._values > threshold))

    def save(self, path: str | Path) -> None:
        """Write the counts to a ``.npz`` file, to be added to others elsewhere.

        Raises:
            WriteError: If it cannot be written.
        """
        data = BytesIO()
        np.savez_compressed(data, negatives=self.negatives, positives=self.positives)
        write_bytes(path, data.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> ScoreHistogram:
        """Read what `save` wrote.

        Raises:
            ResultsError: If the file is missing, or is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as saved:
                negatives, positives = saved["negatives"], saved["positives"]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise _no_histogram(path, error) from None
        shape, kind = (N_VALUES,), np.int64
        if not all(each.shape == shape and each.dtype == kind and each.min() >= 0 for each in (negatives, positives)):
            raise _no_histogram(path, f"{negatives.dtype} {negatives.shape} and {positives.dtype} {positives.shape}")
        return cls(negatives, positives)

    @cached_property
    def _ranking(self) -> Ranking:
        """Of the scores that occur."""
        occurs = (self.positives + self.negatives) > 0
        return Ranking(self.negatives[None, occurs].astype(np.float64), self.positives[None, occurs].astype(np.float64))

    @cached_property
    def _values(self) -> Float64[np.ndarray, " V"]:
        """The scores that occur, ascending."""
        patterns = np.flatnonzero(self.positives + self.negatives).astype(np.uint16)
        return patterns.view(np.float16).astype(np.float64)


def _defined(figure: Figures) -> float | None:
    return None if np.isnan(figure[0]) else float(figure[0])


def _no_histogram(path: str | Path, found: object) -> ResultsError:
    return ResultsError("not a score histogram", where=path, found=found, expected="a file that `evaluate` wrote")

"""One score and one p-value per scan, from parts that see different things.

=============  ====================================================================================================
part           its value, higher = more anomalous
=============  ====================================================================================================
``local``      mean of the highest voxels of the combined evidence, in nats: something is in the scan
``acquisition``  distance of whole-scan statistics from the training scans': the scan was taken in another way
=============  ====================================================================================================

The logarithm of each value is expressed in healthy standard deviations above the healthy median; the score is the
largest of them.  The p-value is conformal on *that* score, not made of the parts' p-values: with n calibration scans
none of these is below 1 / (n + 1), and any rule that pays for taking the smallest of several could never say 0.05.  For
the calibration scans the median and spread are those of the *other* scans, as for a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from mendscan.detection.conformal import conformal_p_value

__all__ = ["ScanCalibration", "ScanScore", "top_mean"]

_SMALLEST = 1e-3
"""Values below it are as healthy as can be; their logarithm means nothing."""
_SPREAD_FLOOR = 0.02
"""Smallest standard deviation of a logarithm: healthy scans that agree within 2 % agree by chance."""


@dataclass(frozen=True)
class ScanScore:
    """What is said of one scan.

    Attributes:
        score: The largest of the parts, in healthy standard deviations above the healthy median; higher = more
            anomalous.
        p_value: How rarely a healthy scan scores as high.
        parts: Each part in the same unit.
        part_p_values: The conformal p-value of each part alone.
        strangest: The whole-scan statistic that departs most, in words.
        statistics: Each whole-scan statistic in healthy standard deviations, by its name.
    """

    score: float
    p_value: float
    parts: Mapping[str, float]
    part_p_values: Mapping[str, float]
    strangest: str = ""
    statistics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanCalibration:
    """How the parts are in held-out healthy scans.

    Attributes:
        parts: Values of each part in the calibration scans, ascending, so that no scan can be told from its place.
        healthy_scores: Their scores, each against the others, ascending.
    """

    parts: Mapping[str, tuple[float, ...]]
    healthy_scores: tuple[float, ...]

    @classmethod
    def fit(cls, values: Mapping[str, Sequence[float]]) -> ScanCalibration:
        """Learn from the values of each part, one per calibration scan, in the same order for all parts."""
        left_out = np.stack([_against_others(np.array(part)) for part in values.values()])
        scores = sorted(left_out.max(axis=0).tolist())
        return cls({name: tuple(sorted(map(float, part))) for name, part in values.items()}, tuple(scores))

    def score(self, values: Mapping[str, float]) -> ScanScore:
        """Return the score of a scan from its parts."""
        parts = {name: _standardised(values[name], np.array(part)) for name, part in self.parts.items()}
        return ScanScore(
            score=max(parts.values()),
            p_value=conformal_p_value(max(parts.values()), self.healthy_scores),
            parts=parts,
            part_p_values={name: conformal_p_value(values[name], part) for name, part in self.parts.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "parts": {name: list(part) for name, part in self.parts.items()},
            "healthy_scores": list(self.healthy_scores),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScanCalibration:
        """Rebuild what `to_json` returned."""
        parts = {name: tuple(part) for name, part in values["parts"].items()}
        return cls(parts, tuple(values["healthy_scores"]))


def top_mean(values: Float[np.ndarray, " n"], share: float) -> float:
    """Return the mean of the highest `share` of some values, of one at least; 0 if there is none.

    Example:
        >>> top_mean(np.array([1.0, 5.0, 3.0, 2.0]), 0.5)
        4.0
    """
    if values.size == 0:
        return 0.0
    count = max(1, round(share * values.size))
    return float(np.partition(values, values.size - count)[-count:].mean(dtype=np.float64))


def _standardised(value: float, healthy: Float64[np.ndarray, " n"]) -> float:
    logs = np.log(np.maximum(healthy, _SMALLEST))
    spread = max(float(logs.std(ddof=1)) if len(logs) > 1 else 0.0, _SPREAD_FLOOR)
    return float((np.log(max(value, _SMALLEST)) - np.median(logs)) / spread)


def _against_others(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return each value standardised by all the others; with two, one has no spread, and both count."""
    if len(values) < 3:
        return np.array([_standardised(float(value), values) for value in values])
    return np.array([_standardised(float(value), np.delete(values, index)) for index, value in enumerate(values)])

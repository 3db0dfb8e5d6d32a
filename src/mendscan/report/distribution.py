"""Where the marks of the cohort's chart go: its scores above those of the healthy calibration scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mendscan.report.charts import Axis
from mendscan.report.content import CaseFacts, CohortFacts

__all__ = ["Distribution", "distribution"]

_ABRIDGED_BEYOND = 12.0
"""A cohort that reaches this many times the healthy range beyond it is drawn on a compressed axis."""
_TALLEST_STACK = 120.0


@dataclass(frozen=True)
class Distribution:
    """Scores of the cohort above those of the healthy calibration scans.

    Attributes:
        axis: Of the scores.
        width: Of the chart.
        height: Of the chart.
        base: Where the cohort's dots stand and the healthy bars hang.
        healthy: Place of each healthy score.
        bars: Left, width and height of each bar of the healthy histogram.
        dots: Left, height and facts of each scan.
        threshold: Place of the score above which scans are flagged; None if there is none.
        radius: Of the dots.
    """

    axis: Axis
    width: float
    height: float
    base: float
    healthy: tuple[float, ...]
    bars: tuple[tuple[float, float, float], ...]
    dots: tuple[tuple[float, float, CaseFacts], ...]
    threshold: float | None
    radius: float


def distribution(cohort: CohortFacts, *, width: float = 1100.0) -> Distribution:
    """Lay out the scores of the cohort and of the healthy calibration scans."""
    healthy = np.sort(np.array(cohort.healthy_scores, dtype=np.float64))
    scored = [(facts.case.score or 0.0, facts) for facts in cohort.scored]
    threshold = cohort.score_threshold
    axis = _score_axis(healthy, [score for score, _ in scored], 16.0, width - 16.0)
    places = tuple(axis(score) for score in healthy)
    counts, edges = np.histogram(places, bins=int(np.clip(2 * math.sqrt(len(healthy)), 6, 40)))
    tallest = 34.0 / max(1, int(counts.max(initial=0)))
    bars = tuple(
        (round(left, 2), round(right - left, 2), round(count * tallest, 2))
        for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if count
    )
    stacks, radius = _stacked([(axis(score), facts) for score, facts in scored], _TALLEST_STACK)
    base = 30.0 + max((up for _, up, _ in stacks), default=0.0)
    dots = tuple((place, round(base - up, 2), facts) for place, up, facts in stacks)
    mark = None if threshold is None else axis(threshold)
    return Distribution(axis, width, base + 72.0, base, places, bars, dots, mark, radius)


def _score_axis(healthy: Float[np.ndarray, " n"], scores: Sequence[float], left: float, right: float) -> Axis:
    every = [*healthy.tolist(), *scores] or [0.0, 1.0]
    low, high = min(every), max(every)
    reach = max((abs(score) for score in healthy.tolist()), default=high) or 1.0
    if max(high, -low) > _ABRIDGED_BEYOND * reach:
        margin = 0.2 * reach
        return Axis(low - max(margin, -0.2 * low), high + max(margin, 0.2 * high), left, right, 3 * reach)
    margin = 0.03 * (high - low) or 1.0
    return Axis(low - margin, high + margin, left, right)


def _stacked(
    places: Sequence[tuple[float, CaseFacts]], room: float
) -> tuple[tuple[tuple[float, float, CaseFacts], ...], float]:
    """Return how high each dot stands: above those it would lie over, and smaller if they would not fit."""
    for size in (10.0, 7.0, 5.0, 3.0):
        columns: dict[int, int] = {}
        dots = []
        for place, facts in places:
            column = round(place / size)
            columns[column] = columns.get(column, 0) + 1
            dots.append((place, round(size * (columns[column] - 0.35), 2), facts))
        if max(columns.values(), default=0) * size <= room:
            break
    return tuple(dots), round(0.46 * size, 2)

"""Where the marks of a scan's charts go; the templates draw them.

Each chart is drawn in a plane of `width` by `height` units, the origin at the upper left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mendscan.report.content import CaseFacts
from mendscan.report.layers import colour_bar, encode_colours
from mendscan.report.pictures import CasePictures
from mendscan.report.planes import PLANES
from mendscan.results import CodeNLL, Details

__all__ = [
    "Axis",
    "Bars",
    "CodeGrid",
    "Profile",
    "code_grid",
    "profile",
    "statistics_bars",
]

_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """A horizontal axis.

    Attributes:
        low: Value at its left end.
        high: Value at its right end.
        left: Place of its left end.
        right: Place of its right end.
        linear_to: Beyond this value on either side it is logarithmic; infinite if it is linear everywhere.
    """

    low: float
    high: float
    left: float
    right: float
    linear_to: float = math.inf

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high, at = (self._scaled(each) for each in (self.low, self.high, value))
        return round(self.left + (self.right - self.left) * (at - low) / (high - low), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the place of each tick and what is written there."""
        values = _round_values(self.low, min(self.high, self.linear_to))
        if math.isfinite(self.linear_to):
            powers = (10.0**power for power in range(-3, 39))
            values += [power for power in powers if self.linear_to * 2 < power <= self.high]
        return [
            (self(value), (f"{value:,.10g}" if abs(value) < 1e6 else f"{value:.0e}").replace("-", "−"))
            for value in values
        ]

    def _scaled(self, value: float) -> float:
        if not math.isfinite(self.linear_to):
            return value
        beyond = max(0.0, abs(value) - self.linear_to)
        within = max(-self.linear_to, min(self.linear_to, value))
        return within + math.copysign(self.linear_to * math.log1p(beyond / self.linear_to), value)


@dataclass(frozen=True)
class Profile:
    """Scores along the slices of a scan.

    Attributes:
        plane: What the slices are: axial, coronal or sagittal.
        scores: The line of the paper's scores, as SVG points.
        highest: The largest of them, in nats.
        map: The line of the map's highest voxel in each slice, as SVG points; empty if there is no map.
        marks: Place and label of the slices that are shown.
        worst: Place of the slice with the largest score.
    """

    plane: str
    scores: str
    highest: float
    map: str
    marks: tuple[tuple[float, str], ...]
    worst: float


@dataclass(frozen=True)
class Bars:
    """The whole-scan statistics that depart most.

    Attributes:
        zero: Where the bars begin.
        usual: Left and width of what is within two healthy standard deviations.
        rows: Name, value in healthy standard deviations, and where its bar ends.
    """

    zero: float
    usual: tuple[float, float]
    rows: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class CodeGrid:
    """The codes of the worst slice over the scan.

    Attributes:
        picture: A PNG of one pixel for each code.
        bar: Its colours from 0 to the highest, as a PNG.
        box_mm: Left, top, width and height of the codes over the picture of the slice.
        unlikely: The squares of the codes at or above the threshold, as an SVG path.
        count: How many these are.
        codes: How many codes there are.
        threshold_nats: From which NLL a code is unlikely.
        highest_nats: The NLL shown in the highest colour.
        level: The threshold on the colour bar, from 0 to 1.
        score: The score of the slice.
    """

    picture: bytes
    bar: bytes
    box_mm: tuple[float, float, float, float]
    unlikely: str
    count: int
    codes: int
    threshold_nats: float
    highest_nats: float
    level: float
    score: float


def profile(
    details: Details, pictures: CasePictures, *, left: float = 34.0, right: float = 400.0, height: float = 56.0
) -> Profile | None:
    """Lay out the scores of the slices, and mark those that are shown; None if fewer than two were scored."""
    positions, scores = details.positions, details.slice_scores
    if len(positions) < 2 or float(np.ptp(positions)) <= 0:
        return None
    count = len(pictures.map_of_slices)
    low, high = min(0.0, float(positions.min())), max(count - 1.0, float(positions.max()))
    axis = Axis(low, high, left, right)
    highest = float(scores.max())
    cut = "XYZ".index(details.slice_axis)
    marks = tuple(
        (axis(float(shown.view.index_XYZ[cut])), str(shown.view.finding) if shown.view.finding else "max")
        for shown in pictures.views
    )
    return Profile(
        plane=PLANES[details.slice_axis][0] if pictures.oriented else "",
        scores=_points(axis, positions, scores / (highest or 1.0), height),
        highest=highest,
        map=_points(axis, np.arange(count), np.array(pictures.map_of_slices), height),
        marks=marks,
        worst=axis(float(positions[int(np.argmax(scores))])),
    )


def statistics_bars(facts: CaseFacts, *, left: float = 0.0, right: float = 160.0) -> Bars | None:
    """Lay out the whole-scan statistics that depart most; None if there are none."""
    if not facts.statistics:
        return None
    reach = max(3.0, *(abs(value) for _, value in facts.statistics))
    axis = Axis(-reach, reach, left, right)
    usual = (axis(-2.0), axis(2.0) - axis(-2.0))
    return Bars(axis(0.0), usual, tuple((name, value, axis(value)) for name, value in facts.statistics))


def code_grid(details: Details, pictures: CasePictures) -> CodeGrid | None:
    """Lay the codes of the slice with the largest score over the scan; None if they were not kept or not pictured."""
    nll, plane = details.code_nll, pictures.worst_slice
    if nll is None or plane is None:
        return None
    worst = int(np.argmax(details.slice_scores))
    nats = nll.nats_Sab[worst].T
    highest = max(float(nats.max()), nll.threshold * 1.25, 1e-6)
    unlikely = nats >= nll.threshold
    box_mm = _extent_mm(nll, plane.axis, pictures, plane.height_mm)
    return CodeGrid(
        picture=encode_colours(nats / highest, nll.threshold / highest),
        bar=colour_bar(nll.threshold / highest),
        box_mm=box_mm,
        unlikely=_squares(unlikely, box_mm),
        count=int(unlikely.sum()),
        codes=int(unlikely.size),
        threshold_nats=nll.threshold,
        highest_nats=highest,
        level=nll.threshold / highest,
        score=float(details.slice_scores[worst]),
    )


def _points(axis: Axis, at: Float[np.ndarray, " n"] | np.ndarray, heights: np.ndarray, height: float) -> str:
    return " ".join(
        f"{axis(float(x)):.4g},{height * (1 - float(np.clip(y, 0, 1))):.4g}" for x, y in zip(at, heights, strict=True)
    )


def _round_values(low: float, high: float) -> list[float]:
    span = high - low
    step = 10.0 ** math.floor(math.log10(span / _TICKS))
    step *= next((factor for factor in (1, 2, 5) if span / (step * factor) <= _TICKS), 10)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _extent_mm(nll: CodeNLL, axis: int, pictures: CasePictures, height_mm: float) -> tuple[float, float, float, float]:
    horizontal, vertical = (other for other in range(3) if other != axis)
    across, up = pictures.spacing_mm[horizontal], pictures.spacing_mm[vertical]
    (left, right), (bottom, top) = nll.extent
    return (left + 0.5) * across, height_mm - (top + 0.5) * up, (right - left) * across, (top - bottom) * up


def _squares(chosen: np.ndarray, box_mm: tuple[float, float, float, float]) -> str:
    left, top, width, height = box_mm
    rows, columns = chosen.shape
    across, up = width / columns, height / rows
    return "".join(
        f"M{left + column * across:.4g} {top + (rows - 1 - row) * up:.4g}h{across:.4g}v{up:.4g}h{-across:.4g}z"
        for row, column in np.argwhere(chosen).tolist()
    )

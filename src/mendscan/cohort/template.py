"""The picture that a cohort's overviews have in common, and how a scan fits it: as it lies, turned, inverted, cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from mendscan.cohort.overview import ORIENTATIONS, Overview, Picture

__all__ = ["SIDES", "Fit", "Template"]

SIDES = ("left", "right", "back", "front", "bottom", "top")
"""The two ends of each axis of RAS+."""

_COMMON = 0.5
"""A cell belongs to the template if at least this share of the scans covers it."""
_LARGEST_FISHER_Z = 3.0
_FAR_LARGER = 3
"""Times as long."""


@dataclass(frozen=True, eq=False)
class Fit:
    """How a scan fits the template.

    Attributes:
        agreement: Fisher's transform of the correlation, as the scan lies.
        inverted: The same of the scan with bright and dark exchanged.
        gain: How much higher it is with the axes read as each of `ORIENTATIONS`.
        missing: What share of the anatomy lies beyond each of the six `SIDES` of the scan.
    """

    agreement: float
    inverted: float
    gain: Float64[np.ndarray, " 48"]
    missing: Float64[np.ndarray, " 6"]


@dataclass(frozen=True, eq=False)
class Template:
    """The mean of a cohort's overviews, each where it fits best.

    Attributes:
        values_XYZ: Mean intensity of every cell, each scan standardised; 0 where no scan is.
        share_XYZ: Share of the scans that cover it.
        foreground_XYZ: Share of the scans that show something there.
    """

    values_XYZ: Float32[np.ndarray, "X Y Z"]
    share_XYZ: Float32[np.ndarray, "X Y Z"]
    foreground_XYZ: Float32[np.ndarray, "X Y Z"]

    @classmethod
    def learn(cls, overviews: Sequence[Overview]) -> tuple[Template, list[Fit]]:
        """Lay the overviews of a cohort over each other, and tell how each fits the others.

        They are laid middle on middle first, then each where it fits the mean of all best.

        Args:
            overviews: Of at least two scans.

        Returns:
            The template, and how each scan fits the template of all the others.
        """
        frame = tuple(int(n) for n in np.max([each.values_XYZ.shape for each in overviews], axis=0))
        first = sum((_Pile.of(each, _middle(each, frame), frame) for each in overviews), _Pile.empty(frame))
        picture = first.template().picture
        own = [_Pile.of(each, picture.best_match(each).shift, frame) for each in overviews]
        pile = sum(own, _Pile.empty(frame))
        fits = [(pile - part).template().fit(each) for each, part in zip(overviews, own, strict=True)]
        return pile.template(), fits

    @property
    def covered_XYZ(self) -> Bool[np.ndarray, "X Y Z"]:
        """Which cells say something of most scans."""
        return self.share_XYZ >= _COMMON

    @property
    def picture(self) -> Picture:
        """What scans are laid on."""
        return Picture(self.values_XYZ, self.covered_XYZ)

    def is_dwarfed_by(self, scan: Overview) -> bool:
        """Return whether a scan is so much larger that fitting it would take minutes, and say no more than its size."""
        sides = zip(sorted(scan.values_XYZ.shape), sorted(self.values_XYZ.shape), strict=True)
        return any(side > _FAR_LARGER * own for side, own in sides)

    def fit(self, scan: Overview) -> Fit:
        """Return how a scan fits the template."""
        picture = self.picture
        match = picture.best_match(scan)
        own = _fisher_z(match.agreement)
        gain = np.array([_fisher_z(picture.best_match(scan.turned(way)).agreement) - own for way in ORIENTATIONS])
        return Fit(own, _fisher_z(-match.lowest), gain, self._missing(scan, match.shift))

    def _missing(self, scan: Overview, shift: tuple[int, int, int]) -> Float64[np.ndarray, " 6"]:
        """Return what share of the anatomy's cells lies beyond each side of the scan."""
        anatomy_XYZ = self.foreground_XYZ >= _COMMON
        shares = []
        for axis, (start, length) in enumerate(zip(shift, scan.values_XYZ.shape, strict=True)):
            profile = anatomy_XYZ.sum(axis=tuple(other for other in range(3) if other != axis))
            whole = max(1, int(profile.sum()))
            shares += [profile[: max(0, start)].sum() / whole, profile[max(0, start + length) :].sum() / whole]
        return np.array(shares, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Pile:
    """Scans laid over each other, summed up."""

    values_XYZ: Float64[np.ndarray, "X Y Z"]
    covered_XYZ: Float64[np.ndarray, "X Y Z"]
    foreground_XYZ: Float64[np.ndarray, "X Y Z"]
    scans: int

    @classmethod
    def empty(cls, frame: tuple[int, ...]) -> _Pile:
        return cls(np.zeros(frame), np.zeros(frame), np.zeros(frame), 0)

    @classmethod
    def of(cls, scan: Overview, shift: tuple[int, int, int], frame: tuple[int, ...]) -> _Pile:
        """Return a pile of one scan."""
        pile = cls.empty(frame)
        to, of = _common(scan.values_XYZ.shape, shift, frame)
        pile.values_XYZ[to] = np.where(scan.covered_XYZ, _standardised(scan), 0)[of]
        pile.covered_XYZ[to] = scan.covered_XYZ[of]
        pile.foreground_XYZ[to] = scan.foreground_XYZ[of]
        return replace(pile, scans=1)

    def __add__(self, other: _Pile) -> _Pile:
        return self._with(other, 1)

    def __sub__(self, other: _Pile) -> _Pile:
        return self._with(other, -1)

    def _with(self, other: _Pile, sign: int) -> _Pile:
        return _Pile(
            self.values_XYZ + sign * other.values_XYZ,
            self.covered_XYZ + sign * other.covered_XYZ,
            self.foreground_XYZ + sign * other.foreground_XYZ,
            self.scans + sign * other.scans,
        )

    def template(self) -> Template:
        mean = self.values_XYZ / np.maximum(self.covered_XYZ, 1)
        shares = (self.covered_XYZ / self.scans, self.foreground_XYZ / self.scans)
        return Template(*(part.astype(np.float32) for part in (mean, *shares)))


def _standardised(scan: Overview) -> Float[np.ndarray, "X Y Z"]:
    inside = scan.values_XYZ[scan.covered_XYZ]
    return (scan.values_XYZ - inside.mean(dtype=np.float64)) / (inside.std(dtype=np.float64) or 1.0)


def _middle(scan: Overview, frame: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = ((whole - own) // 2 for whole, own in zip(frame, scan.values_XYZ.shape, strict=True))
    return x, y, z


def _common(
    own: Sequence[int], shift: Sequence[int], frame: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the cells that a shifted overview and the frame have in common, in the frame and in the overview."""
    starts = [max(0, at) for at in shift]
    ends = [max(start, min(n, at + length)) for start, n, at, length in zip(starts, frame, shift, own, strict=True)]
    inside = tuple(slice(a, b) for a, b in zip(starts, ends, strict=True))
    return inside, tuple(slice(a - at, b - at) for a, b, at in zip(starts, ends, shift, strict=True))


def _fisher_z(correlation: float) -> float:
    """Return Fisher's transform, whose spread is even over its range."""
    return float(np.clip(np.arctanh(np.clip(correlation, -0.9999, 0.9999)), -_LARGEST_FISHER_Z, _LARGEST_FISHER_Z))

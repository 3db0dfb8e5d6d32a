"""Strata of anomalies, size and contrast, and how kinds are dealt so that every stratum gets its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

__all__ = [
    "CONTRASTS",
    "FAINT_BELOW",
    "PLAIN_FROM",
    "SIZES",
    "Contrast",
    "Size",
    "contrast_of",
    "deal",
    "severity_of",
    "size_of",
    "third_of",
]

Size = Literal["small", "medium", "large"]
Contrast = Literal["faint", "medium", "plain"]
Stratum = TypeVar("Stratum", Size, Contrast)
SIZES: tuple[Size, ...] = get_args(Size)
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)

FAINT_BELOW = 0.5
"""A local anomaly is faint if its root mean square change is below this, in robust spreads of the foreground."""
PLAIN_FROM = 1.0
"""A local anomaly is plain if its root mean square change is at least this."""


def size_of(radius_mm: float, range_mm: tuple[float, float]) -> Size:
    """Say in which third of the range a radius lies; medium if the range is one value.

    Example:
        >>> size_of(3.2, (3.0, 6.0)), size_of(6.0, (3.0, 6.0)), size_of(5.0, (5.0, 5.0))
        ('small', 'large', 'medium')
    """
    smallest, largest = range_mm
    if not largest > smallest:
        return "medium"
    return SIZES[int(np.clip(3.0 * (radius_mm - smallest) / (largest - smallest), 0, 2))]


def third_of(size: Size, range_mm: tuple[float, float]) -> tuple[float, float]:
    """Return the radii of one size.

    Example:
        >>> third_of("medium", (3.0, 6.0))
        (4.0, 5.0)
    """
    k = SIZES.index(size)
    width = (range_mm[1] - range_mm[0]) / 3.0
    return range_mm[0] + k * width, range_mm[0] + (k + 1) * width


def contrast_of(strength: float) -> Contrast:
    """Say how plain a local anomaly is: faint below 0.5 robust spreads of change, plain from 1.0 on.

    Example:
        >>> contrast_of(0.3), contrast_of(0.5), contrast_of(1.0)
        ('faint', 'medium', 'plain')
    """
    if strength < FAINT_BELOW:
        return "faint"
    return "medium" if strength < PLAIN_FROM else "plain"


def severity_of(contrast: Contrast, *, rng: np.random.Generator) -> float:
    """Draw the severity of a whole-scan artefact: uniform in one third of 0 to 1.

    Unlike a local anomaly's contrast, an artefact's is the third it was drawn from: the root mean square of what a flip
    or a shift changes says little about how plain it is.
    """
    k = CONTRASTS.index(contrast)
    return float(rng.uniform(k / 3.0, (k + 1) / 3.0))


def deal(kinds: Sequence[str], strata: Sequence[Stratum], *, rng: np.random.Generator) -> Iterator[tuple[str, Stratum]]:
    """Deal pairs of kind and stratum for ever.

    Each round deals every kind once, in random order.  A kind goes through the strata in turn, and the kinds begin at
    different strata, so that within a round each stratum occurs about equally often as well.

    Args:
        kinds: Names, each once.
        strata: Names, such as `SIZES`.
        rng: Source of randomness.
    """
    begins = dict(zip(rng.permutation(list(kinds)).tolist(), range(len(kinds)), strict=True))
    first = int(rng.integers(len(strata)))
    step = 0
    while True:
        for kind in rng.permutation(list(kinds)).tolist():
            yield kind, strata[(first + begins[kind] + step) % len(strata)]
        step += 1

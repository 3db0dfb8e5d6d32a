"""How a slice is shown: which plane it is, and what lies to its sides.

Pictures show RAS+ as it is: the first axis runs to the right of the picture, the second up.  In axial and coronal
slices the subject's left is on the left (neurological convention), and each picture says so at its sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Shaped

from mendscan.errors import one_line

__all__ = ["PLANES", "as_drawn", "label_sides", "shown_slice", "upright"]

PLANES = {
    "X": ("sagittal", "P", "A", "S", "I"),
    "Y": ("coronal", "L", "R", "S", "I"),
    "Z": ("axial", "L", "R", "A", "P"),
}
"""For each cut axis: the plane, and what lies left, right, above and below when the picture shows RAS+ as it is."""


def shown_slice(values_XYZ: Shaped[np.ndarray, "X Y Z"], axis: int, index: int) -> Shaped[np.ndarray, "rows columns"]:
    """Return a slice as rows and columns, to be shown with ``origin="lower"``."""
    return np.take(values_XYZ, index, axis=axis).T


def upright(values_HW: Shaped[np.ndarray, "H W"], slice_view: str) -> Shaped[np.ndarray, "rows columns"]:
    """Return a slice of the model grid, or its codes, as rows and columns to be shown with ``origin="lower"``."""
    return values_HW[::-1] if slice_view == "image" else values_HW.T


def label_sides(place: Any, slice_axis: str, *, size: float = 8.0, colour: str = "white") -> None:
    """Write onto a picture what lies to its sides: L, R, A, P, S or I."""
    _, left, right, above, below = PLANES[slice_axis]
    style = {"color": colour, "fontsize": size, "transform": place.transAxes, "ha": "center", "va": "center"}
    for x, y, text in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.97, above), (0.5, 0.03, below)):
        place.text(x, y, text, **style)


def as_drawn(name: str) -> str:
    r"""Return a name that others gave as matplotlib draws it as it is: one line, no formula between dollar signs.

    Example:
        >>> print(as_drawn("a$^$b"))
        a\$^\$b
    """
    return one_line(name).replace("$", r"\$")

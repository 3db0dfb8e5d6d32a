"""Samples of the prior as a picture that says what it shows, or as a NIfTI file."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from mendscan.detection.sampling import Samples
from mendscan.errors import SettingsError, WriteError
from mendscan.results.planes import PLANES, label_sides, upright
from mendscan.volumes.writing import write_bytes

__all__ = ["MOST_IN_A_PICTURE", "check_samples_file", "draw_samples", "save_samples"]

MOST_IN_A_PICTURE = 400
"""More slices are not seen any more."""
_NAMES = (".png", ".nii.gz")
_INCHES, _MARGIN_INCHES = 9.6, 1.0
"""Width of the picture, and what of it the scale at its side or the words above it take."""


def check_samples_file(path: Path, n: int) -> None:
    """Refuse a file that `save_samples` could not write, before anything is computed.

    Raises:
        SettingsError: If the name ends in neither ``.png`` nor ``.nii.gz``, or a picture has too many samples.
        WriteError: If the folder is not there or nothing can be written into it.
    """
    if not path.name.lower().endswith(_NAMES):
        expected = "a name in .png or .nii.gz"
        raise SettingsError("unknown kind of file", where=path, code="E_NAME", found=path.suffix, expected=expected)
    if not path.name.endswith(".nii.gz") and n > MOST_IN_A_PICTURE:
        raise SettingsError(
            "too many samples for a picture",
            where=path,
            found=n,
            expected=f"at most {MOST_IN_A_PICTURE}",
            remedy="write a .nii.gz file",
        )
    if path.is_dir():
        raise WriteError("the file is a folder", where=path, remedy="name a file")
    if not path.parent.is_dir():
        raise WriteError("the folder is not there", where=path.parent, remedy="make it, or name another one")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise WriteError("nothing can be written into the folder", where=path.parent, remedy="name another folder")


def save_samples(samples: Samples, path: Path) -> None:
    """Write samples as the picture of `draw_samples` (``.png``) or as slices in one NIfTI file (``.nii.gz``).

    Raises:
        SettingsError: As `check_samples_file`.
        WriteError: If it cannot be written.
    """
    check_samples_file(path, len(samples.slices_nHW))
    if path.name.lower().endswith(".nii.gz"):
        samples.save(path)
        return
    buffer = io.BytesIO()
    draw_samples(samples).savefig(buffer, format="png", dpi=110, facecolor="black", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def draw_samples(samples: Samples) -> Any:
    """Return a matplotlib figure: every sample with its slice coordinate, all in one intensity window."""
    from matplotlib.figure import Figure

    n, (across_mm, up_mm) = len(samples.slices_nHW), samples.pixel_mm
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    height, width = upright(samples.slices_nHW[0], samples.preparation.slice_view).shape
    side = (_INCHES - _MARGIN_INCHES) / max(columns, 3)
    tall = rows * (side * height * up_mm / (width * across_mm) + 0.25)
    figure = Figure(figsize=(_INCHES, tall + _MARGIN_INCHES), facecolor="black", layout="compressed")
    low, high = np.percentile(samples.slices_nHW, (0.5, 99.7))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    size = min(7.0, 5 * side)
    for axes, slice_HW, position in zip(grid.flat, samples.slices_nHW, samples.position_n, strict=False):
        shown = upright(slice_HW, samples.preparation.slice_view)
        image = axes.imshow(shown, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=up_mm / across_mm)
        axes.set_title(f"{position:+.3f}", color="#bbbbbb", fontsize=size, pad=2)
        label_sides(axes, samples.preparation.slice_axis, size=size, colour="#7fb3ff")
    bar = figure.colorbar(image, ax=grid, shrink=0.8, aspect=30)
    bar.ax.tick_params(colors="white", labelsize=7)
    bar.set_label(_unit(samples), color="white", fontsize=7)
    figure.suptitle(_caption(samples), color="white", fontsize=9)
    return figure


def _caption(samples: Samples) -> str:
    plane, n = PLANES[samples.preparation.slice_axis][0], len(samples.slices_nHW)
    temperature = "" if samples.temperature == 1 else f", temperature {samples.temperature:g}"
    return (
        f"{n} {plane} slice{'s' if n > 1 else ''} sampled from the prior, not of any subject   "
        f"model {samples.model_hash[:12]}, seed {samples.seed}{temperature}\n"
        f"above each: slice coordinate, {samples.slice_ends}; {_convention(samples)}\n"
        "research use only; not a medical device"
    )


def _convention(samples: Samples) -> str:
    sagittal = samples.preparation.slice_axis == "X"
    return "front on the right" if sagittal else "left on the left (neurological convention)"


def _unit(samples: Samples) -> str:
    low, high = samples.preparation.intensity_range
    if samples.preparation.intensity == "range":
        return f"prepared intensity (-1 = {low:g}, 1 = {high:g})"
    return "prepared intensity (standard deviations of the scan)"

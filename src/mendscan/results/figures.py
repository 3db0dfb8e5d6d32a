"""One picture per scan: the worst slices of scan, restoration and map, side by side."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mendscan.results.detection import Detection
from mendscan.results.layout import FIGURES
from mendscan.results.planes import PLANES, as_drawn, label_sides, shown_slice
from mendscan.volumes.writing import make_folder, write_bytes

__all__ = ["draw_detection", "png_of", "save_figure"]

_ROWS = 3
_MAP_COLOURS = "inferno"
"""Reads in greyscale and for colour-blind readers."""


def save_figure(detection: Detection, folder: Path) -> None:
    """Draw a detection into the results folder, unless it has no map."""
    if detection.map_XYZ is None:
        return
    write_bytes(make_folder(folder / FIGURES) / f"{detection.case}.png", png_of(detection))


def png_of(detection: Detection) -> bytes:
    """Return the picture of a detection with a map as a PNG file; the same detection gives the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in a script that the font does not have
        draw_detection(detection).savefig(buffer, format="png", dpi=90, facecolor="black", metadata={"Software": None})
    return buffer.getvalue()


def draw_detection(detection: Detection) -> Any:
    """Return a matplotlib figure: up to three slices, each as scan, restoration and map over the scan."""
    from matplotlib.figure import Figure

    map_XYZ, restored_XYZ = detection.map_XYZ, detection.restored_XYZ
    if map_XYZ is None or restored_XYZ is None:
        raise ValueError("the detection has no map to draw")
    axis = "XYZ".index(detection.slice_axis)
    chosen = worst_slices(map_XYZ, axis, count=_ROWS)
    low, high = np.percentile(detection.volume.voxels_XYZ, (0.5, 99.7))
    figure = Figure(figsize=(9.6, 3.1 * len(chosen) + 0.9), facecolor="black", layout="constrained")
    rows = figure.subplots(len(chosen), 3, squeeze=False)
    aspect = _aspect(detection, axis)
    for axes, index in zip(rows, chosen, strict=True):
        scan, restored, found = (
            shown_slice(values, axis, index) for values in (detection.volume.voxels_XYZ, restored_XYZ, map_XYZ)
        )
        grey = {"cmap": "gray", "vmin": low, "vmax": high, "origin": "lower", "aspect": aspect}
        for place, picture in zip(axes, (scan, restored, scan), strict=True):
            place.imshow(picture, **grey)
            place.set_axis_off()
        shown = np.ma.masked_less(found, detection.threshold / 2)
        overlay = axes[2].imshow(
            shown, cmap=_MAP_COLOURS, vmin=0, vmax=1, alpha=0.65, origin="lower", aspect=aspect, interpolation="nearest"
        )
        if (found > detection.threshold).any():
            axes[2].contour(found, levels=[detection.threshold], colors="#3fe0ff", linewidths=0.9)
        _label(axes[0], detection.slice_axis, index)
    for place, title in zip(rows[0], ("scan", "restored", "anomaly map"), strict=True):
        place.set_title(title, color="white", fontsize=10)
    bar = figure.colorbar(overlay, ax=rows[:, 2], shrink=0.7)
    bar.ax.tick_params(colors="white", labelsize=7)
    bar.ax.axhline(detection.threshold, color="#3fe0ff", linewidth=1.2)
    figure.suptitle(_caption(detection), color="white", fontsize=9)
    return figure


def worst_slices(map_XYZ: Float[np.ndarray, "X Y Z"], axis: int, *, count: int) -> list[int]:
    """Return the slices in which the map's top voxels weigh most, ascending, and not all beside each other."""
    flat = np.moveaxis(map_XYZ, axis, 0).reshape(map_XYZ.shape[axis], -1)
    top = max(1, flat.shape[1] // 100)
    weight = np.partition(flat, -top, axis=1)[:, -top:].mean(axis=1)
    apart = max(1, len(weight) // 12)
    chosen: list[int] = []
    for index in np.argsort(-weight, kind="stable"):
        if len(chosen) < count and all(abs(index - other) >= apart for other in chosen):
            chosen.append(int(index))
    return sorted(chosen)


def _aspect(detection: Detection, axis: int) -> float:
    across, up = (mm for other, mm in enumerate(detection.volume.spacing_mm) if other != axis)
    return up / across


def _label(place: Any, slice_axis: str, index: int) -> None:
    label_sides(place, slice_axis)
    place.text(0.02, 1.02, f"{PLANES[slice_axis][0]} {index}", color="#bbbbbb", fontsize=8, transform=place.transAxes)


def _caption(detection: Detection) -> str:
    volume = sum(finding.volume_mm3 for finding in detection.findings)
    return (
        f"{as_drawn(detection.case)}   score {detection.score:.1f}{_unit(detection)}, p = {detection.p_value:.3f}   "
        f"{len(detection.findings)} findings, {volume:,.0f} mm³ above the healthy threshold\n"
        "research use only: unlikely under the healthy training scans, not a diagnosis"
    )


def _unit(detection: Detection) -> str:
    """Return what decided the score and its unit."""
    return " nats" if detection.part is None else f" healthy spreads ({detection.part})"

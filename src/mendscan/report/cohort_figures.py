"""Pictures of a cohort: scans as they come, as the model sees them, and the labelled anomalies in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mendscan.cohort.anomalies import Anomaly
from mendscan.cohort.labelled_cohort import LabelledCohort
from mendscan.cohort.preparing import Prepared
from mendscan.results.planes import PLANES, as_drawn, label_sides, shown_slice, upright
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume

__all__ = ["draw_anomalies", "draw_intensities", "draw_prepared", "draw_scans"]

_LABEL = "#ff9500"
_NOTICE = "research use only; not a medical device"


def draw_scans(volumes: Sequence[Volume]) -> Figure:
    """Draw the middle sagittal, coronal and axial slice of each scan, a column for each scan, in millimetres."""
    figure = Figure(figsize=(2.4 * len(volumes), 7.6), facecolor="black", layout="compressed")
    grid = figure.subplots(3, len(volumes), squeeze=False)
    for column, volume in enumerate(volumes):
        low, high = np.percentile(volume.voxels_XYZ, (0.5, 99.7))
        for row, plane in enumerate(PLANES):
            _show(grid[row, column], volume, volume.voxels_XYZ, row, volume.shape[row] // 2, (low, high))
            label_sides(grid[row, column], plane, size=7.0, colour="#7fb3ff")
        across, up, through = volume.spacing_mm
        size = f"{_times(volume.shape)} voxels\n{across:.1f}×{up:.1f}×{through:.1f} mm"
        title = f"{as_drawn(volume.name)}\n{size}\nup to {high:.4g}"
        grid[0, column].set_title(title, color="#cccccc", fontsize=8)
    figure.supxlabel(f"in RAS+, left on the left (neurological convention); {_NOTICE}", color="#cccccc", fontsize=8)
    return figure


def draw_prepared(volumes: Sequence[Volume], prepared: Sequence[Prepared]) -> Figure:
    """Draw the middle slice of each scan on the model grid, above it the nearest slice of the scan itself."""
    figure = Figure(figsize=(2.4 * len(volumes), 5.6), facecolor="black", layout="compressed")
    grid = figure.subplots(2, len(volumes), squeeze=False)
    for (above, below), volume, on_grid in zip(grid.T, volumes, prepared, strict=True):
        axis, middle = "XYZ".index(on_grid.slice_axis), len(on_grid.slices_SHW) // 2
        index = round(
            float(np.clip(middle * on_grid.grid.scale[axis] + on_grid.grid.offset[axis], 0, volume.shape[axis] - 1))
        )
        _show(above, volume, volume.voxels_XYZ, axis, index, tuple(np.percentile(volume.voxels_XYZ, (0.5, 99.7))))
        above.set_title(f"{as_drawn(volume.name)}\nscan, slice {index}", color="#cccccc", fontsize=8)
        across, up = np.delete(on_grid.grid.model_spacing_mm(volume.affine), axis)
        image = below.imshow(
            upright(on_grid.slices_SHW[middle], on_grid.slice_view),
            cmap="gray", vmin=-3, vmax=2, origin="lower", aspect=up / across,
        )  # fmt: skip
        below.set_axis_off()
        below.set_title(f"model grid, slice {middle}\n{on_grid.positions_S[middle]:+.2f}", color="#cccccc", fontsize=8)
        for place in (above, below):
            label_sides(place, on_grid.slice_axis, size=7.0, colour="#7fb3ff")
    bar = figure.colorbar(image, ax=grid[1], shrink=0.8)
    bar.ax.tick_params(colors="white", labelsize=7)
    bar.set_label("standard deviations", color="white", fontsize=7)
    figure.supxlabel(f"below each title: the slice coordinate; {_NOTICE}", color="#cccccc", fontsize=8)
    return figure


def draw_intensities(volumes: Sequence[Volume], prepared: Sequence[Prepared]) -> Figure:
    """Draw the histogram of each scan's intensities, as stored and as prepared; background is left out."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    stored, ready = figure.subplots(1, 2)
    for volume, on_grid in zip(volumes, prepared, strict=True):
        raw = volume.voxels_XYZ[volume.voxels_XYZ > volume.voxels_XYZ.min()]
        bins = np.geomspace(max(float(raw.min()), float(raw.max()) * 1e-3), float(raw.max()), 80)
        stored.hist(raw, bins=bins.tolist(), histtype="step", density=True)
        seen = on_grid.slices_SHW[on_grid.foreground_SHW]
        ready.hist(seen, bins=80, histtype="step", density=True, label=as_drawn(volume.name))
    stored.set(title="as stored: every scan has its own unit", xlabel="intensity", xscale="log", yscale="log")
    ready.set(title="as prepared: one scale", xlabel="standard deviations from the scan's own mean")
    for axes in (stored, ready):
        axes.set_ylabel("density")
        axes.spines[["top", "right"]].set_visible(False)
    ready.legend(fontsize=7, frameon=False)
    return figure


def draw_anomalies(cohort: LabelledCohort, *, columns: int = 5) -> Figure:
    """Draw each anomaly of a labelled cohort in the axial slice through its centre, with every label outlined.

    A whole-scan artefact has no place and no outline: the middle slice is shown.
    """
    scans = dict(zip((case.name for case in cohort.cases), cohort.scans, strict=True))
    every = [(case, anomaly) for case, added in cohort.anomalies.items() for anomaly in added]
    rows = max(1, math.ceil(len(every) / columns))
    figure = Figure(figsize=(2.3 * columns, 3.0 * rows + 0.4), facecolor="black", layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place in grid.flat:
        place.set_axis_off()
    for place, (case, anomaly) in zip(grid.flat, every, strict=False):
        volume = read_volume(scans[case])
        index = volume.shape[2] // 2 if anomaly.centre_index is None else anomaly.centre_index[2]
        _show(place, volume, volume.voxels_XYZ, 2, index, tuple(np.percentile(volume.voxels_XYZ, (0.5, 99.7))))
        if anomaly.centre_index is not None:
            label_XYZ = read_volume(cohort.folder / "labels" / "pixel" / scans[case].name).voxels_XYZ
            place.contour(shown_slice(label_XYZ, 2, index), levels=[0.5], colors=_LABEL, linewidths=0.9)
        label_sides(place, "Z", size=7.0, colour="#7fb3ff")
        place.set_title(_anomaly_title(case, anomaly), color="#cccccc", fontsize=8)
    figure.supxlabel(f"outlined: the labels; simulated, for evaluation only; {_NOTICE}", color="#cccccc", fontsize=8)
    return figure


def _show(place: Any, volume: Volume, values_XYZ: Any, axis: int, index: int, window: tuple[float, ...]) -> None:
    across, up = np.delete(volume.spacing_mm, axis)
    low, high = window
    place.imshow(
        shown_slice(values_XYZ, axis, index), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=up / across
    )
    place.set_axis_off()


def _anomaly_title(case: str, anomaly: Anomaly) -> str:
    size = "whole scan" if anomaly.radius_mm is None else f"radius {anomaly.radius_mm:.0f} mm"
    return f"{as_drawn(case)}\n{anomaly.kind}\n{anomaly.contrast}, {size}"


def _times(values: Sequence[int]) -> str:
    return "×".join(map(str, values))

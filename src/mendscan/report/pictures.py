"""The pictures of one scan: for each view three planes, each as scan, restoration, map and outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mendscan.errors import ResultsError, ScanError
from mendscan.report.layers import encode_colours, encode_grey, grey_window, outline, to_grey
from mendscan.report.views import View, choose_views
from mendscan.results import ResultCase
from mendscan.results.layout import is_there
from mendscan.results.planes import PLANES, shown_slice
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.volume import Volume

__all__ = ["CasePictures", "Plane", "ShownView", "picture_case"]

_ORDER = ("Z", "Y", "X")
_TILTED_DEGREES = 3.0


@dataclass(frozen=True)
class Plane:
    """One slice.

    Attributes:
        title: What it is called: ``axial``, or ``across i`` if the orientation is unknown.
        where: Its place: the voxel along the file's own axis and, if the orientation is known, the millimetres.
        axis: The axis of RAS+ that it cuts.
        index: Where, in voxels of the scan in RAS+.
        sides: What lies left, right, above and below: L, R, A, P, S, I, or ``?``.
        width_mm: Width of the picture.
        height_mm: Height of the picture.
        across_mm: From the left edge to the centre of the view's voxel.
        down_mm: From the upper edge to it.
        scan: The scan, as a PNG.
        restored: Its restoration, as a PNG, in the same grey window.
        map: The map, as a PNG with transparency; empty where the map is not wanted.
        chosen: Outline of the view's own finding, as an SVG path in millimetres.
        others: Outlines of the other findings.
    """

    title: str
    where: str
    axis: int
    index: int
    sides: tuple[str, str, str, str]
    width_mm: float
    height_mm: float
    across_mm: float
    down_mm: float
    scan: bytes
    restored: bytes
    map: bytes
    chosen: str
    others: str


@dataclass(frozen=True)
class ShownView:
    """A view and its pictures: axial, coronal, sagittal."""

    view: View
    planes: tuple[Plane, ...]


@dataclass(frozen=True, eq=False)
class CasePictures:
    """All pictures of a scan.

    Attributes:
        problem: Why there are none; empty if there are.
        views: One for each finding that is shown.
        worst_slice: The slice that the code grid belongs to; None if there is none.
        map_of_slices: The highest value of the map in each slice along the model's slice axis.
        window: Intensities shown black and white.
        oriented: Whether the file says where left and right are.
        shape: Voxels in RAS+.
        spacing_mm: Their size.
    """

    problem: str = ""
    views: tuple[ShownView, ...] = ()
    worst_slice: Plane | None = None
    map_of_slices: tuple[float, ...] = ()
    window: tuple[float, float] = (0.0, 1.0)
    oriented: bool = True
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class _Stack:
    scan: Volume
    restored_XYZ: VoxelsXYZ
    map_XYZ: VoxelsXYZ
    labels_XYZ: Int[np.ndarray, "X Y Z"]
    threshold: float
    window: tuple[float, float]
    oriented: bool


def picture_case(
    case: ResultCase, *, threshold: float, findings: int, slice_axis: str = "Z", worst: float | None = None
) -> CasePictures:
    """Make the pictures of a scan.

    Args:
        case: The scan in its results folder.
        threshold: The map's healthy threshold.
        findings: How many of its findings to show.
        slice_axis: The axis that the model's slices cut.
        worst: Where along it the slice lies that the code grid is shown of; None if it is not shown.

    Returns:
        The pictures; none, and the reason, if scan, map or restoration cannot be read.
    """
    if not case.has_map:
        return CasePictures(problem=_missing(case))
    try:
        scan = case.scan()
        map_XYZ, restored_XYZ = case.map_of(scan), case.restored_of(scan)
    except (ScanError, ResultsError) as error:
        return CasePictures(problem=str(error.at("")))
    for name, values_XYZ in (("map", map_XYZ), ("restoration", restored_XYZ)):
        if not np.isfinite(values_XYZ).all():
            return CasePictures(problem=f"voxels of its {name} are NaN or infinite; run mendscan detect again")
    labels_XYZ, views = choose_views(case.findings, map_XYZ, scan, threshold=threshold, most=findings)
    oriented = bool(scan.native.sform_code or scan.native.qform_code)
    window = grey_window(scan.voxels_XYZ)
    stack = _Stack(scan, restored_XYZ, map_XYZ, labels_XYZ, threshold, window, oriented)
    axis = "XYZ".index(slice_axis)
    others = tuple(other for other in range(3) if other != axis)
    return CasePictures(
        views=tuple(ShownView(view, tuple(_plane(stack, view, name) for name in _ORDER)) for view in views),
        worst_slice=None if worst is None else _worst_slice(stack, slice_axis, worst),
        map_of_slices=tuple(float(value) for value in map_XYZ.max(axis=others)),
        window=window,
        oriented=oriented,
        shape=scan.shape,
        spacing_mm=scan.spacing_mm,
    )


def _missing(case: ResultCase) -> str:
    files = {"scan": case.scan_path, "map": case.map_path, "restoration": case.restored_path}
    missing = [name for name, path in files.items() if not is_there(path)]
    if len(missing) == len(files):
        return "the folder has no scans and maps: it was made with --no-maps"
    return f"no {' and no '.join(missing)} in the folder: it is of an earlier version, or files were removed"


def _worst_slice(stack: _Stack, slice_axis: str, position: float) -> Plane:
    axis = "XYZ".index(slice_axis)
    middle = [length // 2 for length in stack.scan.shape]
    middle[axis] = int(np.clip(round(position), 0, stack.scan.shape[axis] - 1))
    x, y, z = middle
    return _plane(stack, View(None, (x, y, z), 0, 0.0), slice_axis, with_map=False)


def _plane(stack: _Stack, view: View, cut: str, *, with_map: bool = True) -> Plane:
    axis = "XYZ".index(cut)
    index = view.index_XYZ[axis]
    scan, restored, found = (
        shown_slice(values_XYZ, axis, index)
        for values_XYZ in (stack.scan.voxels_XYZ, stack.restored_XYZ, stack.map_XYZ)
    )
    labels = shown_slice(stack.labels_XYZ, axis, index)
    horizontal, vertical = (other for other in range(3) if other != axis)
    across, up = stack.scan.spacing_mm[horizontal], stack.scan.spacing_mm[vertical]
    rows, columns = scan.shape
    own = (labels == view.component) & (view.component > 0)
    return Plane(
        title=_title(stack, cut),
        where=_where(stack, view, axis),
        axis=axis,
        index=index,
        sides=PLANES[cut][1:] if stack.oriented else ("?", "?", "?", "?"),
        width_mm=columns * across,
        height_mm=rows * up,
        across_mm=(view.index_XYZ[horizontal] + 0.5) * across,
        down_mm=(rows - view.index_XYZ[vertical] - 0.5) * up,
        scan=encode_grey(to_grey(scan, stack.window)),
        restored=encode_grey(to_grey(restored, stack.window)),
        map=encode_colours(found, stack.threshold) if with_map else b"",
        chosen=outline(found, own, stack.threshold, (across, up)),
        others=outline(found, (labels > 0) & ~own, stack.threshold, (across, up)),
    )


def _title(stack: _Stack, cut: str) -> str:
    axis = "XYZ".index(cut)
    if not stack.oriented:
        return f"across {_native_axis(stack.scan, axis)}"
    tilt = _tilt_degrees(stack.scan.affine[:3, axis], axis)
    return PLANES[cut][0] + (f", tilted by {tilt:.0f}°" if tilt > _TILTED_DEGREES else "")


def _tilt_degrees(step_mm: Float[np.ndarray, " 3"], axis: int) -> float:
    return math.degrees(math.acos(min(1.0, abs(float(step_mm[axis])) / float(np.linalg.norm(step_mm)))))


def _where(stack: _Stack, view: View, axis: int) -> str:
    index = np.array(view.index_XYZ, dtype=np.float64)
    native = _native_axis(stack.scan, axis)
    voxel = f"{native} = {round(float(stack.scan.native_index(index)['ijk'.index(native)]))}"
    if not stack.oriented:
        return voxel
    mm = float((stack.scan.affine @ np.append(index, 1.0))[axis])
    return f"{voxel}, {'xyz'[axis]} = {mm:.1f} mm".replace("-", "−")


def _native_axis(scan: Volume, axis: int) -> str:
    axes: Sequence[int] = [ras_axis for ras_axis, _ in scan.native.orientation]
    return "ijk"[axes.index(axis)]

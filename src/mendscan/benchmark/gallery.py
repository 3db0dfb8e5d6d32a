"""The same lesions as every method maps them: one of each kind, chosen by size alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from matplotlib.figure import Figure

from mendscan.evaluation.metrics import Evaluation
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.reading import read_values, read_volume
from mendscan.volumes.writing import write_bytes

__all__ = ["ShownLesion", "lesions_to_show", "save_gallery"]

_AXIS = 2
"""Axial slices, whatever axis the model cuts along: one look at all methods."""
_MAP_COLOURS = "inferno"
_OUTLINE = "#3fe0ff"


@dataclass(frozen=True)
class ShownLesion:
    """A lesion of the gallery.

    Attributes:
        case: The scan it is in.
        number: In that scan, from 1.
        kind: What it is.
    """

    case: str
    number: int
    kind: str


def lesions_to_show(evaluation: Evaluation) -> list[ShownLesion]:
    """Choose of each kind the lesion of median size, so that no map decides what is shown."""
    by_kind: dict[str, list[tuple[int, str, int]]] = {}
    for case in evaluation.cases:
        for lesion in case.lesions:
            by_kind.setdefault(lesion.kind, []).append((lesion.voxels, case.name, lesion.number))
    medians = {kind: sorted(found)[len(found) // 2] for kind, found in sorted(by_kind.items())}
    return [ShownLesion(case, number, kind) for kind, (_, case, number) in medians.items()]


def save_gallery(test: Path, maps: Sequence[tuple[str, Path]], lesions: Sequence[ShownLesion], path: Path) -> None:
    """Draw a row per lesion: the scan with the label's outline, then each method's map.

    Args:
        test: The labelled cohort, with ``scans`` and ``labels/lesions``.
        maps: Title and folder of maps of each method, in [0, 1].
        lesions: What to show.
        path: The picture.

    Raises:
        ScanError: If a scan or a map cannot be read.
        WriteError: If the picture cannot be written.
    """
    size = 1.15
    figure = Figure(figsize=(size * (len(maps) + 1), size * len(lesions) + 0.5), facecolor="black")
    rows = figure.subplots(len(lesions), len(maps) + 1, squeeze=False)
    for axes, lesion in zip(rows, lesions, strict=True):
        file = f"{lesion.case}.nii.gz"
        scan = read_volume(test / "scans" / file)
        scan_XYZ = scan.voxels_XYZ
        label_XYZ = read_values(test / "labels" / "lesions" / file, scan) == lesion.number
        index = int(label_XYZ.sum(axis=(0, 1)).argmax())
        outline = _slice(label_XYZ.astype(np.float32), index)
        low, high = np.percentile(scan_XYZ, (0.5, 99.7))
        _show(axes[0], _slice(scan_XYZ, index), outline, cmap="gray", vmin=low, vmax=high)
        for place, (_, folder) in zip(axes[1:], maps, strict=True):
            map_XYZ = read_values(folder / file, scan)
            _show(place, _slice(map_XYZ, index), outline, cmap=_MAP_COLOURS, vmin=0.0, vmax=1.0)
        axes[0].set_title(lesion.kind, color="white", fontsize=7, loc="left", pad=2)
    for place, (title, _) in zip(rows[0, 1:], maps, strict=True):
        place.set_title(title, color="white", fontsize=7, pad=2)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=1 - 0.3 / (size * len(lesions)), wspace=0.04)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, facecolor="black", metadata={"Software": None})
    write_bytes(path, picture.getvalue())


def _slice(values_XYZ: VoxelsXYZ, index: int) -> Float32[np.ndarray, "Y X"]:
    return np.take(values_XYZ, index, axis=_AXIS).T


def _show(place: Any, picture: Float32[np.ndarray, "Y X"], outline: Float32[np.ndarray, "Y X"], **colours: Any) -> None:
    place.imshow(picture, origin="lower", interpolation="nearest", **colours)
    place.contour(outline, levels=[0.5], colors=_OUTLINE, linewidths=0.7)
    place.set_axis_off()

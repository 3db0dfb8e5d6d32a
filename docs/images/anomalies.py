"""Draws anomalies.png for docs/anomalies.md: python docs/images/anomalies.py."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from mendscan.cohort.anomalies import add_anomaly, radius_range_mm
from mendscan.cohort.anomaly_kinds import KINDS
from mendscan.cohort.anomaly_reference import reference_of, with_donor
from mendscan.cohort.anomaly_strata import CONTRASTS
from mendscan.cohort.artefacts import ARTEFACTS, apply_artefact
from mendscan.cohort.foreground import foreground_of
from mendscan.cohort.selection_kinds import SELECTION_KINDS
from mendscan.cohort.simulation import simulate_cohort
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume

FAMILIES = (
    ("local, reported", KINDS),
    ("local, for choosing settings only", SELECTION_KINDS),
    ("whole scan", ARTEFACTS),
)
PAIRS_PER_ROW = 6
SEVERITY = 0.7
SPACING_MM = (1.5, 1.5, 1.5)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = simulate_cohort(folder, n=3, seed=5, spacings_mm=(SPACING_MM,))
        draw([read_volume(path) for path in paths], Path(__file__).with_name("anomalies.png"))


def draw(volumes: Sequence[Volume], target: Path, *, seed: int = 2, severity: float = SEVERITY) -> None:
    heights = [-(-len(kinds) // PAIRS_PER_ROW) for _, kinds in FAMILIES]
    figure, grid = plt.subplots(sum(heights), 2 * PAIRS_PER_ROW, figsize=(17, 1.72 * sum(heights)), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for first, (family, kinds) in zip(np.cumsum([0, *heights[:-1]]), FAMILIES, strict=True):
        heading = {"xycoords": "axes fraction", "fontsize": 11, "weight": "bold"}
        grid[first, 0].annotate(family, (0.0, 1.2), **heading)
        for k, kind in enumerate(kinds):
            row, column = first + k // PAIRS_PER_ROW, 2 * (k % PAIRS_PER_ROW)
            volume, donor = volumes[k % len(volumes)], volumes[(k + 1) % len(volumes)]
            pair = (grid[row, column], grid[row, column + 1])
            if kinds is ARTEFACTS:
                draw_artefact(pair, volume, kind, seed + k, severity)
            else:
                draw_local(pair, volume, donor, kind, seed + k)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.955, bottom=0.005, wspace=0.03, hspace=0.3)
    figure.savefig(target, dpi=85)
    plt.close(figure)


def draw_local(pair: tuple[Axes, Axes], volume: Volume, donor: Volume, kind: str, seed: int) -> None:
    voxels_XYZ = volume.voxels_XYZ
    reference = with_donor(reference_of(voxels_XYZ, foreground_of(voxels_XYZ)), donor.voxels_XYZ)
    altered_XYZ, label_XYZ, anomaly = add_anomaly(
        voxels_XYZ,
        volume.affine,
        reference=reference,
        rng=np.random.default_rng(seed),
        kind=kind,
        radius_mm=radius_range_mm(reference.foreground_XYZ, spacing_mm=volume.spacing_mm),
        size="large",
    )
    x, y, z = anomaly.centre_index or (0, 0, 0)
    reach = int(2.2 * (anomaly.radius_mm or 0.0) / min(volume.spacing_mm))
    window = (slice(max(x - reach, 0), x + reach + 1), slice(max(y - reach, 0), y + reach + 1), z)
    vmin, vmax = np.quantile(voxels_XYZ[reference.foreground_XYZ], (0.001, 0.999))
    for axes, shown, title in zip(pair, (voxels_XYZ, altered_XYZ), (kind, anomaly.contrast), strict=True):
        axes.imshow(shown[window].T, cmap="gray", origin="lower", vmin=vmin, vmax=vmax)
        axes.contour(label_XYZ[window].T, [0.5], colors="#ff9500", linewidths=0.6)
        axes.set_title(title, fontsize=9, pad=2)


def draw_artefact(pair: tuple[Axes, Axes], volume: Volume, kind: str, seed: int, severity: float) -> None:
    voxels_XYZ = volume.voxels_XYZ
    reference = reference_of(voxels_XYZ, foreground_of(voxels_XYZ))
    rng = np.random.default_rng(seed)
    altered_XYZ, _ = apply_artefact(voxels_XYZ, kind, rng=rng, reference=reference, severity=severity)
    middle = voxels_XYZ.shape[0] // 2 - voxels_XYZ.shape[0] // 12
    vmin, vmax = reference.lowest, np.quantile(voxels_XYZ, 0.999)
    titles = (kind, CONTRASTS[min(int(3.0 * severity), 2)])
    for axes, shown, title in zip(pair, (voxels_XYZ, altered_XYZ), titles, strict=True):
        axes.imshow(shown[middle].T, cmap="gray", origin="lower", vmin=vmin, vmax=vmax)
        axes.set_title(title, fontsize=9, pad=2)


if __name__ == "__main__":
    main()

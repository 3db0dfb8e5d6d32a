"""The results folder: the contract between computing and showing.  Reading it needs no torch.

===========================  ==============================================================================
file                         content
===========================  ==============================================================================
``scores.csv``               one row per scan, failed ones too: `SCORE_COLUMNS`
``findings.csv``             one row per connected component above the healthy threshold: `FINDING_COLUMNS`
``maps/CASE.nii.gz``         anomaly map, float32 in [0, 1], higher = more anomalous, in the scan's own geometry
``restored/CASE.nii.gz``     the healthy version of the scan, float32, own geometry and intensity scale
``figures/CASE.png``         scan, restoration and map on the worst slices
``dicom/CASE-map.dcm``       on request: the map as a DICOM Parametric Map
``dicom/CASE-findings.dcm``  on request: the findings as a DICOM Segmentation
``results.json``             model hash, settings, seed, versions, thresholds from healthy scans
===========================  ==============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from mendscan.errors import ResultsError
from mendscan.parallel import available_cores, each_in_threads
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.dicom_writing import DICOM, FINDINGS_SUFFIX, MAP_SUFFIX
from mendscan.volumes.tables import read_csv, write_csv
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import make_folder, write_json, write_map

__all__ = [
    "FINDING_COLUMNS",
    "SCORE_COLUMNS",
    "Detection",
    "Finding",
    "find_components",
    "forget_case",
    "labelled_components",
    "read_run",
    "read_scores",
    "write_results",
]

SCORE_COLUMNS = (
    "case",
    "status",
    "score",
    "p_value",
    "flagged",
    "part",
    "local",
    "local_p_value",
    "acquisition",
    "acquisition_p_value",
    "strangest",
    "paper_score",
    "max_slice",
    "max_slice_axis",
    "map_max",
    "findings",
    "seconds",
    "code",
    "message",
)
FINDING_COLUMNS = (
    "case",
    "finding",
    "volume_mm3",
    "voxels",
    "peak",
    "mean",
    "expected_false_per_scan",
    "centre_x_mm",
    "centre_y_mm",
    "centre_z_mm",
    "centre_i",
    "centre_j",
    "centre_k",
)
MAPS, RESTORED, FIGURES = "maps", "restored", "figures"


@dataclass(frozen=True)
class Finding:
    """One connected component of the map above the healthy threshold.

    Attributes:
        volume_mm3: Its volume.
        voxels: Its size in voxels of the scan.
        peak: Largest value of the map in it.
        mean: Mean value of the map in it.
        centre_mm: Centre of mass in the scan's world coordinates (RAS+ mm).
        centre_voxel: The same in voxels of the file's own axes.
        expected_false: How many findings with at least this peak a healthy scan has; None if that is not known.
    """

    volume_mm3: float
    voxels: int
    peak: float
    mean: float
    centre_mm: tuple[float, float, float]
    centre_voxel: tuple[float, float, float]
    expected_false: float | None = None


@dataclass(frozen=True, eq=False)
class Detection:
    """What mendscan says about one scan.

    Attributes:
        volume: The scan.
        score: Higher = less likely under the healthy training scans.  The largest of `parts`, or the paper's.
        p_value: Conformal p-value of the score among the healthy calibration scans.
        slice_scores: The paper's score of each slice that was scored, in nats.
        slice_indices: Index of each in the scan's RAS+ voxels, along `slice_axis`.
        slice_axis: ``X``, ``Y`` or ``Z``.
        map_XYZ: Anomaly map on the scan's RAS+ grid, in [0, 1], higher = more anomalous; None if none was wanted.
        restored_XYZ: The healthy version, in the scan's intensity scale; None if none was wanted.
        threshold: The map's healthy threshold.
        findings: Components of the map above it, most anomalous first.
        parts: What the score is made of: ``local`` (something is in the scan) and ``acquisition`` (it was taken in
            another way), in healthy standard deviations; empty if it is the paper's.
        part_p_values: Conformal p-value of each part alone.
        strangest: The whole-scan statistic that departs most from the training scans, and how far, in words.
        paper_score: The paper's sample score in nats, >= 0.
        seconds: Time it took.
    """

    volume: Volume
    score: float
    p_value: float
    slice_scores: Float[np.ndarray, " n"]
    slice_indices: Float[np.ndarray, " n"]
    slice_axis: str
    map_XYZ: VoxelsXYZ | None
    restored_XYZ: VoxelsXYZ | None
    threshold: float
    findings: tuple[Finding, ...] = field(default=())
    parts: Mapping[str, float] = field(default_factory=dict)
    part_p_values: Mapping[str, float] = field(default_factory=dict)
    strangest: str = ""
    paper_score: float | None = None
    seconds: float = 0.0

    @property
    def case(self) -> str:
        """The scan's name."""
        return self.volume.name

    @property
    def part(self) -> str | None:
        """The part that decided the score; None if it is the paper's."""
        return max(self.parts, key=lambda name: self.parts[name]) if self.parts else None

    @property
    def anomaly_map(self) -> Float[np.ndarray, "I J K"] | None:
        """The map in the file's own axis order, as `maps/CASE.nii.gz` holds it."""
        return None if self.map_XYZ is None else self.volume.to_native(self.map_XYZ)

    @property
    def restored(self) -> Float[np.ndarray, "I J K"] | None:
        """The restoration in the file's own axis order, as `restored/CASE.nii.gz` holds it."""
        return None if self.restored_XYZ is None else self.volume.to_native(self.restored_XYZ)

    @property
    def max_slice(self) -> tuple[str, int]:
        """The slice with the largest score: the file's own axis (``i``, ``j`` or ``k``) and voxel index."""
        axis = "XYZ".index(self.slice_axis)
        index = np.zeros(3)
        index[axis] = self.slice_indices[int(np.argmax(self.slice_scores))]
        native_axis = [ras_axis for ras_axis, _ in self.volume.native.orientation].index(axis)
        return "ijk"[native_axis], round(float(_native_index(self.volume, index)[native_axis]))

    def save(self, folder: str | Path) -> None:
        """Write map and restoration into a results folder, which is made if it is not there."""
        jobs = [
            (make_folder(Path(folder) / name) / f"{self.case}.nii.gz", values_XYZ, self.volume)
            for name, values_XYZ in ((MAPS, self.map_XYZ), (RESTORED, self.restored_XYZ))
            if values_XYZ is not None
        ]
        each_in_threads(write_map, jobs, workers=available_cores())

    def score_row(self) -> dict[str, Any]:
        """Return the scan's row of ``scores.csv``; whether it is flagged depends on the wanted rate."""
        axis, index = self.max_slice
        peak = "" if self.map_XYZ is None else round(float(self.map_XYZ.max()), 6)
        return {
            "case": self.case,
            "status": "ok",
            "score": round(self.score, 6),
            "p_value": round(self.p_value, 6),
            "part": self.part,
            **{name: round(value, 6) for name, value in self.parts.items()},
            **{f"{name}_p_value": round(value, 6) for name, value in self.part_p_values.items()},
            "strangest": self.strangest or None,
            "paper_score": None if self.paper_score is None else round(self.paper_score, 6),
            "max_slice": index,
            "max_slice_axis": axis,
            "map_max": peak,
            "findings": len(self.findings),
            "seconds": round(self.seconds, 2),
        }

    def finding_rows(self) -> list[dict[str, Any]]:
        """Return the scan's rows of ``findings.csv``."""
        return [
            {
                "case": self.case,
                "finding": number,
                "volume_mm3": round(finding.volume_mm3, 2),
                "voxels": finding.voxels,
                "peak": round(finding.peak, 4),
                "mean": round(finding.mean, 4),
                "expected_false_per_scan": None if finding.expected_false is None else round(finding.expected_false, 4),
                **{f"centre_{a}_mm": round(mm, 2) for a, mm in zip("xyz", finding.centre_mm, strict=True)},
                **{f"centre_{a}": round(v, 1) for a, v in zip("ijk", finding.centre_voxel, strict=True)},
            }
            for number, finding in enumerate(self.findings, start=1)
        ]


def find_components(
    map_XYZ: VoxelsXYZ, volume: Volume, *, threshold: float, smallest_mm3: float
) -> tuple[Finding, ...]:
    """Return the connected components of a map above a threshold, largest sum of the map first.

    Args:
        map_XYZ: Anomaly map on the scan's RAS+ grid.
        volume: The scan.
        threshold: Voxels above it belong to a component (26 neighbours).
        smallest_mm3: Components smaller than this are left out.
    """
    _, components = labelled_components(map_XYZ, volume, threshold)
    return tuple(found for _, found in components if found.volume_mm3 >= smallest_mm3)


def labelled_components(
    map_XYZ: VoxelsXYZ, volume: Volume, threshold: float
) -> tuple[Integer[np.ndarray, "X Y Z"], list[tuple[int, Finding]]]:
    """Return the connected components of a map above a threshold, down to one voxel, and which voxels are of which.

    Returns:
        The label of each voxel, 0 = none; label and description of each component, largest sum of the map first.
    """
    labels, count = ndimage.label(map_XYZ > threshold, structure=np.ones((3, 3, 3)))
    if count == 0:
        return labels, []
    # Only the voxels above the threshold are looked at again: a scan has many, its components few.
    where = np.nonzero(labels)
    component, values = labels[where] - 1, map_XYZ[where]
    voxels, sums = np.bincount(component), np.bincount(component, weights=values)
    peaks = ndimage.maximum(values, component, np.arange(count))
    centres = np.stack([np.bincount(component, weights=axis) for axis in where], axis=1) / voxels[:, None]
    voxel_mm3 = float(abs(np.linalg.det(volume.affine[:3, :3])))
    order = np.argsort(-sums, kind="stable")
    found = (
        Finding(
            volume_mm3=float(voxels[n] * voxel_mm3),
            voxels=int(voxels[n]),
            peak=float(peaks[n]),
            mean=float(sums[n] / voxels[n]),
            centre_mm=_triple(volume.affine[:3, :3] @ centres[n] + volume.affine[:3, 3]),
            centre_voxel=_triple(_native_index(volume, np.array(centres[n]))),
        )
        for n in order
    )
    return labels, [(int(n) + 1, one) for n, one in zip(order, found, strict=True)]


def write_results(
    folder: Path,
    score_rows: Sequence[Mapping[str, Any]],
    finding_rows: Sequence[Mapping[str, Any]],
    run: dict[str, Any],
) -> None:
    """Write the tables and ``results.json``, rows sorted by case."""
    write_csv(folder / "scores.csv", sorted(score_rows, key=lambda row: str(row["case"])), SCORE_COLUMNS)
    ordered = sorted(finding_rows, key=lambda row: (row["case"], row["finding"]))
    write_csv(folder / "findings.csv", ordered, FINDING_COLUMNS)
    write_json(folder / "results.json", run)


def forget_case(folder: Path, case: str) -> None:
    """Remove the map, restoration, picture and DICOM objects that an earlier run left of a case."""
    objects = ((DICOM, MAP_SUFFIX), (DICOM, FINDINGS_SUFFIX))
    for name, suffix in ((MAPS, ".nii.gz"), (RESTORED, ".nii.gz"), (FIGURES, ".png"), *objects):
        if (folder / name).is_dir():
            (folder / name / f"{case}{suffix}").unlink(missing_ok=True)


def read_scores(folder: Path) -> dict[str, float]:
    """Return the score of every scan that did not fail.

    Raises:
        ResultsError: If there is no readable ``scores.csv``.
    """
    path = folder / "scores.csv"
    rows = read_csv(path, ("case", "status", "score"), key=("case",))
    try:
        return {row["case"]: float(row["score"]) for row in rows if row["status"] == "ok"}
    except ValueError as error:
        raise ResultsError(
            "the scores cannot be read", where=path, found=error, remedy="give a folder that mendscan detect wrote"
        ) from None


def read_run(folder: Path) -> dict[str, Any]:
    """Return ``results.json``.

    Raises:
        ResultsError: If it is missing or damaged.
    """
    path = folder / "results.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ResultsError(
            "not a results folder", where=path, found=error, remedy="give a folder that mendscan detect wrote"
        ) from None


def _native_index(volume: Volume, ras_index: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    """Return a position in RAS+ voxels as a position in the file's own voxels."""
    native = volume.native
    return np.array(
        [
            ras_index[axis] if direction > 0 else length - 1 - ras_index[axis]
            for length, (axis, direction) in zip(native.shape, native.orientation, strict=True)
        ]
    )


def _triple(values: Float[np.ndarray, " 3"]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z

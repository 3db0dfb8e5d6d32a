"""What mendscan says about one scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mendscan.errors import WriteError
from mendscan.parallel import available_cores, each_in_threads
from mendscan.results.components import Finding
from mendscan.results.layout import DETAILS, MAPS, RESTORED, SCANS, is_file_name
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.maps import write_map, write_scan
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import make_folder, write_json

__all__ = ["CodeNLL", "Detection", "GateWarning"]


@dataclass(frozen=True)
class GateWarning:
    """Why a scan does not look like those that the model was trained on.

    Attributes:
        code: A stable identifier for programs, such as ``W_FIELD_OF_VIEW``.
        message: The same in words.
    """

    code: str
    message: str


@dataclass(frozen=True, eq=False)
class CodeNLL:
    """How unlikely each code of the scored slices is, laid out as the scan is.

    Attributes:
        nats_Sab: Negative log-likelihood in nats, >= 0: slices, then the other two axes of RAS+ in their order.
        extent: What the codes cover along these two axes, in the scan's RAS+ voxels: from, to; from, to.
        threshold: λ_s: from which NLL a code counts as unlikely in the paper's score.
    """

    nats_Sab: Float[np.ndarray, "S a b"]
    extent: tuple[tuple[float, float], tuple[float, float]]
    threshold: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "nats": np.round(self.nats_Sab.astype(np.float64), 2).tolist(),
            "extent": [[round(edge, 3) for edge in edges] for edges in self.extent],
            "threshold": round(self.threshold, 4),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CodeNLL:
        """Rebuild what `to_json` returned."""
        (a0, a1), (b0, b1) = values["extent"]
        nats_Sab = np.array(values["nats"], dtype=np.float64)
        return cls(nats_Sab, ((float(a0), float(a1)), (float(b0), float(b1))), float(values["threshold"]))


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
        statistics: Each whole-scan statistic in healthy standard deviations, by its name; empty if none was computed.
        warnings: Why the scan does not look like the training scans, if so.
        paper_score: The paper's sample score in nats, >= 0.
        code_nll: NLL of the codes of the scored slices.
        healthy_scores: Scores of the healthy calibration scans, ascending: what the p-value rests on.
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
    statistics: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[GateWarning, ...] = ()
    paper_score: float | None = None
    code_nll: CodeNLL | None = None
    healthy_scores: tuple[float, ...] = ()
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
        return "ijk"[native_axis], round(float(self.volume.native_index(index)[native_axis]))

    def save(self, folder: str | Path) -> None:
        """Write scan, map, restoration and details into a results folder, which is made if it is not there.

        Without a map, only the details are written.

        Raises:
            WriteError: If the scan's name cannot be that of a file (E_NAME), or a file cannot be written.
        """
        if not is_file_name(self.case):
            raise WriteError("the name of the scan is no file name", where=repr(self.case), code="E_NAME")
        name = f"{self.case}.nii.gz"
        jobs = [
            partial(write_map, make_folder(Path(folder) / place) / name, values_XYZ, self.volume)
            for place, values_XYZ in ((MAPS, self.map_XYZ), (RESTORED, self.restored_XYZ))
            if values_XYZ is not None
        ]
        if jobs:
            jobs.append(partial(write_scan, make_folder(Path(folder) / SCANS) / name, self.volume))
        each_in_threads(lambda job: job(), [(job,) for job in jobs], workers=available_cores())
        write_json(make_folder(Path(folder) / DETAILS) / f"{self.case}.json", self.details())

    def plot(self) -> Any:
        """Return a matplotlib figure: up to three slices, each as scan, restoration and map over the scan.

        Raises:
            ValueError: If there is no map.
        """
        from mendscan.results.figures import draw_detection

        return draw_detection(self)

    def _repr_html_(self) -> str:
        from mendscan.results.summary import summary_html

        return summary_html(self)

    def details(self) -> dict[str, Any]:
        """Return what ``details/CASE.json`` holds."""
        slices = zip(self.slice_indices, self.slice_scores, strict=True)
        return {
            "case": self.case,
            "slice_axis": self.slice_axis,
            "slices": [{"position": round(float(at), 3), "score": round(float(score), 4)} for at, score in slices],
            "code_nll": None if self.code_nll is None else self.code_nll.to_json(),
            "statistics": {name: round(value, 3) for name, value in self.statistics.items()},
            "warnings": [{"code": warning.code, "message": warning.message} for warning in self.warnings],
            "remarks": [{"code": remark.code, "message": remark.message} for remark in self.volume.remarks],
        }

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
            "warnings": "; ".join(warning.message for warning in self.warnings) or None,
            "paper_score": None if self.paper_score is None else round(self.paper_score, 6),
            "max_slice": index,
            "max_slice_axis": axis,
            "map_max": peak,
            "findings": len(self.findings),
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

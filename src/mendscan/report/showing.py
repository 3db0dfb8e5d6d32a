"""One detection, to be looked at in a notebook: the scan's part of the report, with its sliders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np

from mendscan.detection.conformal import smallest_p_value
from mendscan.errors import GeometryError, ResultsError
from mendscan.report.content import cohort_facts
from mendscan.report.pages import case_page, render_page
from mendscan.report.pictures import picture_case
from mendscan.report.report import FINDINGS, worst_position
from mendscan.results import Detection, Results, read_results, write_results
from mendscan.volumes.reading import Scan, as_volume
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import temporary_folder, write_text

__all__ = ["Shown", "show"]

_NO_RATE = 0.0
"""Nothing is said of flagging: that needs a rate, and it belongs to a batch."""


@dataclass(frozen=True)
class Shown:
    """A page with one scan, which Jupyter shows in a frame of its own.

    Attributes:
        html: The page; it needs nothing but itself.
        height: Of the frame, in pixels.
    """

    html: str
    height: int = 900

    def save(self, path: str | Path) -> None:
        """Write the page.

        Raises:
            WriteError: If it cannot be written.
        """
        write_text(path, self.html)

    def _repr_html_(self) -> str:
        # In a frame the page's style cannot change the notebook's, and its script cannot reach the notebook.
        style = f"width: 100%; height: {self.height}px; border: 0"
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-forms" style="{style}" '
            'title="scan, healthy version and anomaly map"></iframe>'
        )


def show(scan: Scan, detection: Detection, *, findings: int = FINDINGS, height: int = 900) -> Shown:
    """Show a scan with what was found in it: scan, healthy version and map in three planes, with a slider.

    Args:
        scan: What the map is laid over: the scan itself, or any other on the same grid, such as another sequence.
        detection: Of `Detector.detect`, with a map.
        findings: How many findings to picture.
        height: Of the frame in a notebook, in pixels.

    Returns:
        The page: the last expression of a cell shows it, `Shown.save` writes it.

    Raises:
        GeometryError: If the scan is not on the grid of the detection (E_GRID).
        ResultsError: If the detection has no map.
        ScanError: If the scan cannot be read.

    Example::

        detection = mendscan.Detector.load("model").detect("scan.nii.gz")
        mendscan.show("scan.nii.gz", detection)
    """
    if detection.map_XYZ is None:
        raise ResultsError("the detection has no map", where=detection.case, remedy="detect with maps=True")
    volume = _on_the_same_grid(as_volume(scan), detection)
    with temporary_folder() as folder:
        cohort = cohort_facts(_saved(replace(detection, volume=volume), folder))
        (facts,) = cohort.cases
        axis, worst = detection.slice_axis, None if facts.details is None else worst_position(facts.details)
        pictures = picture_case(
            facts.case, threshold=detection.threshold, findings=findings, slice_axis=axis, worst=worst
        )
        return Shown(render_page(cohort, [case_page(facts, pictures)], left_out="", only_scans=True), height)


def _on_the_same_grid(volume: Volume, detection: Detection) -> Volume:
    own = detection.volume
    if volume.shape != own.shape or not np.allclose(volume.affine, own.affine, atol=1e-3):
        raise GeometryError(
            "the scan is not on the grid of the detection",
            where=volume.name,
            code="E_GRID",
            found=f"{' x '.join(map(str, volume.shape))} voxels",
            expected=f"{' x '.join(map(str, own.shape))} voxels at the same place",
            remedy="give the scan that was detected in, or resample this one to its grid",
        )
    return replace(own, voxels_XYZ=volume.voxels_XYZ)


def _saved(detection: Detection, folder: Path) -> Results:
    """Return the detection as a results folder, from which pictures are made in one way only."""
    detection.save(folder)
    count = len(detection.healthy_scores)
    run = {
        "map_threshold": detection.threshold,
        "calibration_scans": count,
        "healthy_scores": list(detection.healthy_scores),
        "smallest_p_value": smallest_p_value(count),
        "false_positive_rate": _NO_RATE,
    }
    write_results(folder, [detection.score_row()], detection.finding_rows(), run)
    return read_results(folder)

"""A detection in a notebook: its summary, its picture, and the page in a frame."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mendscan
from mendscan.errors import GeometryError, ResultsError
from mendscan.report.showing import show
from mendscan.results import Detection, GateWarning
from mendscan.volumes.maps import write_scan
from mendscan.volumes.volume import volume_from_array
from result_folders import AFFINE, of_volume

NAME = "<b>a & b"


@pytest.fixture(scope="module")
def detection() -> Detection:
    voxels = np.random.default_rng(0).uniform(0, 100, (20, 24, 16))
    scan = volume_from_array(voxels, AFFINE, name=NAME)
    map_XYZ = np.zeros(scan.shape, np.float32)
    map_XYZ[3:8, 3:8, 3:8], map_XYZ[12:14, 12:15, 12:14] = 0.8, 0.6
    found = of_volume(scan, map_XYZ, p_value=0.1, score=2.5)
    warning = GateWarning("W_CROP", "misses 30% of the anatomy at the <top>")
    return replace(found, healthy_scores=(-1.0, 0.0, 1.0, 2.0, 2.6, 0.5, 0.1, 0.2, 0.3), warnings=(warning,))


def test_the_summary_says_what_was_found(detection: Detection) -> None:
    shown = detection._repr_html_()
    assert "&lt;b&gt;a &amp; b" in shown
    assert NAME not in shown
    assert "<td>2.50 healthy SD</td>" in shown
    assert "<td>0.1, from 9 healthy scans</td>" in shown
    assert "misses 30% of the anatomy at the &lt;top&gt;" in shown
    assert shown.count("<tr><td>") == len(detection.findings) == 2
    assert "<td>1</td><td>1,125</td><td>0.80</td>" in shown
    assert 'src="data:image/png;base64,' in shown
    assert "not a medical device" in shown


def test_the_summary_of_a_score_alone(detection: Detection) -> None:
    alone = replace(detection, map_XYZ=None, restored_XYZ=None, findings=(), parts={}, part_p_values={}, warnings=())
    shown = alone._repr_html_()
    assert "2.50 nats" in shown
    assert "No findings." in shown
    assert "<img" not in shown


def test_plot_is_the_picture_of_the_results_folder(detection: Detection) -> None:
    figure = detection.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["scan", "restored", "anomaly map"]
    with pytest.raises(ValueError, match="no map"):
        replace(detection, map_XYZ=None).plot()


def test_the_page_holds_the_scan_alone(detection: Detection) -> None:
    page = show(detection.volume, detection).html
    assert '<body class="only-scans">' in page
    assert len(re.findall(r'<section class="card scan"', page)) == 1
    assert "&lt;b&gt;a &amp; b" in page
    assert "1 of 9 healthy scans as high" not in page
    assert "none of 9 healthy scans as high" in page
    assert "Unlike the training scans" in page
    assert "not a medical device" in page


def test_a_notebook_shows_the_page_in_a_frame_that_reaches_nothing(detection: Detection) -> None:
    shown = show(detection.volume, detection, height=500)
    frame = shown._repr_html_()
    (inside,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inside) == shown.html
    assert 'sandbox="allow-scripts allow-forms"' in frame
    assert "height: 500px" in frame


def test_another_scan_of_the_same_grid_is_shown_under_the_map(detection: Detection) -> None:
    other = volume_from_array(100 - detection.volume.to_native(detection.volume.voxels_XYZ), AFFINE, name="other")
    page = show(other, detection).html
    assert page != show(detection.volume, detection).html
    assert f'<h2 id="scan-1-title">{html.escape(NAME)}</h2>' in page


def test_a_scan_is_given_as_file_volume_or_array(detection: Detection, tmp_path: Path) -> None:
    write_scan(tmp_path / "scan.nii.gz", detection.volume)
    array = (detection.volume.voxels_XYZ, detection.volume.affine)
    pages = {mendscan.show(scan, detection).html for scan in (tmp_path / "scan.nii.gz", detection.volume, array)}
    assert len(pages) == 1


def test_a_scan_of_another_grid_is_refused(detection: Detection) -> None:
    volume = detection.volume
    shifted = volume.affine.copy()
    shifted[0, 3] += 1
    for scan in ((volume.voxels_XYZ[1:], volume.affine), (volume.voxels_XYZ, shifted)):
        with pytest.raises(GeometryError, match="not on the grid"):
            show(scan, detection)
    with pytest.raises(ResultsError, match="maps=True"):
        show(volume, replace(detection, map_XYZ=None))


def test_it_is_saved(detection: Detection, tmp_path: Path) -> None:
    shown = show(detection.volume, detection)
    shown.save(tmp_path / "scan.html")
    assert (tmp_path / "scan.html").read_text(encoding="utf-8") == shown.html

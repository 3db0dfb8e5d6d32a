"""Pictures of the stages show what was computed, where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from detection.conftest import calibration, detector, networks  # noqa: F401
from mendscan.detection.detector import Detector
from mendscan.detection.explaining import Stages, explain
from mendscan.evaluation.folders import evaluate_folder
from mendscan.report.stage_figures import draw_code_likelihoods, draw_restorations, draw_stages, draw_voxel_scores
from mendscan.volumes.maps import write_labels, write_map
from mendscan.volumes.volume import Volume, volume_from_array
from tiny_model import OBLIQUE, head


@pytest.fixture(scope="module")
def scan() -> Volume:
    return volume_from_array(head(99), OBLIQUE, name="scan")


@pytest.fixture(scope="module")
def label(scan: Volume) -> Volume:
    """A box in the right anterior superior part, in the scan's own axes."""
    x, y, z = scan.shape
    box_XYZ = np.zeros(scan.shape, np.float32)
    box_XYZ[x // 2 + 1 : x - 2, y // 2 + 2 : y - 2, z // 2 : z - 3] = 1
    return volume_from_array(scan.to_native(box_XYZ), OBLIQUE, name="scan")


@pytest.fixture(scope="module")
def stages(detector: Detector, scan: Volume) -> Stages:  # noqa: F811
    z = scan.shape[2] * 0.6
    point = scan.affine @ [0.0, 0.0, z, 1.0]
    return explain(detector, scan, through_mm=tuple(point[:3]))


def titled(figure: Figure, words: str):
    return next(axes for axes in figure.axes if words in axes.get_title())


def test_panels_hold_the_stages(stages: Stages, label: Volume) -> None:
    figure = draw_stages(stages, label=label)
    for words, expected in (
        ("slice y", stages.slice_HW),
        ("own codes", stages.reconstruction_HW),
        ("codes\n(", stages.codes_hw),
        ("−log p of each", stages.nll_hw),
        ("Σ φ", stages.residual_HW),
        ("paper's map", stages.paper_map_SHW[stages.row]),
        ("−log p, smoothed", stages.excess["nll"][stages.row]),
        ("model's map", stages.map_SHW[stages.row]),
    ):
        image = titled(figure, words).images[0]
        np.testing.assert_array_equal(image.get_array(), expected.T)
        assert image.origin == "lower"
        assert image.get_extent() == [0, 16, 0, 16], "codes and pixels cover the same"
    caption = figure.get_suptitle()
    assert "research use only" in caption
    assert "outlined: the label" in caption


def test_the_label_is_outlined_where_it_lies(stages: Stages, label: Volume) -> None:
    outline = titled(draw_stages(stages, label=label), "slice y").collections[0]
    vertices = np.concatenate([path.vertices for path in outline.get_paths()])
    assert (vertices > 7).all(), "right and anterior are to the right and up"
    without = draw_stages(stages)
    assert not titled(without, "slice y").collections
    assert "label" not in without.get_suptitle()


def test_restorations_are_shown_with_their_weights(stages: Stages) -> None:
    figure = draw_restorations(stages, count=3)
    for number in range(3):
        axes = titled(figure, f"r{number + 1}: φ = {stages.weight_R[number]:.2f}")
        np.testing.assert_array_equal(axes.images[0].get_array(), stages.restorations_RHW[number].T)
    assert len([axes for axes in draw_restorations(stages, count=50).axes if "φ" in axes.get_title()]) == 4


def test_codes_are_counted_once(stages: Stages, label: Volume) -> None:
    axes = draw_code_likelihoods(stages, label=label).axes[0]
    counts = [
        int(text.get_text().split("(")[1].rstrip(")"))
        for text in axes.get_legend().get_texts()
        if "(" in text.get_text()
    ]
    assert sum(counts) == stages.encoded.codes_Shw.numel()
    assert min(counts) > 0
    lines = sorted(line.get_xdata()[0] for line in axes.lines)
    assert lines == sorted((stages.thresholds.restoration, stages.thresholds.score))


def test_map_values_of_all_voxels_are_drawn(scan: Volume, label: Volume, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("maps", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(2):
        write_map(tmp_path / "maps" / f"c{case}.nii.gz", rng.random(scan.shape), scan)
        write_labels(tmp_path / "labels" / f"c{case}.nii.gz", (label.voxels_XYZ * case).astype(np.uint8), scan)
    evaluation = evaluate_folder(tmp_path / "maps", tmp_path / "labels", resamples=2)
    figure = draw_voxel_scores({"one": evaluation, "two": evaluation})
    shown = " ".join(text.get_text() for text in figure.axes[0].get_legend().get_texts())
    anomalous = int(label.voxels_XYZ.sum())
    assert f"anomalous voxels ({anomalous:,})" in shown
    assert f"healthy voxels ({2 * scan.voxels_XYZ.size - anomalous:,})" in shown
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]

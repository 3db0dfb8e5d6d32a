"""Marks lie where their values are, and inside their chart, whatever the values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mendscan.report.charts import Axis, code_grid, profile, statistics_bars
from mendscan.report.content import CohortFacts, cohort_facts, healthy_as_high
from mendscan.report.distribution import distribution
from mendscan.report.pictures import picture_case
from mendscan.results import read_results
from mendscan.volumes.volume import volume_from_array
from result_folders import detection, of_volume, results_of


def cohort_of(folder: Path, scores: list[float], **run: object) -> CohortFacts:
    scans = [detection(f"case{n}", p_value=0.5, score=score) for n, score in enumerate(scores)]
    results_of(folder, *scans)
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | run))
    return cohort_facts(read_results(folder))


def test_an_axis_is_even_up_to_its_linear_end_and_rises_beyond() -> None:
    even = Axis(0.0, 10.0, 100.0, 200.0)
    assert [even(value) for value in (0.0, 2.5, 10.0)] == [100.0, 125.0, 200.0]
    assert even.ticks() == [(100.0, "0"), (120.0, "2"), (140.0, "4"), (160.0, "6"), (180.0, "8"), (200.0, "10")]
    compressed = Axis(-1.0, 1e6, 0.0, 100.0, linear_to=5.0)
    places = [compressed(value) for value in (-1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 1e3, 1e6)]
    assert places == sorted(places)
    assert places[2] - places[1] == pytest.approx(places[3] - places[2], abs=0.02)
    assert [text for _, text in compressed.ticks()][-3:] == ["10,000", "100,000", "1e+06"]


@pytest.mark.parametrize("scores", [[1.0], [2.0] * 40, [-3.0, 0.1, 1e9], [0.0, 0.0]])
def test_every_scan_has_a_dot_inside_the_chart(tmp_path: Path, scores: list[float]) -> None:
    chart = distribution(cohort_of(tmp_path / "r", scores))
    assert len(chart.dots) == len(scores)
    for place, up, _ in chart.dots:
        assert 0 < place < chart.width
        assert chart.radius <= up < chart.base
    assert len({(place, up) for place, up, _ in chart.dots}) == len(scores)
    assert sum(height for _, _, height in chart.bars) > 0
    assert len(chart.healthy) == 19


def test_the_threshold_parts_the_flagged_from_the_others(tmp_path: Path) -> None:
    chart = distribution(cohort_of(tmp_path / "r", [2.5, 2.7]))
    assert chart.threshold is not None
    below, above = sorted(place for place, _, _ in chart.dots)
    assert below < chart.threshold < above


def test_without_healthy_scores_the_cohort_is_still_drawn(tmp_path: Path) -> None:
    chart = distribution(cohort_of(tmp_path / "r", [2.5, 2.7], healthy_scores=[], score_threshold=None))
    assert (chart.bars, chart.healthy, chart.threshold, len(chart.dots)) == ((), (), None, 2)


def test_the_profile_marks_the_slices_that_are_shown(tmp_path: Path) -> None:
    volume = volume_from_array(np.random.default_rng(0).normal(size=(8, 9, 11)), np.eye(4), name="case")
    map_XYZ = np.zeros((8, 9, 11), np.float32)
    map_XYZ[2:4, 2:4, 5] = 0.75
    case = read_results(results_of(tmp_path / "r", of_volume(volume, map_XYZ))).cases[0]
    details = case.details()
    assert details is not None
    pictures = picture_case(case, threshold=0.5, findings=5)
    chart = profile(details, pictures, left=0.0, right=100.0, height=10.0)
    assert chart is not None
    assert chart.marks == ((50.0, "1"),)
    assert chart.map.split()[5] == "50,2.5"
    assert (chart.scores.split()[-1], chart.worst, chart.highest) == ("100,0", 100.0, 9.0)
    assert code_grid(details, pictures) is None
    assert (
        profile(replace(details, positions=details.positions[:1], slice_scores=details.slice_scores[:1]), pictures)
        is None
    )


def test_bars_of_statistics_run_from_zero_to_the_value(tmp_path: Path) -> None:
    facts = cohort_of(tmp_path / "r", [1.0]).cases[0]
    bars = statistics_bars(replace(facts, statistics=(("a", 4.0), ("b", -2.0))), left=0.0, right=80.0)
    assert bars is not None
    assert (bars.zero, bars.usual, bars.rows) == (40.0, (20.0, 40.0), (("a", 4.0, 80.0), ("b", -2.0, 20.0)))
    assert statistics_bars(replace(facts, statistics=())) is None


def test_p_values_are_counts_of_healthy_scans() -> None:
    assert [healthy_as_high((1 + count) / 13, 12) for count in range(13)] == list(range(13))

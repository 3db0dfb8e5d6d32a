"""Components of a map, in millimetres and in the file's own voxels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mendscan.results import FINDING_COLUMNS, SCORE_COLUMNS, Detection, find_components, locate_findings
from mendscan.volumes.volume import Volume, volume_from_array

SHAPE = (12, 9, 10)
FLIPPED = np.array([[0, 0, 3.0, -20], [-2.0, 0, 0, 15], [0, -1.5, 0, 40], [0, 0, 0, 1]])
"""i runs to posterior, j to inferior, k to the right: 2, 1.5 and 3 mm."""


@pytest.fixture
def volume() -> Volume:
    voxels = np.random.default_rng(0).normal(size=SHAPE)
    return volume_from_array(voxels, FLIPPED, name="case")


def to_ras(volume: Volume, native: np.ndarray) -> np.ndarray:
    """The inverse of `to_native`, found by following where each voxel goes."""
    place_XYZ = np.arange(native.size).reshape(volume.shape)
    values_XYZ = np.empty(volume.shape, np.float32)
    values_XYZ.ravel()[volume.to_native(place_XYZ).ravel()] = native.ravel()
    return values_XYZ


def with_boxes(*boxes: tuple[tuple[slice, slice, slice], float]) -> np.ndarray:
    native = np.zeros(SHAPE, np.float32)
    for box, height in boxes:
        native[box] = height
    return native


SMALL = (slice(1, 3), slice(2, 3), slice(8, 10))
LARGE = (slice(6, 10), slice(5, 8), slice(1, 4))


def test_size_and_place_of_a_component(volume: Volume) -> None:
    map_XYZ = to_ras(volume, with_boxes((LARGE, 0.75)))
    (found,) = find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=0.0)
    assert found.voxels == 36
    assert found.volume_mm3 == pytest.approx(36 * 9.0)
    assert found.peak == found.mean == 0.75
    assert found.centre_voxel == (7.5, 6.0, 2.0)
    assert found.centre_mm == pytest.approx(tuple((FLIPPED @ [7.5, 6.0, 2.0, 1])[:3]))


def test_the_centre_is_the_mean_of_the_voxels_whatever_their_values(volume: Volume) -> None:
    native = with_boxes((LARGE, 0.6))
    native[6, 5, 1] = 0.9
    (found,) = find_components(to_ras(volume, native), volume, threshold=0.5, smallest_mm3=0.0)
    assert found.centre_voxel == pytest.approx((7.5, 6.0, 2.0))
    assert found.peak == pytest.approx(0.9)
    assert found.mean == pytest.approx((35 * 0.6 + 0.9) / 36)


def test_the_largest_sum_comes_first_and_small_ones_are_left_out(volume: Volume) -> None:
    map_XYZ = to_ras(volume, with_boxes((SMALL, 1.0), (LARGE, 0.6)))
    assert [f.voxels for f in find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=0.0)] == [36, 4]
    assert [f.voxels for f in find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=35.9)] == [36, 4]
    assert [f.voxels for f in find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=36.1)] == [36]
    assert [f.voxels for f in find_components(map_XYZ, volume, threshold=0.7, smallest_mm3=0.0)] == [4]
    assert find_components(map_XYZ, volume, threshold=1.0, smallest_mm3=0.0) == ()


def test_corners_connect(volume: Volume) -> None:
    native = np.zeros(SHAPE, np.float32)
    native[2, 2, 2] = native[3, 3, 3] = native[5, 5, 5] = 1
    found = find_components(to_ras(volume, native), volume, threshold=0.5, smallest_mm3=0.0)
    assert [f.voxels for f in found] == [2, 1]
    assert found[0].centre_voxel == (2.5, 2.5, 2.5)


def test_a_component_at_the_border_stays_inside(volume: Volume) -> None:
    native = np.zeros(SHAPE, np.float32)
    native[-1, 0, -1] = 1
    (found,) = find_components(to_ras(volume, native), volume, threshold=0.5, smallest_mm3=0.0)
    assert found.centre_voxel == (11, 0, 9)


def test_the_expected_number_is_in_the_table_where_it_is_known(volume: Volume) -> None:
    map_XYZ = to_ras(volume, with_boxes((SMALL, 1.0), (LARGE, 0.75)))
    first, second = find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=0.0)
    assert first.expected_false is None
    known = replace(first, expected_false=3 / 7)
    detection = Detection(
        volume=volume,
        score=1.0,
        p_value=0.5,
        slice_scores=np.array([1.0]),
        slice_indices=np.array([2.0]),
        slice_axis="Z",
        map_XYZ=map_XYZ,
        restored_XYZ=None,
        threshold=0.5,
        findings=(known, second),
    )
    assert [row["expected_false_per_scan"] for row in detection.finding_rows()] == [0.4286, None]
    assert all(set(row) == set(FINDING_COLUMNS) for row in detection.finding_rows())
    assert set(detection.score_row()) <= set(SCORE_COLUMNS)


def test_rows_of_the_tables(volume: Volume) -> None:
    map_XYZ = to_ras(volume, with_boxes((SMALL, 1.0), (LARGE, 0.75)))
    detection = Detection(
        volume=volume,
        score=12.3456789,
        p_value=0.05,
        slice_scores=np.array([1.0, 11.0]),
        slice_indices=np.array([2.0, 7.2]),
        slice_axis="Z",
        map_XYZ=map_XYZ,
        restored_XYZ=None,
        threshold=0.5,
        findings=find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=0.0),
    )
    row = detection.score_row()
    # Z is the file's j, and j runs to inferior: 9 voxels, so Z = 7.2 is j = 0.8.
    assert (row["max_slice_axis"], row["max_slice"]) == ("j", 1)
    assert (row["case"], row["status"], row["score"], row["findings"], row["map_max"]) == (
        "case",
        "ok",
        12.345679,
        2,
        1.0,
    )
    first, second = detection.finding_rows()
    assert (first["finding"], second["finding"]) == (1, 2)
    assert (first["centre_i"], first["centre_j"], first["centre_k"]) == (7.5, 6.0, 2.0)
    mm = (FLIPPED @ [7.5, 6.0, 2.0, 1])[:3]
    assert [first[f"centre_{axis}_mm"] for axis in "xyz"] == pytest.approx(mm.tolist())


def test_findings_are_located_as_the_table_keeps_them(volume: Volume) -> None:
    native = with_boxes((LARGE, 0.75), (SMALL, 0.6))
    native[7, 6, 2], native[2, 2, 8] = 0.9, 0.95
    map_XYZ = to_ras(volume, native)
    large, small = find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=0.0)
    rounded = replace(small, centre_voxel=tuple(round(v, 1) for v in small.centre_voxel))
    gone = replace(small, voxels=99)
    labels_XYZ, places = locate_findings((rounded, large, gone), map_XYZ, volume, threshold=0.5)
    assert [
        None if place is None else volume.native_index(np.array(place.peak_XYZ, float)).tolist() for place in places
    ] == [
        [2, 2, 8],
        [7, 6, 2],
        None,
    ]
    assert places[0] is not None
    assert places[1] is not None
    assert [int((labels_XYZ == place.component).sum()) for place in places[:2]] == [4, 36]


def test_in_a_map_without_components_nothing_is_located(volume: Volume) -> None:
    map_XYZ = to_ras(volume, with_boxes((LARGE, 0.75)))
    found = find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=0.0)
    labels_XYZ, places = locate_findings(found, map_XYZ, volume, threshold=0.8)
    assert places == (None,)
    assert not labels_XYZ.any()

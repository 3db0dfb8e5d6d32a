"""What the page is told about results, whole ones and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.results import read_results
from mendscan.viewer.pages import case_page, overview
from viewer_results import AFFINE, SHAPE_XYZ, build_results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_results(tmp_path / "results")


def page(folder: Path, name: str) -> dict:
    results = read_results(folder)
    told = case_page(results, [case.name for case in results.cases].index(name))
    json.dumps(told, allow_nan=False)
    return told


def test_the_list_is_ranked_and_failed_scans_say_why(results) -> None:
    told = overview(read_results(results))
    json.dumps(told, allow_nan=False)
    assert [case["name"] for case in told["cases"]] == ["anomalous", "plain", "warned", "damaged", "broken_file"]
    assert [case["number"] for case in told["cases"]] == [0, 1, 2, 3, 4]
    assert [case["flagged"] for case in told["cases"]] == [True, False, False, False, None]
    assert [case["findings"] for case in told["cases"]] == [2, 0, 1, 1, 0]
    assert told["cases"][2]["warnings"] == ["the field of view misses the top"]
    failed = told["cases"][4]
    assert (failed["failed"], failed["score"], failed["code"], failed["message"]) == (
        True,
        None,
        "E_NAN",
        "broken_file.nii: 3 NaN",
    )
    assert told["run"]["map_threshold"] == 0.5


def test_a_scan_is_told_with_its_geometry(results) -> None:
    told = page(results, "anomalous")
    assert told["problems"] == []
    assert set(told["volumes"]) == {"scan", "map", "restored"}
    assert told["volumes"]["scan"] | {"bytes": 0} == {
        "type": "i2",
        "big_endian": False,
        "slope": 1.0,
        "intercept": 0.0,
        "bytes": 0,
    }
    geometry = told["geometry"]
    assert geometry["shape"] == [SHAPE_XYZ[1], SHAPE_XYZ[2], SHAPE_XYZ[0]]
    np.testing.assert_allclose(geometry["affine"], AFFINE)
    assert geometry["orientation"] == [[1, -1], [2, -1], [0, 1]]
    assert geometry["known"]
    assert [finding["peak"] for finding in told["listed"]] == [0.9, 0.7]
    assert told["profile"] == {
        "axis": 2,
        "plane": "axial",
        "length": 20,
        "positions": [1.5, 5.5, 9.0, 13.5, 17.5],
        "scores": [1.0, 2.0, 9.0, 3.0, 0.0],
    }
    assert told["statistics"][0] == {"name": "typical noise", "value": 3.25}
    assert told["parts"]["local"] == {"value": 2.45, "p_value": 0.05}


def test_unknown_orientation_is_told(results) -> None:
    assert page(results, "warned")["geometry"]["known"] is False


def test_a_failed_scan_has_no_volumes(results) -> None:
    told = page(results, "broken_file")
    assert (told["failed"], told["volumes"], told["geometry"], told["problems"]) == (True, {}, None, [])


def test_results_without_maps_and_of_an_earlier_version_say_what_is_missing(folder) -> None:
    (folder / "scans" / "anomalous.nii.gz").unlink()
    for kind in ("scans", "maps", "restored"):
        (folder / kind / "plain.nii.gz").unlink()
    (folder / "restored" / "warned.nii.gz").unlink()
    (folder / "details" / "warned.json").unlink()
    for name, missing, shown in (
        ("anomalous", "does not hold the scan:", set()),
        ("plain", "the scan or the anomaly map", set()),
        ("warned", "does not hold the restoration:", {"scan", "map"}),
    ):
        told = page(folder, name)
        assert missing in told["problems"][0]
        assert "run mendscan detect again" in told["problems"][0]
        assert set(told["volumes"]) == shown
    assert (told["profile"], told["statistics"]) == (None, [])


@pytest.mark.parametrize("damage", [b"", b"<html>", b"\x1f\x8b\x08", b"\x00" * 400, bytes(range(256)) * 3])
def test_a_damaged_map_is_told_and_spoils_nothing_else(folder, damage) -> None:
    (folder / "maps" / "anomalous.nii.gz").write_bytes(damage)
    told = page(folder, "anomalous")
    assert set(told["volumes"]) == {"scan", "restored"}
    assert len(told["problems"]) == 1
    assert told["problems"][0].startswith("the anomaly map: ")
    assert str(folder) not in told["problems"][0]
    assert page(folder, "plain")["problems"] == []


def test_a_map_of_another_grid_is_not_laid_over_the_scan(folder) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    nib.Nifti1Image(np.zeros((18, 20, 16), np.float32), shifted).to_filename(folder / "maps" / "anomalous.nii.gz")
    nib.Nifti1Image(np.zeros((18, 20, 15), np.float32), AFFINE).to_filename(folder / "restored" / "anomalous.nii.gz")
    told = page(folder, "anomalous")
    assert set(told["volumes"]) == {"scan"}
    assert told["problems"] == [
        "the anomaly map: it does not overlay the scan",
        "the restoration: it does not overlay the scan",
    ]


@pytest.mark.parametrize("damaged", ["{", '{"statistics": {"typical noise": NaN}}'])
def test_damaged_details_are_told_without_a_path(folder, damaged) -> None:
    (folder / "details" / "anomalous.json").write_text(damaged)
    told = page(folder, "anomalous")
    assert "the details of this scan: the details cannot be read" in told["problems"][0]
    assert str(folder) not in told["problems"][0]
    assert set(told["volumes"]) == {"scan", "map", "restored"}


def test_numbers_that_are_none_become_null(folder) -> None:
    text = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(text.replace("2.45", "nan", 1))
    details = json.loads((folder / "details" / "anomalous.json").read_text())
    details["statistics"]["typical noise"] = "nan"
    details["slices"][0]["score"] = "inf"
    (folder / "details" / "anomalous.json").write_text(json.dumps(details))
    told = page(folder, "anomalous")
    assert told["score"] is None
    assert told["profile"]["scores"][0] is None
    assert told["statistics"][-1] == {"name": "typical noise", "value": None}

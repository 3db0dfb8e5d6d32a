"""A results folder is read back as it was written, and says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.errors import GeometryError, ResultsError, WriteError, one_line
from mendscan.report.report import write_report
from mendscan.results import Detection, GateWarning, read_results
from mendscan.results.figures import draw_detection, png_of
from mendscan.volumes.remarks import Remark
from mendscan.volumes.volume import volume_from_array
from result_folders import AFFINE, FINDING, NLL, detection, results_of


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    found = detection("a", p_value=0.04)
    case = read_results(results_of(tmp_path, found)).case("a")
    assert (case.score, case.p_value, case.flagged, case.failed, case.has_map) == (1.0, 0.04, True, False, True)
    assert case.findings == (FINDING,)
    scan = case.scan()
    np.testing.assert_array_equal(scan.voxels_XYZ, found.volume.voxels_XYZ)
    np.testing.assert_allclose(scan.affine, found.volume.affine)
    np.testing.assert_array_equal(case.map_of(scan), found.map_XYZ)
    np.testing.assert_array_equal(case.restored_of(scan), found.restored_XYZ)


def test_the_details_are_read_back(tmp_path: Path) -> None:
    details = read_results(results_of(tmp_path, detection("a", p_value=0.04))).case("a").details()
    assert details is not None
    assert details.slice_axis == "Z"
    assert details.positions.tolist() == [0.5, 4.0, 8.5]
    assert details.slice_scores.tolist() == [1.0, 5.0, 2.0]
    assert details.statistics == {"typical noise": 3.25}
    assert details.warnings == (GateWarning("W_CROP", "the field of view misses the top"),)
    assert details.remarks == (Remark("W_UNIT", "the spatial unit is not the millimetre"),)
    assert details.code_nll is not None
    np.testing.assert_array_equal(details.code_nll.nats_Sab, NLL.nats_Sab)
    assert (details.code_nll.extent, details.code_nll.threshold) == (NLL.extent, NLL.threshold)


def test_cases_are_ranked_by_p_value_then_score_and_failed_ones_come_last(tmp_path: Path) -> None:
    scans = [detection(n, p_value=p, score=s) for n, p, s in (("a", 0.5, 3.0), ("b", 0.1, 1.0), ("c", 0.1, 2.0))]
    results = read_results(results_of(tmp_path, *scans, failed=("0", "z")))
    assert [case.name for case in results.cases] == ["c", "b", "a", "0", "z"]
    assert [case.failed for case in results.cases] == [False, False, False, True, True]
    assert results.case("z").score is None
    assert results.case("z").details() is None


def test_the_scan_of_the_results_holds_only_voxels_and_geometry(tmp_path: Path) -> None:
    results_of(tmp_path, detection("a", p_value=0.04))
    saved = nib.load(tmp_path / "scans" / "a.nii.gz")
    assert saved.get_data_dtype() == np.int16
    assert saved.shape == (12, 9, 10)
    np.testing.assert_allclose(saved.affine, AFFINE)
    assert bytes(saved.header["descrip"]).strip(b"\0") == b""


def test_a_scan_of_fractions_is_written_as_float32(tmp_path: Path) -> None:
    volume = volume_from_array(np.random.default_rng(0).normal(size=(5, 5, 5)), np.eye(4), name="a")
    Detection(
        volume, 0.0, 1.0, np.zeros(1), np.zeros(1), "X", np.zeros((5, 5, 5), np.float32), volume.voxels_XYZ, 0.5
    ).save(tmp_path)
    saved = nib.load(tmp_path / "scans" / "a.nii.gz")
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_array_equal(saved.get_fdata(dtype=np.float32), volume.voxels_XYZ)


def test_a_map_of_another_grid_is_refused(tmp_path: Path) -> None:
    folder = results_of(tmp_path, detection("a", p_value=0.04))
    shifted = AFFINE.copy()
    shifted[0, 3] += 5
    nib.save(nib.Nifti1Image(np.zeros((12, 9, 10), np.float32), shifted), folder / "maps" / "a.nii.gz")
    case = read_results(folder).case("a")
    with pytest.raises(GeometryError, match="do not overlay"):
        case.map_of(case.scan())


@pytest.mark.parametrize("damage", ["{", "[]", '{"slice_axis": "Z"}', '{"slice_axis": "Z", "slices": 3}'])
def test_damaged_details_are_named(tmp_path: Path, damage: str) -> None:
    folder = results_of(tmp_path, detection("a", p_value=0.04))
    (folder / "details" / "a.json").write_text(damage)
    with pytest.raises(ResultsError, match=r"a\.json: the details cannot be read"):
        read_results(folder).case("a").details()


def test_a_cell_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = results_of(tmp_path, detection("a", p_value=0.04))
    (folder / "scores.csv").write_text((folder / "scores.csv").read_text().replace("0.04", "low"))
    with pytest.raises(ResultsError, match="p_value of a is not a number"):
        read_results(folder)


def test_a_folder_without_results_and_an_unknown_case_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="not a results folder"):
        read_results(tmp_path)
    with pytest.raises(ResultsError, match="no such scan"):
        read_results(results_of(tmp_path, detection("a", p_value=0.04))).case("b")


def test_a_folder_of_an_earlier_version_has_no_warnings_and_details(tmp_path: Path) -> None:
    folder = results_of(tmp_path, detection("a", p_value=0.04))
    lines = (folder / "scores.csv").read_text().splitlines()
    column = lines[0].split(",").index("warnings")
    kept = [",".join(cell for n, cell in enumerate(line.split(",")) if n != column) for line in lines]
    (folder / "scores.csv").write_text("\n".join(kept) + "\n")
    (folder / "details" / "a.json").unlink()
    case = read_results(folder).case("a")
    assert (case.row["warnings"], case.details()) == ("", None)


def test_a_detection_without_a_map_saves_its_details_only(tmp_path: Path) -> None:
    volume = volume_from_array(np.random.default_rng(0).normal(size=(5, 5, 5)), np.eye(4), name="a")
    Detection(volume, 0.0, 1.0, np.ones(1), np.zeros(1), "X", None, None, 0.5).save(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["details/a.json"]
    assert json.loads((tmp_path / "details" / "a.json").read_text())["code_nll"] is None


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ""])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WriteError, match="no file name"):
        detection(name, p_value=0.5).save(tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "a/b", "..", "", "/etc/passwd"])
def test_a_table_whose_names_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = results_of(tmp_path / "results", detection("a", p_value=0.5))
    for table in ("scores.csv", "findings.csv"):
        text = (folder / table).read_text()
        (folder / table).write_text(text.replace("\na,", f"\n{name},"))
    with pytest.raises(ResultsError, match=r"scores.csv: the name of a scan is no file name \(found '.*'\)"):
        read_results(folder)


@pytest.mark.parametrize(
    "name", ["scans/a.nii.gz", "maps/a.nii.gz", "restored/a.nii.gz", "details/a.json", "model-card.md"]
)
def test_a_link_that_leads_elsewhere_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = results_of(tmp_path / "results", detection("a", p_value=0.1))
    (folder / "model-card.md").write_text("card")
    elsewhere = (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(ResultsError, match="leads out of the results"):
        read_all(folder)
    (folder / name).unlink()
    elsewhere.rename(folder / name)
    moved = folder.rename(tmp_path / "moved")
    folder.symlink_to(moved)  # the folder itself may be a link
    read_all(folder)


def read_all(folder: Path) -> None:
    (case,) = read_results(folder).cases
    scan = case.scan()
    case.map_of(scan)
    case.restored_of(scan)
    assert case.details() is not None


def test_a_scan_whose_name_is_too_long_for_files_has_none(tmp_path: Path) -> None:
    folder = results_of(tmp_path / "results", detection("a", p_value=0.5), failed=("x" * 251,))
    (folder / "scores.csv").write_text((folder / "scores.csv").read_text().replace("\na,", f"\n{'y' * 255},"))
    for case in read_results(folder).cases:
        assert not case.has_map
        assert case.details() is None
    write_report(folder, tmp_path / "page.html")


@pytest.mark.parametrize("name", ["a$^$b", r"a\$^$b", "$", "\x1b[2J", "caf\udce9", "名前", "a\r\nb", "x" * 251])
def test_a_picture_shows_any_name_as_it_is(name: str) -> None:
    drawn = detection(name, p_value=0.5)
    assert png_of(drawn).startswith(b"\x89PNG")
    caption = draw_detection(drawn).get_suptitle()
    assert caption.startswith(one_line(name).replace("$", r"\$"))

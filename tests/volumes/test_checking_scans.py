"""Checking many scans at once: every problem, every oddity, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.volumes.checking import CheckedScan, CheckReport, check_scans, in_few_lines
from mendscan.volumes.reading import ScanReader
from volumes.dicom_files import write_series
from volumes.test_reading import AFFINE, GZIPPED, nifti, patched, voxels_of


def checked(*paths: Path, **options: object) -> CheckReport:
    return check_scans(paths, workers=0, **options)  # type: ignore[arg-type]


def only(report: CheckReport) -> CheckedScan:
    (scan,) = report.scans
    return scan


def codes(report: CheckReport) -> dict[str, str]:
    return {Path(scan.path).name: scan.code for scan in report.scans}


def warned(scan: CheckedScan) -> set[str]:
    return {each.code for each in scan.warnings}


def saved(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.write_bytes(nib.Nifti1Image(voxels, affine).to_bytes())
    return path


def test_a_good_scan_is_described_along_its_own_axes(tmp_path) -> None:
    scan = only(checked(saved(tmp_path / "a.nii", voxels_of())))
    assert (scan.status, scan.code, scan.message, scan.warnings) == ("ok", "", "", ())
    assert (scan.shape, scan.spacing_mm, scan.orientation) == ((8, 9, 10), (2.0, 1.5, 3.0), "LAS")
    assert len(scan.content_hash or "") == 64


def test_all_problems_are_found_at_once_and_nothing_is_written(tmp_path) -> None:
    contents = {"a.nii": nifti(), "b.nii": nifti()[:-1], "c.nii": b"", "d.nii.gz": GZIPPED[:-5], "notes.txt": b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    report = checked(tmp_path, tmp_path / "absent")
    assert codes(report) == {
        "a.nii": "",
        "b.nii": "E_TRUNCATED",
        "c.nii": "E_EMPTY",
        "d.nii.gz": "E_TRUNCATED",
        "absent": "E_NOT_FOUND",
    }
    assert report.failed == 4
    assert [Path(path).name for path in report.passed_over] == ["notes.txt"]
    assert sorted(tmp_path.rglob("*")) == before


def test_processes_find_the_same(tmp_path) -> None:
    for index in range(8):  # fewer are not worth a second process
        saved(tmp_path / f"{index}.nii", voxels_of() + index)
    (tmp_path / "x.nii").write_bytes(b"no scan")
    assert check_scans([tmp_path], workers=2) == check_scans([tmp_path], workers=0)


def test_what_is_odd_is_kept_with_the_scan_and_not_logged(tmp_path, caplog) -> None:
    (tmp_path / "a.nii").write_bytes(patched(252, "2h", 0, 0) + b"behind")
    scan = only(checked(tmp_path / "a.nii"))
    assert warned(scan) == {"W_ORIENTATION", "W_TRAILING"}
    assert scan.orientation == "???"
    assert not caplog.records


@pytest.mark.parametrize(
    ("voxels", "affine", "code"),
    [
        (voxels_of() % 2, AFFINE, "W_LABELS"),
        (voxels_of(), np.diag([0.01, 0.01, 0.01, 1]), "W_EXTENT"),
        (voxels_of(), np.diag([2.0, 2.0, 400.0, 1]), "W_EXTENT"),
        (voxels_of(), AFFINE, ""),
        (voxels_of(), np.array([[2, 0, 0, 0], [0, 2, 0.5, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]]), "W_SHEAR"),
    ],
)
def test_oddities(tmp_path, voxels, affine, code) -> None:
    assert warned(only(checked(saved(tmp_path / "a.nii", voxels, affine)))) == ({code} if code else set())


def test_a_rotated_scan_is_not_sheared(tmp_path) -> None:
    cos, sin = np.cos(0.7), np.sin(0.7)
    affine = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ np.diag([2, 3, 5, 1])
    assert not only(checked(saved(tmp_path / "a.nii", voxels_of(), affine))).warnings


def test_equal_content_is_noted_across_folders_and_formats(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a.nii").write_bytes(nifti())
    (tmp_path / "two" / "b.nii.gz").write_bytes(GZIPPED)
    report = checked(tmp_path / "one", tmp_path / "two")
    assert report.failed == 0
    assert all(warned(scan) == {"W_SAME_CONTENT"} for scan in report.scans)
    assert "b.nii.gz" in report.scans[0].warnings[0].message


def test_equal_names_fail_within_a_folder_and_not_across_the_folders_given(tmp_path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        saved(tmp_path / folder / "a.nii", voxels_of() + (folder == "two"))
    assert checked(tmp_path / "one", tmp_path / "two").failed == 0
    report = checked(tmp_path)
    assert [scan.code for scan in report.scans] == ["E_DUPLICATE_NAME"] * 2
    assert "two/a.nii" in report.scans[0].message


def test_a_scan_named_twice_is_checked_once(tmp_path) -> None:
    path = saved(tmp_path / "a.nii", voxels_of())
    assert len(checked(path, tmp_path, path).scans) == 1


def test_a_series_is_a_scan(tmp_path) -> None:
    write_series(tmp_path / "P01")
    scan = only(checked(tmp_path))
    assert (scan.status, scan.shape, Path(scan.path).name) == ("ok", (7, 8, 6), "P01")


def test_pairs_are_named_and_not_passed_over_in_silence(tmp_path) -> None:
    saved(tmp_path / "a.nii", voxels_of())
    for name in ("b.hdr", "b.img", "c.zip"):
        (tmp_path / name).write_bytes(b"x")
    ((_, note),) = checked(tmp_path).notes
    assert note.endswith("not read (.hdr 1, .img 1, .zip 1)")


def test_too_large_is_what_the_caller_says(tmp_path) -> None:
    path = saved(tmp_path / "a.nii", voxels_of())
    assert only(checked(path, reader=ScanReader(max_bytes=8 * 9 * 10 * 4 - 1))).code == "E_TOO_LARGE"
    assert only(checked(path, reader=ScanReader(max_bytes=8 * 9 * 10 * 4))).code == ""


def run(*arguments: object):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_exit_codes(tmp_path) -> None:
    good, bad = saved(tmp_path / "good.nii", voxels_of()), tmp_path / "bad.nii"
    bad.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    ends = {(good,): 0, (good, bad): 3, (bad,): 4, (tmp_path / "empty",): 4, (): 2, (good, "--max-memory", 0): 2}
    for arguments, end in ends.items():
        shown = run(*arguments)
        assert (shown.exit_code, "Traceback" in shown.output) == (end, False), shown.output


def test_the_json_has_stable_keys(tmp_path) -> None:
    (tmp_path / "a\x1b[2J\n.nii").write_bytes(nifti() + b"x")
    shown = run(tmp_path, "--json")
    report = json.loads(shown.stdout)
    assert set(report) == {"format", "usable", "failed", "scans", "notes", "passed_over"}
    (scan,) = report["scans"]
    assert set(scan) == {
        "path", "status", "code", "message", "warnings", "shape", "spacing_mm", "orientation", "content_hash",
    }  # fmt: skip
    assert scan["path"] == str(tmp_path / "a\x1b[2J\n.nii")
    assert scan["warnings"] == [{"code": "W_TRAILING", "message": "1 bytes after the last voxel are ignored"}]
    assert "\x1b" not in run(tmp_path).stdout


def test_the_table_names_every_problem(tmp_path) -> None:
    saved(tmp_path / "good [b].nii", voxels_of() % 2)
    (tmp_path / "bad.nii").write_bytes(b"")
    shown = run(tmp_path).stdout
    for words in ("1 of 2 scans can be used, 1 of them with a warning", "good [b].nii", "E_EMPTY", "W_LABELS"):
        assert words in shown


def test_torch_is_not_needed(tmp_path) -> None:
    saved(tmp_path / "a.nii", voxels_of())
    program = (
        "import sys; from mendscan.cli import app\n"
        f"try: app(['check', {str(tmp_path)!r}])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_what_is_refused_is_what_the_caller_says(tmp_path) -> None:
    voxels = voxels_of().astype(np.float32)
    voxels[0, 0, :2] = np.nan
    path = saved(tmp_path / "holed.nii", voxels)
    assert only(checked(path)).code == "E_NAN"
    assert warned(only(checked(path, reader=ScanReader(nan="fill")))) == {"W_NAN"}
    assert run(path).exit_code == 4
    shown = run(path, "--nan", "fill")
    assert shown.exit_code == 0
    assert "2 voxels are NaN (0.28%)" in " ".join(shown.output.split())


@pytest.mark.parametrize("code", ["W_SFORM_QFORM", "W_ORIENTATION"])
def test_a_scan_of_uncertain_place_is_refused_where_that_is_wanted(tmp_path, code: str) -> None:
    image = nib.Nifti1Image(voxels_of(), np.diag([2.0, 1.5, 3.0, 1.0]))
    image.set_sform(np.eye(4), 1 if code == "W_SFORM_QFORM" else 0)
    image.set_qform(np.diag([2.0, 1.5, 3.0, 1.0]), 1 if code == "W_SFORM_QFORM" else 0)
    nib.save(image, tmp_path / "a.nii")
    assert code in warned(only(checked(tmp_path / "a.nii")))
    strict = only(checked(tmp_path / "a.nii", reader=ScanReader(strict=True)))
    assert strict.code == "E_GEOMETRY"
    assert run(tmp_path / "a.nii", "--strict").exit_code == 4
    assert run(tmp_path / "a.nii").exit_code == 0


def test_many_scans_of_one_oddity_are_one_line(tmp_path) -> None:
    for name in "abc":
        saved(tmp_path / f"{name}.nii", (voxels_of() > voxels_of().mean()).astype(np.uint8))
    (line,) = [line for line in in_few_lines(checked(tmp_path).scans) if "W_LABELS" in line]
    assert "a.nii" in line
    assert line.endswith("(W_LABELS), and 2 more scans likewise")

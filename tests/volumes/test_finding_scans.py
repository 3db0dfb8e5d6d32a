"""Which files of a folder are scans, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from mendscan.errors import CohortError, MendscanError, SettingsError, UnreadableScanError
from mendscan.volumes import case_name, find_scans, read_volume
from mendscan.volumes.apart import keep_apart
from volumes.dicom_files import some_voxels, write_series


def test_case_name_drops_only_the_suffix():
    expected = {"a/b.nii": "b", "b.nii.gz": "b", "b.NII.GZ": "b", "b.v2.nii": "b.v2", "b.gz": "b.gz", ".nii": ".nii"}
    assert {path: case_name(path) for path in expected} == expected


def test_scans_are_found_at_any_depth_in_order_and_hidden_ones_skipped(tmp_path):
    for name in ["b.nii", "a/z.nii.gz", "a/deep/c.NII", "a/._z.nii.gz", ".hidden.nii", ".git/d.nii", "e.png", "nii"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "linked.nii").symlink_to(tmp_path / "b.nii")
    (tmp_path / "folder.nii").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_scans(tmp_path)]
    assert found == ["a/deep/c.NII", "a/z.nii.gz", "b.nii", "linked.nii"]
    assert find_scans(str(tmp_path / "b.nii")) == [tmp_path / "b.nii"]


def test_no_scans_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"")
    for path, code in [(tmp_path, "E_NO_SCANS"), (tmp_path / "absent", "E_NOT_FOUND")]:
        with pytest.raises(CohortError) as caught:
            find_scans(path)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/x.nii", "b/x.nii.gz"), ("x.nii", "x.nii.gz"), ("a/X.nii", "b/x.nii"), ("a/\u00e9.nii", "b/e\u0301.nii")],
)
def test_two_scans_of_one_name_are_both_listed(tmp_path, first, second):
    for name in (first, second):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CohortError) as caught:
        find_scans(tmp_path)
    assert caught.value.code == "E_DUPLICATE_NAME"
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_linked_folders_are_not_followed_and_that_is_said(tmp_path, caplog):
    (tmp_path / "scans").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for folder in ("scans", "elsewhere"):
        (tmp_path / folder / f"{folder}.nii").write_bytes(b"")
    (tmp_path / "scans" / "P01").symlink_to(tmp_path / "elsewhere")
    assert [path.name for path in find_scans(tmp_path / "scans")] == ["scans.nii"]
    assert "1 linked folders, which are not followed" in caplog.text


def test_a_path_that_leads_nowhere_is_an_error_in_words(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / ("x" * 300)):
        with pytest.raises(MendscanError):
            find_scans(path)
        with pytest.raises(SettingsError, match="cannot be followed"):
            keep_apart(path, tmp_path / "out")


def test_a_dicom_file_that_is_closed_is_damaged_and_no_traceback(tmp_path, monkeypatch):
    write_series(tmp_path / "series", some_voxels())
    closed = sorted((tmp_path / "series").iterdir())[0]
    opened = Path.open

    def refuses(path, *arguments, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuses)
    (found,) = find_scans(tmp_path / "series")
    with pytest.raises(UnreadableScanError):
        read_volume(found)

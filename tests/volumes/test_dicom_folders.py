"""Folders of DICOM files: which series are scans, what they are called, and what is said of the rest."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import (
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
    generate_uid,
)

from mendscan.errors import CohortError, MendscanError
from mendscan.progress import Silent
from mendscan.volumes import case_name, dicom_sources, find_scans, read_volume, volume_from_array, write_map
from volumes.dicom_files import (
    AXIAL,
    CANARY,
    new_dataset,
    save,
    some_voxels,
    with_person,
    write_multiframe,
    write_object,
    write_series,
)

OTHER = some_voxels()[::-1]


def names_below(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_scans(root)]


def write_nifti(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_map(path, OTHER.astype(np.float32), volume_from_array(OTHER, np.eye(4), name="x"))


def test_each_folder_with_one_series_is_a_scan_of_its_name(tmp_path):
    write_series(tmp_path / "study" / "P01")
    write_series(tmp_path / "study" / "P02", name="IM{index}")  # no suffix
    write_series(tmp_path / ".hidden")
    write_nifti(tmp_path / "P03.nii.gz")
    (tmp_path / "study" / "P01" / "notes.txt").write_text("nothing")
    assert names_below(tmp_path) == ["P03.nii.gz", "study/P01", "study/P02"]
    assert [case_name(path) for path in find_scans(tmp_path)] == ["P03", "P01", "P02"]
    assert [read_volume(path).shape for path in find_scans(tmp_path)] == [(7, 8, 6)] * 3


@pytest.mark.parametrize("name", ["{index}.nii", "{index}.NRRD", "{index}.mha"])
def test_dicom_files_with_another_formats_name_are_one_series(tmp_path, name):
    write_series(tmp_path / "study" / "P01", name=name)
    write_nifti(tmp_path / "study" / "P01" / "P02.nii.gz")
    assert names_below(tmp_path) == ["study/P01", "study/P01/P02.nii.gz"]
    assert [read_volume(path).shape for path in find_scans(tmp_path)] == [(7, 8, 6)] * 2


def test_several_series_of_one_folder_are_told_apart(tmp_path):
    write_series(tmp_path / "P01", name="a{index}")
    write_series(tmp_path / "P01", OTHER, number=12, name="b{index}")
    assert names_below(tmp_path) == ["P01/P01_s003", "P01/P01_s012"]
    first, second = (read_volume(path) for path in find_scans(tmp_path))
    assert (first.name, second.name) == ("P01_s003", "P01_s012")
    np.testing.assert_array_equal(first.voxels_XYZ, second.voxels_XYZ[::-1])
    assert find_scans(tmp_path / "P01" / "P01_s012") == [tmp_path / "P01" / "P01_s012"]
    assert all(path.name.startswith("b") for path in dicom_sources(tmp_path / "P01" / "P01_s012"))
    for absent in ("P01_s013", "P01_", "s003", "P01_s003.nii"):
        with pytest.raises(CohortError) as caught:
            find_scans(tmp_path / "P01" / absent)
        assert caught.value.code == "E_NOT_FOUND"
        with pytest.raises(MendscanError):
            read_volume(tmp_path / "P01" / absent)


def test_series_of_the_same_number_or_none_are_named_by_their_uid(tmp_path):
    for letter, number in (("a", 3), ("b", 3), ("c", None), ("d", -1)):
        write_series(tmp_path / "P01", number=number, uid=f"1.2.{ord(letter)}", name=letter + "{index}")
    names = [path.name for path in find_scans(tmp_path)]
    assert len(set(names)) == 4
    assert all(len(name.removeprefix("P01_s")) == 6 for name in names)
    assert [path.name for path in find_scans(tmp_path)] == names
    assert all(read_volume(path).shape == (7, 8, 6) for path in find_scans(tmp_path))


def test_parts_of_one_series_are_never_mixed(tmp_path):
    uid = generate_uid()
    write_series(tmp_path / "P01", uid=uid, name="a{index}")
    write_series(tmp_path / "P01", OTHER, AXIAL[:, [0, 2, 1, 3]], uid=uid, name="b{index}")
    write_series(tmp_path / "P01", some_voxels((9, 8, 5)), uid=uid, name="c{index}")
    write_series(tmp_path / "P01", some_voxels(), np.diag([2.0, 2, 2, 1]) @ AXIAL, uid=uid, name="d{index}")
    assert [path.name for path in find_scans(tmp_path)] == [f"P01_s003-{n}" for n in (1, 2, 3, 4)]
    shapes = [read_volume(path).shape for path in find_scans(tmp_path)]
    assert shapes == [(7, 8, 6), (7, 6, 8), (7, 8, 6), (9, 8, 5)]


def test_what_is_no_scan_is_left_out_and_named(tmp_path, caplog):
    folder = tmp_path / "P01"
    write_series(folder)
    write_object(folder / "report", KeyObjectSelectionDocumentStorage, "KO")
    write_object(folder / "letter", EncapsulatedPDFStorage, "DOC")
    write_object(folder / "private", "1.2.3.4", "OT")
    write_series(folder, number=1, name="scout{index}", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder, some_voxels((7, 8, 3)), number=2, name="few{index}")
    write_series(folder, number=5, name="seg{index}", SOPClassUID=SegmentationStorage, Modality="SEG")
    write_series(folder, number=6, name="rgb{index}", PhotometricInterpretation="RGB", SamplesPerPixel=3)
    directory = with_person(new_dataset(MediaStorageDirectoryStorage))
    save(directory, folder / "DICOMDIR")
    with caplog.at_level(logging.WARNING):
        assert names_below(tmp_path) == ["P01"]
    for words in (
        "Key Object Selection Document (1 files)",
        "Encapsulated PDF (1 files)",
        "an object of an unknown kind (1 files)",
        "a localizer (6 files)",
        "a segmentation (6 files)",
        "a colour image (6 files)",
        "Media Storage Directory (1 files)",
        "series 2 (MR), too few slices of one kind: 3",
    ):
        assert f"{folder}: left out: {words}" in caplog.text
    assert CANARY not in caplog.text
    assert read_volume(folder).shape == (7, 8, 6)


def test_a_folder_without_a_usable_series_says_what_it_has(tmp_path):
    write_object(tmp_path / "P01" / "letter", EncapsulatedPDFStorage, "DOC")
    with pytest.raises(CohortError) as caught:
        find_scans(tmp_path)
    assert caught.value.code == "E_NO_SCANS"
    assert "Encapsulated PDF (1 files)" in str(caught.value)


def test_damaged_files_fail_and_are_not_passed_over(tmp_path):
    write_series(tmp_path / "P01")
    (tmp_path / "P01" / "extra.dcm").write_bytes(b"damaged")
    (tmp_path / "P02").mkdir()
    (tmp_path / "P02" / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(10))
    assert names_below(tmp_path) == ["P01", "P02"]
    for path in find_scans(tmp_path):
        with pytest.raises(MendscanError, match=r"cannot be|does not say|not a DICOM|cut off"):
            read_volume(path)


def test_a_file_that_may_not_be_opened_stops_nothing_but_the_series_beside_it(tmp_path, monkeypatch, caplog):
    write_series(tmp_path / "P01")
    write_nifti(tmp_path / "P02" / "P02.nii.gz")
    for folder in ("P01", "P02"):
        (tmp_path / folder / "closed").write_bytes(b"")
    open_it = Path.open

    def refuse(self: Path, *arguments: object, **options: object):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return open_it(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with caplog.at_level(logging.WARNING):
        assert names_below(tmp_path) == ["P01", "P02/P02.nii.gz"]
    assert f"{tmp_path / 'P02'}: 1 files cannot be opened" in caplog.text
    assert read_volume(tmp_path / "P02" / "P02.nii.gz").name == "P02"
    with pytest.raises(MendscanError) as caught:
        read_volume(tmp_path / "P01")
    assert caught.value.code == "E_ACCESS"


def test_the_same_name_in_two_formats_is_refused_with_both(tmp_path):
    write_series(tmp_path / "a" / "P01")
    write_nifti(tmp_path / "b" / "P01.nii.gz")
    with pytest.raises(CohortError) as caught:
        find_scans(tmp_path)
    assert caught.value.code == "E_DUPLICATE_NAME"
    assert str(tmp_path / "a" / "P01") in str(caught.value)
    assert "P01.nii.gz" in str(caught.value)


def test_a_series_in_two_folders_is_a_warning(tmp_path, caplog):
    write_series(tmp_path / "a", uid="1.2.3")
    write_series(tmp_path / "b", uid="1.2.3")
    assert names_below(tmp_path) == ["a", "b"]
    assert "another folder has files of the same series" in caplog.text


def test_files_of_many_frames_are_series(tmp_path):
    (tmp_path / "P01").mkdir()
    write_multiframe(tmp_path / "P01" / "a", some_voxels())
    assert names_below(tmp_path) == ["P01"]
    write_multiframe(tmp_path / "P01" / "b", OTHER)
    first, second = (read_volume(path) for path in find_scans(tmp_path))
    assert first.content_hash != second.content_hash


def test_the_folder_given_may_hold_the_series_itself(tmp_path, monkeypatch):
    write_series(tmp_path / "P01")
    monkeypatch.chdir(tmp_path / "P01")
    assert [case_name(path) for path in find_scans(".")] == ["P01"]
    write_series(tmp_path / "P01", number=4, name="b{index}")
    assert [case_name(path) for path in find_scans(".")] == ["P01_s003", "P01_s004"]
    assert [read_volume(path).name for path in find_scans(".")] == ["P01_s003", "P01_s004"]


def test_progress_is_told_of_every_file(tmp_path):
    told = []

    class Told(Silent):
        def begin(self, stage: str, total: int, *, done: int = 0) -> None:
            told.append(total)

        def advance(self, units: int = 1, **facts: float) -> None:
            told.append(-units)

    write_series(tmp_path / "P01")
    find_scans(tmp_path, Told())
    assert told == [6] + [-1] * 6

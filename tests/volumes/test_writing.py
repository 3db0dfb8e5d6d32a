"""Writing: whole or not at all, and exactly over the scan."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.errors import GeometryError, WriteError
from mendscan.volumes import (
    read_volume,
    volume_from_array,
    write_bytes,
    write_json,
    write_labels,
    write_map,
    write_text,
)
from mendscan.volumes.writing import write_chunks


def some_voxels() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 100, (5, 6, 7)).astype(np.float32)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace"), (Path, "read_bytes")])
def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch, owner, function):
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    with monkeypatch.context() as broken:
        broken.setattr(owner, function, no_space)
        with pytest.raises(WriteError) as caught:
            write_bytes(target, b"new")
    assert str(target) in str(caught.value)
    assert "No space left" in str(caught.value)
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.txt"]


def test_interrupted_write_leaves_no_temporary(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.txt", b"new")
    assert names_in(tmp_path) == []


def test_write_that_reads_back_differently_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"damaged")
    with pytest.raises(WriteError, match="read back"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert names_in(tmp_path) == []


def test_file_is_flushed_before_it_replaces_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (calls.append("replace"), replace(self, target))[1])
    write_bytes(tmp_path / "a.txt", b"new")
    assert calls == ["fsync", "replace", "fsync"]
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def test_folder_that_cannot_be_flushed_is_a_warning_for_the_file_is_there(tmp_path, monkeypatch, caplog):
    fsync, calls = os.fsync, []

    def fail_second(descriptor: int) -> None:
        calls.append(descriptor)
        fsync(descriptor) if len(calls) == 1 else no_space()

    monkeypatch.setattr(os, "fsync", fail_second)
    with caplog.at_level(logging.WARNING):
        write_bytes(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert "could not be flushed" in caplog.text


def test_target_that_cannot_be_a_file_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "absent" / "a.txt", tmp_path / ("a" * 300), tmp_path / "a\0b"):
        with pytest.raises(WriteError) as caught:
            write_bytes(target, b"new")
        assert caught.value.where == str(target)
    assert names_in(tmp_path) == ["folder"]


def test_longest_possible_name_can_be_written(tmp_path):
    write_bytes(tmp_path / ("a" * 255), b"new")


def test_pieces_become_a_file_and_its_digest(tmp_path):
    seen = []
    digest = write_chunks(tmp_path / "a", iter([b"one", b"", b"two"]), check=lambda *told: seen.append(told))
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    assert digest == hashlib.sha256(b"onetwo").hexdigest() == seen[0][1]
    assert seen[0][0].parent == tmp_path
    assert names_in(tmp_path) == ["a"]


def test_pieces_that_cannot_be_written_or_are_refused_leave_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def broken():
        yield b"new"
        raise GeometryError("no more")

    def refuse(temporary, digest):
        assert temporary.read_bytes() == b"new"
        raise GeometryError("refused")

    with pytest.raises(GeometryError, match="no more"):
        write_chunks(target, broken())
    with pytest.raises(GeometryError, match="refused"):
        write_chunks(target, [b"new"], check=refuse)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: hashlib.sha256(b"damaged"))
    with pytest.raises(WriteError, match="read back"):
        write_chunks(target, [b"new"])
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_text_keeps_its_line_ends_and_survives_undecodable_names(tmp_path):
    write_text(tmp_path / "a.txt", "é\r\n\udc80\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n\\udc80\n".encode()


def test_json_is_sorted_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": None, "é": "\udc80"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "a": null,\n  "b": [\n')
    assert text.endswith("}\n")
    assert json.loads(text)["é"] == "\udc80"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}, {1: 0, "a": 0}])
def test_what_json_does_not_know_is_refused_and_nothing_written(tmp_path, value):
    with pytest.raises(WriteError) as caught:
        write_json(tmp_path / "a.json", value)
    assert caught.value.code == "E_JSON"
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("sform_code", "qform_code"), [(1, 1), (2, 0), (0, 1), (4, 3), (0, 0)])
def test_map_takes_over_codes_units_version_and_nothing_private(tmp_path, kind, sform_code, qform_code):
    affine = np.array([[-1.5, 0, 0, 10], [0, 1.25, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1.0]])
    scan = kind((some_voxels() * 10).astype(np.int16), affine)
    scan.set_sform(affine, sform_code)
    scan.set_qform(affine, qform_code)
    scan.header.set_xyzt_units("mm", "sec")
    scan.header["descrip"] = scan.header["aux_file"] = b"ZZCANARY"
    scan.header["intent_name"] = b"ZZCANARY"
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"ZZCANARY"))
    nib.save(scan, tmp_path / "scan.nii.gz")

    volume = read_volume(tmp_path / "scan.nii.gz")
    write_map(tmp_path / "map.nii.gz", volume.voxels_XYZ, volume)
    scan, written = nib.load(tmp_path / "scan.nii.gz"), nib.load(tmp_path / "map.nii.gz")
    assert type(written) is kind
    np.testing.assert_array_equal(written.affine, scan.affine)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (sform_code, qform_code)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert written.header.get_zooms() == scan.header.get_zooms()
    assert written.get_data_dtype() == np.float32
    assert b"ZZCANARY" not in written.to_bytes()
    np.testing.assert_array_equal(written.get_fdata(), scan.get_fdata())


def test_sheared_map_has_no_qform(tmp_path):
    affine = np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    scan = nib.Nifti1Image(some_voxels(), affine)
    scan.set_sform(affine, 1)
    scan.set_qform(affine, 1)
    nib.save(scan, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    write_map(tmp_path / "map.nii.gz", volume.voxels_XYZ, volume)
    written = nib.load(tmp_path / "map.nii.gz")
    assert int(written.header["qform_code"]) == 0
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "scan.nii").affine)


def test_map_of_an_array_has_its_affine(tmp_path):
    affine = np.array([[0, 0.7, 0, 1.1], [-0.9, 0, 0, 2.2], [0, 0, 1.3, 3.3], [0, 0, 0, 1]])
    volume = volume_from_array(some_voxels(), affine, name="case")
    write_map(tmp_path / "map.nii.gz", volume.voxels_XYZ, volume)
    written = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), some_voxels())


@pytest.mark.parametrize(("highest", "dtype"), [(0, np.uint8), (1, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_labels_are_whole_numbers_over_the_scan(tmp_path, highest, dtype):
    affine = np.array([[0, 0.7, 0, 1.1], [-0.9, 0, 0, 2.2], [0, 0, 1.3, 3.3], [0, 0, 0, 1]])
    volume = volume_from_array(some_voxels(), affine, name="case")
    labels_XYZ = np.zeros(volume.shape, np.uint16)
    labels_XYZ[1, 2, 3] = highest
    write_labels(tmp_path / "labels.nii.gz", labels_XYZ, volume)
    written = nib.load(tmp_path / "labels.nii.gz")
    assert written.get_data_dtype() == dtype
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(written.dataobj), volume.to_native(labels_XYZ))


def test_same_map_gives_the_same_bytes(tmp_path):
    volume = volume_from_array(some_voxels(), np.eye(4), name="case")
    for name in ("a.nii.gz", "b.nii.gz"):
        write_map(tmp_path / name, volume.voxels_XYZ, volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_map_on_another_grid_or_with_another_suffix_is_refused(tmp_path):
    volume = volume_from_array(some_voxels(), np.eye(4), name="case")
    with pytest.raises(GeometryError) as caught:
        write_map(tmp_path / "map.nii.gz", volume.voxels_XYZ[:-1], volume)
    assert caught.value.code == "E_GRID"
    with pytest.raises(WriteError) as refused:
        write_map(tmp_path / "map.nii", volume.voxels_XYZ, volume)
    assert refused.value.code == "E_NAME"
    assert names_in(tmp_path) == []

"""Disks that fail while they are read or written, and what else a file system may do."""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from mendscan.detection.signing import make_key_pair
from mendscan.errors import MendscanError, UnreadableScanError, WriteError
from mendscan.volumes.pseudonyms import read_or_make_key
from mendscan.volumes.reading import read_volume
from mendscan.volumes.writing import temporary_folder, write_bytes
from volumes.dicom_files import write_series

VOXELS = np.random.default_rng(0).integers(1, 4000, (20, 20, 20)).astype(np.int16)


class FailingFile(io.FileIO):
    """A file of which the disk gives so many bytes and no more."""

    def __init__(self, path: Path, good_bytes: int) -> None:
        super().__init__(path)
        self.good_bytes = good_bytes

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.good_bytes <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        count = super().readinto(memoryview(buffer)[: self.good_bytes])
        self.good_bytes -= count
        return count

    def readall(self) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for name in ("scan.nii", "scan.nii.gz"):
        nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), folder / name)
    for name in ("scan.nrrd", "scan.mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), str(folder / name))
    write_series(folder / "series", VOXELS)
    return folder


@pytest.mark.parametrize("good_bytes", [0, 100, 500])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "series"])
def test_a_disk_that_fails_while_it_is_read_is_named(
    scans: Path, monkeypatch: pytest.MonkeyPatch, name: str, good_bytes: int
) -> None:
    assert (scans / name).exists()
    monkeypatch.setattr(Path, "open", lambda path, mode: io.BufferedReader(FailingFile(path, good_bytes)))
    with pytest.raises(UnreadableScanError) as caught:
        read_volume(scans / name)
    assert caught.value.code == "E_ACCESS"
    assert caught.value.where == str(scans / name)
    assert "Input/output error); check the disk or network" in str(caught.value)


class FailingClose(io.FileIO):
    """Network file systems may say only then that there is no room."""

    def close(self) -> None:
        if not self.closed and self.writable():
            super().close()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        super().close()


def test_no_room_when_the_file_is_closed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, mode: FailingClose(str(path), mode))
        with pytest.raises(WriteError) as caught:
            write_bytes(target, b"new")
    assert caught.value.code == "E_NO_SPACE"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_another_name_of_a_file_keeps_what_it_had(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"old")
    os.link(tmp_path / "kept", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("kept")
    for name in ("hard", "soft"):
        write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
        assert stat.S_ISREG((tmp_path / name).lstat().st_mode)
    assert (tmp_path / "kept").read_bytes() == b"old"


def test_what_is_written_never_leaves_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another file system, it could not be put in place in one step."""
    replace, moved = Path.replace, []
    monkeypatch.setattr(Path, "replace", lambda path, to: (moved.append((path.parent, Path(to))), replace(path, to))[1])
    write_bytes(tmp_path / "a", b"new")
    assert moved == [(tmp_path, tmp_path / "a")]


def new_pseudonyms(folder: Path) -> None:
    read_or_make_key(folder / "key")


def new_signature(folder: Path) -> None:
    pytest.importorskip("cryptography")
    make_key_pair(folder / "key")


@pytest.mark.parametrize("make", [new_pseudonyms, new_signature])
def test_half_a_key_is_never_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(MendscanError, match="No space left"):
            make(tmp_path)
    assert list(tmp_path.iterdir()) == []
    make(tmp_path)


def test_no_temporary_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(WriteError, match="set TMPDIR"), temporary_folder():
        pass
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "a").write_bytes(b"")
    assert list(tmp_path.iterdir()) == []

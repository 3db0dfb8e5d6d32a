"""Importing the challenge's archives: every file verified, every attack refused, every interruption survived."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from cohort.conftest import Listener
from mendscan.cli import app
from mendscan.cohort import mood_members
from mendscan.cohort.mood import Kind, MoodImport, import_mood
from mendscan.cohort.zip_safety import ArchiveLimits
from mendscan.errors import ArchiveError, Interrupted, MendscanError, ResultsError, SettingsError, WriteError
from mendscan.evaluation.layouts import find_labels
from mendscan.volumes import find_scans, read_volume
from mood_archives import (
    ToyCase,
    nifti_gz,
    small_scans,
    small_toys,
    toy_archive,
    toy_members,
    training_archive,
    training_members,
    write_zip,
)

GOOD = training_members(small_scans(3))
FLAGS, METHOD, CRC, COMPRESSED, SIZE, ATTRIBUTES, OFFSET, NAME = 8, 10, 16, 20, 24, 38, 42, 46


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def volumes_below(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not name.endswith("import.json")}


def table_entry(data: bytes, member: str) -> int:
    """Where the entry of a member begins in an archive's table of contents."""
    return data.rindex(member.encode()) - NAME


def patched(path: Path, member: str, offset: int, layout: str, value: int) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + layout, data, table_entry(bytes(data), member) + offset, value)
    path.write_bytes(data)
    return path


# What is put where


def test_training_scans_go_to_train_as_they_are(tmp_path: Path) -> None:
    scans = small_scans(3)
    archive = training_archive(tmp_path / "brain_train.zip", scans, affine=np.diag([0.7, 0.8, 5.0, 1.0]))
    told = Listener()
    done = import_mood(archive, tmp_path / "out", progress=told)
    expected = dict(training_members(scans, affine=np.diag([0.7, 0.8, 5.0, 1.0])))
    assert volumes_below(tmp_path / "out") == {k.replace("brain_train", "train"): v for k, v in expected.items()}
    assert [path.name for path in find_scans(tmp_path / "out" / "train")] == [f"{name}.nii.gz" for name in scans]
    np.testing.assert_array_equal(read_volume(tmp_path / "out/train/00001.nii.gz").voxels_XYZ, scans["00001"])
    assert (done.counts[Kind.training], done.counts[Kind.holdout], done.counts[Kind.toy]) == (3, 0, 0)
    assert (done.shape, done.region, done.already_there) == ((6, 7, 8), "brain", 0)
    np.testing.assert_allclose(done.spacing_mm, [(0.7, 0.7), (0.8, 0.8), (5.0, 5.0)], rtol=1e-6)
    assert done.bytes == sum(map(len, expected.values()))
    assert done.next_commands == (f"mendscan train -i {tmp_path / 'out' / 'train'} -o model --preset brain",)
    assert told.stages == [("read the archive", 1), ("import", 3)]
    assert told.units == 4


def test_toy_cases_go_where_evaluate_reads_them(tmp_path: Path) -> None:
    cases = small_toys(4)
    done = import_mood(toy_archive(tmp_path / "brain_toy.zip", cases), tmp_path / "out")
    labels = find_labels(tmp_path / "out" / "toy" / "labels")
    assert labels.cases == tuple(cases)
    assert labels.sample == {"toy_0": True, "toy_1": True, "toy_2": True, "toy_3": False}
    for name, case in cases.items():
        np.testing.assert_array_equal(np.asarray(nib.load(labels.pixel[name]).dataobj), case.label)
    assert [path.name for path in find_scans(tmp_path / "out/toy/scans")] == [f"{name}.nii.gz" for name in cases]
    assert (done.counts[Kind.toy], done.counts[Kind.pixel], done.counts[Kind.sample]) == (4, 4, 4)
    assert [command.split()[1] for command in done.next_commands] == ["detect", "evaluate"]


@pytest.mark.parametrize("toy_first", [False, True])
def test_training_and_toy_archive_share_a_folder(tmp_path: Path, toy_first: bool) -> None:
    archives = [
        training_archive(tmp_path / "brain_train.zip", small_scans(3)),
        toy_archive(tmp_path / "brain_toy.zip", small_toys(2)),
    ]
    for archive in reversed(archives) if toy_first else archives:
        import_mood(archive, tmp_path / "out")
    assert {name.split("/")[0] for name in volumes_below(tmp_path / "out")} == {"train", "toy"}
    assert (tmp_path / "out" / "import.json").is_file()
    assert (tmp_path / "out" / "toy" / "import.json").is_file()
    for archive in archives:  # and each still verifies
        import_mood(archive, tmp_path / "out")


def test_toy_cases_may_lie_in_the_archive_of_the_scans(tmp_path: Path) -> None:
    members = training_members(small_scans(2), region="abdom") + toy_members(small_toys(2))
    done = import_mood(write_zip(tmp_path / "all.zip", [(f"abdom/{n}", d) for n, d in members]), tmp_path / "out")
    assert (done.counts[Kind.training], done.counts[Kind.toy], done.region) == (2, 2, "abdomen")
    assert "--preset abdomen" in done.next_commands[0]
    assert find_labels(tmp_path / "out" / "toy" / "labels").cases == ("toy_0", "toy_1")


def test_a_toy_archive_of_the_challenges_shape_tells_its_region(tmp_path: Path) -> None:
    zeros = np.zeros((256, 256, 256), np.uint8)
    done = import_mood(toy_archive(tmp_path / "x.zip", {"toy_0": ToyCase(zeros, zeros)}), tmp_path / "out")
    assert (done.region, done.remarks) == ("brain", ())


def test_stored_and_large_format_archives_are_read(tmp_path: Path) -> None:
    stored = write_zip(tmp_path / "stored.zip", GOOD, compression=zipfile.ZIP_STORED)
    with zipfile.ZipFile(tmp_path / "zip64.zip", "w") as archive:
        for name, content in GOOD:
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(content)
    for path in (stored, tmp_path / "zip64.zip"):
        import_mood(path, tmp_path / path.stem)
    assert volumes_below(tmp_path / "stored") == volumes_below(tmp_path / "zip64")


def test_what_operating_systems_leave_behind_is_left_out_and_said(tmp_path: Path) -> None:
    junk = ["__MACOSX/brain_train/._00000.nii.gz", "brain_train/.DS_Store", "brain_train/._00000.nii.gz", "README.txt"]
    done = import_mood(write_zip(tmp_path / "a.zip", [*((n, b"x") for n in junk), *GOOD]), tmp_path / "out")
    assert set(done.ignored) == set(junk)
    assert "left out: 4 members" in "\n".join(done.remarks)
    assert len(volumes_below(tmp_path / "out")) == 3


def test_values_outside_0_to_1_are_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mood_members, "_CHUNK_VOXELS", 50)
    scans = small_scans(4)
    scans["00000"] = scans["00000"] * 3
    scans["00001"][0, 0, 0] = np.nan  # in the first piece, and the last voxel of all
    scans["00002"][-1, -1, -1] = np.inf
    done = import_mood(training_archive(tmp_path / "a.zip", scans), tmp_path / "out")
    assert any("3 scans have values outside [0, 1]" in remark for remark in done.remarks)


# The hold-out


def held_out(archive: Path, out: Path, count: int, seed: int = 0) -> set[str]:
    import_mood(archive, out, holdout=count, seed=seed)
    return {path.name for path in (out / "holdout").iterdir()}


def test_holdout_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    scans = small_scans(12)
    archive = training_archive(tmp_path / "a.zip", scans)
    others = training_archive(tmp_path / "b.zip", dict(reversed(small_scans(12, seed=9).items())), region="abdom")
    chosen = held_out(archive, tmp_path / "1", 5)
    assert len(chosen) == 5
    assert len(list((tmp_path / "1" / "train").iterdir())) == 7
    assert held_out(others, tmp_path / "2", 5) == chosen
    assert held_out(archive, tmp_path / "3", 5, seed=1) != chosen
    assert held_out(archive, tmp_path / "4", 6) > chosen
    record = json.loads((tmp_path / "1" / "import.json").read_text())
    assert record["holdout"] == {"scans": 5, "seed": 0}
    assert record["archive"]["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert record["archive"]["bytes"] == archive.stat().st_size
    for name, data in volumes_below(tmp_path / "1").items():
        facts = record["files"][name]
        assert (facts["bytes"], facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert int(facts["crc32"], 16) == zlib.crc32(data)


def test_same_archive_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    archive = training_archive(tmp_path / "a.zip", small_scans(5))
    for name in "xy":
        import_mood(archive, tmp_path / name, holdout=2, seed=3)
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


@pytest.mark.parametrize(("holdout", "seed"), [(3, 0), (-1, 0), (1, -1)])
def test_holdout_and_seed_out_of_range_are_refused(tmp_path: Path, holdout: int, seed: int) -> None:
    with pytest.raises(SettingsError):
        import_mood(write_zip(tmp_path / "a.zip", GOOD), tmp_path / "out", holdout=holdout, seed=seed)
    assert not (tmp_path / "out").exists()


def test_holdout_of_toy_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no training scans"):
        import_mood(toy_archive(tmp_path / "a.zip", small_toys(2)), tmp_path / "out", holdout=1)


# Attacks and damage that the table of contents shows: refused before anything is written


def with_member(name: str, content: bytes = b"x") -> Callable[[Path], Path]:
    return lambda path: write_zip(path, [*GOOD, (name, content)])


def link(path: Path, kind: int = 0o120777) -> Path:
    info = zipfile.ZipInfo("brain_train/00009.nii.gz")
    info.create_system, info.external_attr = 3, kind << 16
    return write_zip(path, [*GOOD, (info, b"/etc/passwd")])


def with_name_bytes(path: Path, name: bytes) -> Path:
    """Put a name of the same length into both places where an archive keeps it."""
    write_zip(path, GOOD)
    path.write_bytes(path.read_bytes().replace(b"brain_train/00001.nii.gz", name.ljust(24, b"a")))
    return path


def overlapping(path: Path) -> Path:
    write_zip(path, GOOD)
    data = path.read_bytes()
    first = struct.unpack_from("<I", data, table_entry(data, "00000.nii.gz") - 12 + OFFSET)[0]
    return patched(path, "brain_train/00001.nii.gz", OFFSET, "I", first)


def web_page(path: Path) -> Path:
    path.write_bytes(b"\n<!DOCTYPE html><html>Please log in</html>" * 9)
    return path


def cut(path: Path) -> Path:
    write_zip(path, GOOD)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def damaged_table(path: Path) -> Path:
    write_zip(path, GOOD)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\x01\x02", b"PK\x01\x03"))
    return path


def absent(path: Path) -> Path:
    return path


def folder_instead(path: Path) -> Path:
    path.mkdir()
    return path


FIRST = "brain_train/00000.nii.gz"
TABLE_ATTACKS = {
    "up": (with_member("brain_train/../../evil.nii.gz"), "E_UNSAFE_NAME"),
    "up-in-junk": (with_member("__MACOSX/../../evil"), "E_UNSAFE_NAME"),
    "absolute": (with_member("/brain_train/00009.nii.gz"), "E_UNSAFE_NAME"),
    "drive": (with_member("C:/brain_train/00009.nii.gz"), "E_UNSAFE_NAME"),
    "backslash": (with_member("brain_train\\..\\00009.nii.gz"), "E_UNSAFE_NAME"),
    "empty-part": (with_member("brain_train//00009.nii.gz"), "E_UNSAFE_NAME"),
    "nul": (lambda path: with_name_bytes(path, b"brain_train/00001.nii\0gz"), "E_UNSAFE_NAME"),
    "symlink": (link, "E_UNSAFE_TYPE"),
    "device": (lambda path: link(path, 0o060666), "E_UNSAFE_TYPE"),
    "folder-as-file": (lambda path: link(path, 0o040777), "E_UNSAFE_TYPE"),
    "encrypted": (lambda p: patched(write_zip(p, GOOD), FIRST, FLAGS, "H", 1), "E_ENCRYPTED"),
    "bzip2": (lambda p: patched(write_zip(p, GOOD), FIRST, METHOD, "H", 12), "E_COMPRESSION"),
    "declares-4-gib": (lambda p: patched(write_zip(p, GOOD), FIRST, SIZE, "I", 2**32 - 2), "E_TOO_LARGE"),
    "declares-1-gib": (lambda p: patched(write_zip(p, GOOD), FIRST, SIZE, "I", 2**30), "E_TOO_LARGE"),
    "declares-8-mib": (lambda p: patched(write_zip(p, GOOD), FIRST, SIZE, "I", 2**23), "E_TOO_LARGE"),
    "real-bomb": (with_member("brain_train/00009.nii.gz", bytes(2**25)), "E_TOO_LARGE"),
    "overlap": (overlapping, "E_OVERLAP"),
    "case-clash": (with_member("Brain_train/00000.nii.gz"), "E_DUPLICATE_NAME"),
    "two-regions": (with_member("abdom_train/00000.nii.gz"), "E_DUPLICATE_NAME"),
    "two-folders": (with_member("copy/brain_train/00000.nii.gz"), "E_DUPLICATE_NAME"),
    "program": (with_member("brain_train/setup.exe"), "E_UNEXPECTED"),
    "not-gz": (with_member("brain_train/00009.nii"), "E_UNEXPECTED"),
    "odd-name": (with_member("brain_train/-rf \x1b[2J.nii.gz"), "E_UNEXPECTED"),
    "other-folder": (with_member("secret/00009.nii.gz"), "E_UNEXPECTED"),
    "nested-zip": (with_member("brain_train/inner.zip"), "E_UNEXPECTED"),
    "label-without-scan": (with_member("toy_label/pixel/toy_0.nii.gz"), "E_INCOMPLETE"),
    "toy-without-label": (lambda p: write_zip(p, toy_members(small_toys(2))[:-1]), "E_INCOMPLETE"),
    "nothing": (lambda p: write_zip(p, []), "E_NO_SCANS"),
    "only-junk": (lambda p: write_zip(p, [("__MACOSX/x", b""), ("brain_train/", b"")]), "E_NO_SCANS"),
    "web-page": (web_page, "E_NOT_ZIP"),
    "gzip": (written(gzip.compress(b"x" * 99)), "E_NOT_ZIP"),
    "empty": (written(b""), "E_EMPTY"),
    "cut": (cut, "E_TRUNCATED"),
    "damaged-table": (damaged_table, "E_CORRUPT"),
    "absent": (absent, "E_NOT_FOUND"),
    "folder": (folder_instead, "E_NOT_REGULAR"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("attack", TABLE_ATTACKS)
def test_what_the_table_shows_is_refused_before_anything_is_written(tmp_path: Path, attack: str) -> None:
    make, code = TABLE_ATTACKS[attack]
    archive = make(tmp_path / "a.zip")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError) as caught:
        import_mood(archive, tmp_path / "out")
    assert caught.value.code == code
    assert str(archive) in caught.value.where
    assert caught.value.remedy
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before
    shown = CliRunner().invoke(app, ["import-mood", str(archive), "-o", str(tmp_path / "out")])
    assert (shown.exit_code, "Traceback" in shown.output) == (2, False)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = write_zip(tmp_path / "a.zip", [*GOOD, GOOD[0]])
    with pytest.raises(ArchiveError) as caught:
        import_mood(archive, tmp_path / "out")
    assert caught.value.code == "E_DUPLICATE_NAME"
    assert FIRST in caught.value.where


@pytest.mark.parametrize(
    "limits", [ArchiveLimits(members=2), ArchiveLimits(member_bytes=1000), ArchiveLimits(table_bytes=200)]
)
def test_limits_are_the_callers(tmp_path: Path, limits: ArchiveLimits) -> None:
    archive = write_zip(tmp_path / "a.zip", GOOD)
    with pytest.raises(ArchiveError) as caught:
        import_mood(archive, tmp_path / "out", limits=limits)
    assert caught.value.code == "E_TOO_LARGE"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(ArchiveError) as caught:
        import_mood(tmp_path / "a.zip", tmp_path / "out")
    assert caught.value.code == "E_NOT_REGULAR"


# Attacks and damage that only the bytes show: the member gets no name, and nothing half-written stays

LAST = "brain_train/00009.nii.gz"


def last_scan(content: bytes) -> Callable[[Path], Path]:
    return lambda path: write_zip(path, [*GOOD, (LAST, content)])


def damaged_crc(path: Path) -> Path:
    last_scan(nifti_gz(np.zeros((6, 7, 8), np.float32)))(path)
    return patched(path, LAST, CRC, "I", 0)


def flipped_bit(path: Path) -> Path:
    write_zip(path, [*GOOD, (LAST, nifti_gz(small_scans(1)["00000"]))], compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(LAST.encode()) + len(LAST) + 700] ^= 1
    path.write_bytes(data)
    return path


def longer_than_declared(path: Path, compression: int) -> Path:
    """The table gives the length and checksum of a beginning: who stops there sees nothing wrong."""
    content = nifti_gz(small_scans(1)["00000"])
    write_zip(path, [*GOOD, (LAST, content)], compression=compression)
    patched(path, LAST, CRC, "I", zlib.crc32(content[:-40]))
    return patched(path, LAST, SIZE, "I", len(content) - 40)


def shorter_than_declared(path: Path) -> Path:
    content = nifti_gz(small_scans(1)["00000"])
    last_scan(content)(path)
    return patched(path, LAST, SIZE, "I", len(content) + 40)


def other_local_name(path: Path) -> Path:
    write_zip(path, [*GOOD, (LAST, b"x")])
    data = path.read_bytes()
    path.write_bytes(data.replace(LAST.encode(), LAST.replace("9", "8").encode(), 1))
    return path


def header_of(voxels: np.ndarray) -> bytes:
    return nib.Nifti1Image(voxels, np.eye(4)).to_bytes()[:352]


SMALL = np.zeros((6, 7, 8), np.float32)
WHOLE = nib.Nifti1Image(SMALL, np.eye(4)).to_bytes()


def claims_32767_cubed() -> bytes:
    data = bytearray(WHOLE)
    struct.pack_into("<4h", data, 40, 3, 32767, 32767, 32767)
    return gzip.compress(bytes(data))


BYTE_ATTACKS = {
    "bad-crc": (damaged_crc, "E_CORRUPT"),
    "flipped-bit": (flipped_bit, "E_CORRUPT"),
    "longer-deflated": (lambda p: longer_than_declared(p, zipfile.ZIP_DEFLATED), "E_TOO_LARGE"),
    "longer-stored": (lambda p: longer_than_declared(p, zipfile.ZIP_STORED), "E_TOO_LARGE"),
    "shorter": (shorter_than_declared, "E_TRUNCATED"),
    "other-local-name": (other_local_name, "E_CORRUPT"),
    "gz-bomb": (last_scan(gzip.compress(WHOLE + bytes(2**26))), "E_TOO_LARGE"),
    "gz-claims-64-tib": (last_scan(claims_32767_cubed()), "E_TOO_LARGE"),
    "gz-cut": (last_scan(gzip.compress(WHOLE)[:-9]), "E_TRUNCATED"),
    "gz-bad-crc": (last_scan(gzip.compress(WHOLE)[:-8] + bytes(8)), "E_CORRUPT"),
    "nifti-cut": (last_scan(gzip.compress(WHOLE[:-9])), "E_TRUNCATED"),
    "not-nifti": (last_scan(gzip.compress(b"<html>" * 99)), "E_NOT_NIFTI"),
    "not-gzip": (last_scan(WHOLE), "E_NOT_NIFTI"),
    "empty-file": (last_scan(b""), "E_NOT_NIFTI"),
    "four-dimensional": (last_scan(nifti_gz(np.zeros((6, 7, 8, 2), np.float32))), "E_DIMENSIONS"),
    "other-shape": (last_scan(nifti_gz(np.zeros((6, 7, 9), np.float32))), "E_SHAPE"),
}


@pytest.mark.parametrize("attack", BYTE_ATTACKS)
def test_what_the_bytes_show_is_refused_and_leaves_nothing(tmp_path: Path, attack: str) -> None:
    make, code = BYTE_ATTACKS[attack]
    archive = make(tmp_path / "a.zip")
    with pytest.raises(ArchiveError) as caught:
        import_mood(archive, tmp_path / "out")
    assert caught.value.code == code
    assert caught.value.where == f"{archive}: {LAST}"
    assert caught.value.remedy
    good = {name.replace("brain_train", "train"): data for name, data in GOOD}
    assert volumes_below(tmp_path / "out") == good  # those before it stay, it and its temporary file do not
    with pytest.raises(ArchiveError):  # and again: it is not taken for done
        import_mood(archive, tmp_path / "out")


@pytest.mark.parametrize("text", [b"2", b"", b"anomalous", b"0.5", b"1" * 70, b"1" + b" " * 5_000_000])
def test_a_scan_label_that_is_not_0_or_1_is_refused(tmp_path: Path, text: bytes) -> None:
    members = toy_members(small_toys(1))
    archive = write_zip(tmp_path / "a.zip", [*members[:-1], (members[-1][0], text)])
    with pytest.raises(ArchiveError) as caught:
        import_mood(archive, tmp_path / "out")
    assert caught.value.code in ("E_LABEL", "E_TOO_LARGE")
    assert members[-1][0] in caught.value.where
    assert not list((tmp_path / "out" / "toy" / "labels" / "sample").iterdir())


def test_a_scan_label_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    archive = toy_archive(tmp_path / "a.zip", small_toys(1))
    patched(archive, "toy_label/sample/toy_0.nii.gz.txt", CRC, "I", zlib.crc32(b"0"))
    with pytest.raises(ArchiveError) as caught:
        import_mood(archive, tmp_path / "out")
    assert caught.value.code == "E_CORRUPT"
    assert not list((tmp_path / "out" / "toy" / "labels" / "sample").iterdir())


def test_a_voxel_label_of_another_shape_is_refused(tmp_path: Path) -> None:
    case = ToyCase(np.zeros((6, 7, 8), np.float32), np.zeros((6, 7, 9), np.uint8))
    with pytest.raises(ArchiveError) as caught:
        import_mood(toy_archive(tmp_path / "a.zip", {"toy_0": case}), tmp_path / "out")
    assert caught.value.code == "E_SHAPE"
    assert "toy_label/pixel/toy_0.nii.gz" in caught.value.where


def test_toy_cases_of_another_region_do_not_join_the_scans(tmp_path: Path) -> None:
    import_mood(write_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")
    toys = toy_archive(tmp_path / "b.zip", small_toys(2, shape=(9, 9, 9)))
    with pytest.raises(ArchiveError) as caught:
        import_mood(toys, tmp_path / "out")
    assert caught.value.code == "E_SHAPE"
    assert "as train/00000.nii.gz" in str(caught.value)


def test_random_damage_gives_a_typed_error_or_the_true_files(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", GOOD)
    whole, true = archive.read_bytes(), {data for _, data in GOOD}
    rng = np.random.default_rng(0)
    codes = []
    for k in range(100):
        data = bytearray(whole)
        place = int(rng.integers(len(data)))
        if k % 5 == 0:
            data = data[:place]
        elif k % 5 == 1:
            data[place : place + 20] = rng.bytes(20)
        elif k % 5 == 2:  # the table and the local headers are where the traps are
            place = len(data) - 1 - int(rng.integers(350))
            data[place] ^= 1 << int(rng.integers(8))
        else:
            data[place] ^= 1 << int(rng.integers(8))
        archive.write_bytes(data)
        try:
            import_mood(archive, tmp_path / "out")
        except MendscanError as error:
            codes.append(error.code)
        if (tmp_path / "out").exists():
            assert set(volumes_below(tmp_path / "out").values()) <= true
            shutil.rmtree(tmp_path / "out")
    assert len(codes) > 60
    assert "E_INTERNAL" not in codes


# Interruptions


class StopsAfter(Listener):
    """Ctrl-C while the user looks at the bar."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.left = units

    def advance(self, units: int = 1, **facts: float) -> None:
        super().advance(units)
        self.left -= units
        if self.left <= 0:
            raise KeyboardInterrupt


def finished(archive: Path, folder: Path, **options: int) -> tuple[MoodImport, dict[str, bytes]]:
    return import_mood(archive, folder, **options), contents(folder)


def test_an_interrupted_import_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    archive = training_archive(tmp_path / "a.zip", small_scans(6))
    _, whole = finished(archive, tmp_path / "whole", holdout=2)
    for units in range(1, 8):
        out = tmp_path / str(units)
        with pytest.raises(Interrupted, match="goes on") as caught:
            import_mood(archive, out, holdout=2, progress=StopsAfter(units))
        assert f"{max(0, units - 1)} of 6 files done" in str(caught.value)
        assert set(volumes_below(out).items()) <= set(whole.items())
        done, files = finished(archive, out, holdout=2)
        assert files == whole
        assert done.already_there == units - 1


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_interruption_at_any_write_leaves_nothing_half_written(tmp_path: Path, monkeypatch, function: str) -> None:
    archive = toy_archive(tmp_path / "a.zip", small_toys(2))
    _, whole = finished(archive, tmp_path / "whole")
    owner = os if function == "fsync" else Path
    original = getattr(owner, function)
    for k in range(1, 14):
        calls = []

        def stop_at_k(*arguments: object, k: int = k, calls: list[int] = calls) -> object:
            calls.append(1)
            if len(calls) == k:
                raise KeyboardInterrupt
            return original(*arguments)

        out = tmp_path / f"{function}{k}"
        with monkeypatch.context() as broken:
            broken.setattr(owner, function, stop_at_k)
            with pytest.raises(Interrupted):
                import_mood(archive, out)
        assert set(volumes_below(out).items()) <= set(volumes_below(tmp_path / "whole").items())
        assert finished(archive, out)[1] == whole


@pytest.mark.parametrize("writes", [2, 5, 8])
def test_a_killed_import_goes_on_and_clears_what_it_left(tmp_path: Path, writes: int) -> None:
    archive = training_archive(tmp_path / "a.zip", small_scans(5))
    _, whole = finished(archive, tmp_path / "whole")
    program = (
        "import os, sys; from pathlib import Path; from mendscan.cohort.mood import import_mood\n"
        "count, replace = [0], Path.replace\n"
        "def dies(self, target):\n"
        "    count[0] += 1\n"
        f"    if count[0] == {writes}: os._exit(9)\n"
        "    return replace(self, target)\n"
        "Path.replace = dies\n"
        "import_mood(sys.argv[1], sys.argv[2])\n"
    )
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", program, archive, out], check=False)
    assert killed.returncode == 9
    assert list(out.rglob(".*.tmp"))
    assert finished(archive, out)[1] == whole


def test_finished_files_are_verified_by_digest_not_by_existence(tmp_path: Path) -> None:
    archive = training_archive(tmp_path / "a.zip", small_scans(4))
    _, whole = finished(archive, tmp_path / "out", holdout=1)
    names = sorted(volumes_below(tmp_path / "out"))
    altered, short, gone = (tmp_path / "out" / name for name in names[:3])
    data = bytearray(altered.read_bytes())
    data[100] ^= 1
    altered.write_bytes(data)
    short.write_bytes(b"")
    gone.unlink()
    told = Listener()
    done = import_mood(archive, tmp_path / "out", holdout=1, progress=told)
    assert contents(tmp_path / "out") == whole
    assert done.already_there == 1
    assert sorted(message.split(":")[0] for message in told.messages) == names[:2]


def test_a_whole_archive_goes_on_where_a_damaged_one_stopped(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    flipped_bit(archive)
    with pytest.raises(ArchiveError):
        import_mood(archive, tmp_path / "out")
    write_zip(archive, [*GOOD, (LAST, nifti_gz(small_scans(1)["00000"]))], compression=zipfile.ZIP_STORED)
    told = Listener()
    done = import_mood(archive, tmp_path / "out", progress=told)
    assert done.already_there == 3
    assert "not the same as before" in told.messages[0]
    record = json.loads((tmp_path / "out" / "import.json").read_text())
    assert record["archive"]["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.parametrize("change", [{"holdout": 2}, {"holdout": 1, "seed": 1}, {}])
def test_another_holdout_is_refused_and_nothing_changed(tmp_path: Path, change: dict[str, int]) -> None:
    archive = training_archive(tmp_path / "a.zip", small_scans(4))
    _, whole = finished(archive, tmp_path / "out", holdout=1)
    with pytest.raises(ResultsError, match="--holdout 1 --seed 0") as caught:
        import_mood(archive, tmp_path / "out", **change)
    assert caught.value.code == "E_OTHER_IMPORT"
    assert contents(tmp_path / "out") == whole


def test_another_archive_is_refused(tmp_path: Path) -> None:
    finished(training_archive(tmp_path / "a.zip", small_scans(4)), tmp_path / "out")
    with pytest.raises(ResultsError, match="members of the archive"):
        import_mood(training_archive(tmp_path / "b.zip", small_scans(4, seed=1)), tmp_path / "out")


@pytest.mark.parametrize("name", ["notes.txt", "train/00009.nii.gz", "train/00001.nii.gz", "holdout/x/y.txt"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, name: str) -> None:
    stranger = tmp_path / "out" / name
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"mine")
    with pytest.raises(WriteError) as caught:
        import_mood(write_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")
    assert (caught.value.code, name in str(caught.value)) == ("E_NOT_EMPTY", True)
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_a_file_put_into_an_interrupted_import_is_not_overwritten(tmp_path: Path) -> None:
    archive = training_archive(tmp_path / "a.zip", small_scans(4))
    with pytest.raises(Interrupted):
        import_mood(archive, tmp_path / "out", progress=StopsAfter(2))
    (tmp_path / "out" / "train" / "00003.nii.gz").write_bytes(b"mine")
    with pytest.raises(WriteError, match="00003"):
        import_mood(archive, tmp_path / "out")
    assert (tmp_path / "out" / "train" / "00003.nii.gz").read_bytes() == b"mine"


def test_the_archives_may_lie_in_the_folder(tmp_path: Path) -> None:
    for archive in (
        training_archive(tmp_path / "a.zip", small_scans(2)),
        toy_archive(tmp_path / "b.zip", small_toys(1)),
    ):
        import_mood(archive, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "import.json", "toy", "train"]


def test_a_folder_that_cannot_be_made_is_refused_before_the_archive_is_read(tmp_path: Path) -> None:
    archive, told = write_zip(tmp_path / "a.zip", GOOD), Listener()
    with pytest.raises(WriteError, match="cannot be made"):
        import_mood(archive, archive / "out", progress=told)
    assert told.stages == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(WriteError):
        import_mood(write_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"archive": {}, "holdout": {}, "files": {"a": {}}}', "\x00", "null"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    archive = write_zip(tmp_path / "a.zip", GOOD)
    import_mood(archive, tmp_path / "out")
    (tmp_path / "out" / "import.json").write_text(text)
    with pytest.raises(ResultsError, match="record of an import"):
        import_mood(archive, tmp_path / "out")


# The disk and the memory


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    with pytest.raises(WriteError) as caught:
        import_mood(write_zip(tmp_path / "a.zip", GOOD), tmp_path / "new" / "out")
    assert caught.value.code == "E_SPACE"
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_an_error_and_the_import_goes_on_later(tmp_path: Path, monkeypatch) -> None:
    archive, calls, fsync = write_zip(tmp_path / "a.zip", GOOD), [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            import_mood(archive, tmp_path / "out")
    assert 0 < len(volumes_below(tmp_path / "out")) < 3
    import_mood(archive, tmp_path / "out")
    assert len(volumes_below(tmp_path / "out")) == 3


def test_memory_does_not_grow_with_the_scan(tmp_path: Path) -> None:
    voxels = np.zeros((200, 200, 200), np.float32)  # 32 MB
    voxels[::2] = np.random.default_rng(0).random((100, 200, 200), dtype=np.float32)
    archive = training_archive(tmp_path / "a.zip", {"00000": voxels})
    del voxels
    tracemalloc.start()
    try:
        import_mood(archive, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 2**20


def test_the_command_prints_what_is_there_and_what_comes_next(tmp_path: Path) -> None:
    archive = training_archive(tmp_path / "brain_train.zip", small_scans(5))
    options = ["import-mood", str(archive), "-o", str(tmp_path / "my brains"), "--holdout", "2", "--seed", "4"]
    for again in (False, True):
        shown = CliRunner().invoke(app, options)
        assert shown.exit_code == 0, shown.output
        assert "3 training scans, 2 hold-out scans" in shown.output
        assert ("5 files were there before" in shown.output) == again
        assert "shape 6 x 7 x 8, spacing 1 x 1 x 1 mm" in shown.output
        assert "not the challenge's shape (256 x 256 x 256)" in shown.output
        assert f"mendscan train -i '{tmp_path / 'my brains' / 'train'}' -o model --preset brain" in shown.output

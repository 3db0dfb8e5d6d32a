"""Rows 1 to 21: the file itself."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np

from attacks.attack import Attack, Outcome, checked, commanded, wrote
from mendscan.volumes import find_scans, read_volume
from mendscan.volumes.finding import look_through
from volumes.test_reading import AFFINE, DIM, GZIPPED, LFS_POINTER, WEB_PAGE, flipped_byte, nifti, patched, voxels_of


def link(name: str, target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def special(kind: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        os.mknod(folder / "scan.nii", kind | 0o600)
        return folder / "scan.nii"

    return make


def below(folder: Path, *names: str) -> Path:
    """Good scans of these names; returns the folder."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(nifti(voxels_of() + index))
    return folder


def named(*names: str) -> Callable[[Path], Path]:
    return lambda folder: below(folder, *names)


def named_alone(name: str) -> Callable[[Path], Path]:
    return lambda folder: below(folder, name) / name


def folder_called(folder: Path) -> Path:
    (folder / "scan.nii.gz").mkdir()
    return folder / "scan.nii.gz"


def read_without_permission(path: Path) -> object:
    # Simulated, for the superuser may read everything.
    with mock.patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied")):
        return read_volume(path)


def read_after_it_has_gone(folder: Path) -> object:
    (path,) = find_scans(folder)
    path.unlink()
    return read_volume(path)


def bomb(folder: Path) -> Path:
    """4 MB of zeros in 4 kB; 1 MiB is allowed."""
    return wrote("scan.nii.gz", gzip.compress(nifti(np.zeros((100, 100, 100), np.int32))))(folder)


def read_within_a_mebibyte(path: Path) -> object:
    return read_volume(path, max_bytes=2**20)


def nifti2(folder: Path) -> Path:
    return wrote("scan.nii", nib.Nifti2Image(voxels_of(), AFFINE).to_bytes())(folder)


def mixed(folder: Path) -> Path:
    below(folder, "scan.nii", "._scan.nii.gz", ".hidden/other.nii")
    for name in ("picture.png", ".DS_Store", "notes.txt"):
        (folder / name).write_bytes(b"x")
    return folder


def found_in_a_mixed_folder(folder: Path) -> None:
    found = look_through(folder)
    assert [path.name for path in found.scans] == ["scan.nii"]
    assert [path.name for path in found.others] == ["notes.txt", "picture.png"]


def only_pairs(folder: Path) -> Path:
    for name in ("scan.hdr", "scan.img"):
        (folder / name).write_bytes(b"x")
    return folder


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def train_on_nothing(folder: Path) -> list[object]:
    return ["train", "-i", empty(folder), "-o", folder / "model"]


def check_command(folder: Path) -> Outcome:
    return commanded(["check", folder, "--workers", 0])


LABELS = (np.indices((8, 9, 10)).sum(0) % 2).astype(np.uint8)
EVIL_NAMES = {
    "a line break": "two\nlines.nii",
    "a terminal's escape": "\x1b[2Jclear.nii",
    "an option": "-rf.nii",
    "a formula": "=cmd().nii",
    "a script": "<script>alert(1)<!script>.nii",
    "a per cent sign": "100%s%n.nii",
    "another spelling of é": "e\u0301.nii",
    "255 bytes": "x" * 251 + ".nii",
}
ONE_BIT = flipped_byte(gzip.compress(nifti(), 0, mtime=0), 700)
WRONG_CHECKSUM, WRONG_LENGTH = (flipped_byte(GZIPPED, len(GZIPPED) - k) for k in (8, 1))
HUGE = patched(DIM, "4h", 3, 32767, 32767, 32767)
ACCENTS = named("a/\u00e9.nii", "b/e\u0301.nii")
SKIPPED = "they are skipped, and mendscan check lists them"
AS_IT_IS = "its name is quoted, escaped or hashed wherever it is shown"

FILE_LEVEL = (
    Attack(1, "no such file", "E_NOT_FOUND", lambda folder: folder / "absent.nii"),
    Attack(1, "a link to nothing", "E_NOT_FOUND", link("scan.nii", "absent.nii")),
    Attack(1, "a link to itself", "E_NOT_FOUND", link("scan.nii", "scan.nii")),
    Attack(1, "permission denied", "E_ACCESS", wrote("scan.nii", nifti()), through=read_without_permission),
    Attack(2, "empty file", "E_EMPTY", wrote("scan.nii", b"")),
    Attack(2, "empty file, .nii.gz", "E_EMPTY", wrote("scan.nii.gz", b"")),
    Attack(2, "gzip of nothing", "E_NOT_NIFTI", wrote("scan.nii.gz", gzip.compress(b""))),
    Attack(3, "folder named scan.nii.gz", "E_NO_SERIES", folder_called),
    Attack(4, "web page saved as .nii.gz", "E_NOT_NIFTI", wrote("scan.nii.gz", WEB_PAGE)),
    Attack(5, "not compressed, named .nii.gz", "", wrote("scan.nii.gz", nifti()), "content decides, not the name"),
    Attack(5, "compressed, named .nii", "", wrote("scan.nii", GZIPPED), "content decides, not the name"),
    Attack(6, "gzip cut off", "E_TRUNCATED", wrote("scan.nii.gz", GZIPPED[:-200])),
    Attack(6, "gzip cut within its checksum", "E_TRUNCATED", wrote("scan.nii.gz", GZIPPED[:-5])),
    Attack(6, "cut off, then compressed", "E_TRUNCATED", wrote("scan.nii.gz", gzip.compress(nifti()[:-1]))),
    Attack(7, ".nii cut off by one byte", "E_TRUNCATED", wrote("scan.nii", nifti()[:-1])),
    Attack(7, ".nii cut off behind its header", "E_TRUNCATED", wrote("scan.nii", nifti()[:352])),
    Attack(8, "header cut off", "E_TRUNCATED", wrote("scan.nii", nifti()[:200])),
    Attack(9, "one bit of a gzip flipped", "E_CORRUPT", wrote("scan.nii.gz", ONE_BIT)),
    Attack(10, "gzip with a wrong checksum", "E_CORRUPT", wrote("scan.nii.gz", WRONG_CHECKSUM)),
    Attack(10, "gzip with a wrong length", "E_CORRUPT", wrote("scan.nii.gz", WRONG_LENGTH)),
    Attack(11, "garbage behind a gzip", "W_TRAILING", wrote("scan.nii.gz", GZIPPED + b"garbage")),
    Attack(11, "a second gzip behind the first", "W_TRAILING", wrote("scan.nii.gz", GZIPPED * 2)),
    Attack(11, "garbage behind the voxels", "W_TRAILING", wrote("scan.nii", nifti() + b"garbage")),
    Attack(11, "zeros behind a gzip", "", wrote("scan.nii.gz", GZIPPED + bytes(99)), "padding, which gzip allows"),
    Attack(12, "4 MB in 4 kB, 1 MiB allowed", "E_TOO_LARGE", bomb, through=read_within_a_mebibyte),
    Attack(12, "32 MiB behind the voxels", "E_TOO_LARGE", wrote("scan.nii.gz", gzip.compress(nifti() + bytes(2**25)))),
    Attack(12, "gzip that claims 32767³ voxels", "E_TOO_LARGE", wrote("scan.nii.gz", gzip.compress(HUGE))),
    Attack(
        12,
        "gzip that claims more than gzip can hold",
        "E_TRUNCATED",
        wrote("scan.nii.gz", gzip.compress(patched(DIM, "4h", 3, 900, 900, 900))),
    ),
    Attack(13, "a pipe", "E_NOT_REGULAR", special(stat.S_IFIFO)),
    Attack(13, "a socket", "E_NOT_REGULAR", special(stat.S_IFSOCK)),
    Attack(13, "a link to an endless device", "E_NOT_REGULAR", link("scan.nii", "/dev/zero")),
    Attack(14, "Git LFS pointer", "E_NOT_NIFTI", wrote("scan.nii.gz", LFS_POINTER)),
    Attack(15, "vanishes after it was found", "E_NOT_FOUND", named("scan.nii"), through=read_after_it_has_gone),
    Attack(16, "a/x.nii and b/x.nii", "E_DUPLICATE_NAME", named("a/x.nii", "b/x.nii"), through=find_scans),
    Attack(16, "x.nii and x.nii.gz", "E_DUPLICATE_NAME", named("x.nii", "x.nii.gz"), through=find_scans),
    Attack(16, "X.nii and x.nii", "E_DUPLICATE_NAME", named("a/X.nii", "b/x.nii"), through=find_scans),
    Attack(16, "two spellings of é.nii", "E_DUPLICATE_NAME", ACCENTS, through=find_scans),
    *(
        Attack(17, f"name with {what}", "", named_alone(name), AS_IT_IS, through=lambda p: check_command(p.parent))
        for what, name in EVIL_NAMES.items()
    ),
    Attack(17, "name of 400 bytes", "E_ACCESS", lambda folder: folder / ("x" * 396 + ".nii")),
    Attack(18, ".img of a pair", "E_NOT_NIFTI", wrote("scan.img", bytes(2000))),
    Attack(18, ".hdr of a pair", "E_NOT_NIFTI", wrote("scan.hdr", patched(344, "4s", b"ni1\0"))),
    Attack(18, "folder of pairs", "E_NO_SCANS", only_pairs, through=find_scans),
    Attack(18, "Analyze 7.5 header", "E_NOT_NIFTI", wrote("scan.nii", patched(344, "4s", bytes(4)))),
    Attack(18, "NIfTI-2", "", nifti2, "it is read"),
    Attack(19, "label map given as a scan", "W_LABELS", wrote("scan.nii", nifti(LABELS)), through=checked),
    Attack(20, "empty folder", "E_NO_SCANS", empty, through=find_scans),
    Attack(20, "empty folder, for the command", "exit 4", train_on_nothing, through=commanded),
    Attack(21, "folder with other files", "", mixed, SKIPPED, found_in_a_mixed_folder),
)  # fmt: skip

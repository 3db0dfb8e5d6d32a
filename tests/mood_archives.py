"""Archives in the exact layout of the Medical Out-of-Distribution challenge, from arrays, for any test that needs one.

    training_archive(tmp_path / "brain_train.zip", {"00000": voxels, "00001": voxels})
    toy_archive(tmp_path / "brain_toy.zip", {"toy_0": ToyCase(voxels, label)})

`write_zip` writes any members, so that a test can add what does not belong.
"""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

Members = Iterable[tuple[str | zipfile.ZipInfo, bytes]]


@dataclass(frozen=True)
class ToyCase:
    """A toy scan and its truth; the scan is anomalous if a voxel is, unless said otherwise."""

    scan: np.ndarray
    label: np.ndarray
    anomalous: bool | None = None


def nifti_gz(voxels: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return gzip.compress(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_bytes(), 1, mtime=0)


def training_members(
    scans: Mapping[str, np.ndarray], *, region: str = "brain", affine: np.ndarray | None = None
) -> list[tuple[str, bytes]]:
    """Members of ``brain_train.zip`` or, with region="abdom", of ``abdom_train.zip``."""
    return [(f"{region}_train/{name}.nii.gz", nifti_gz(voxels, affine)) for name, voxels in scans.items()]


def toy_members(cases: Mapping[str, ToyCase], *, affine: np.ndarray | None = None) -> list[tuple[str, bytes]]:
    """Members of ``brain_toy.zip`` or ``abdom_toy.zip``."""
    members = []
    for name, case in cases.items():
        anomalous = bool(case.label.any()) if case.anomalous is None else case.anomalous
        members += [
            (f"toy/{name}.nii.gz", nifti_gz(case.scan, affine)),
            (f"toy_label/pixel/{name}.nii.gz", nifti_gz(case.label, affine)),
            (f"toy_label/sample/{name}.nii.gz.txt", b"%d" % anomalous),
        ]
    return members


def write_zip(path: Path, members: Members, *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def training_archive(
    path: Path, scans: Mapping[str, np.ndarray], *, region: str = "brain", affine: np.ndarray | None = None
) -> Path:
    return write_zip(path, [(f"{region}_train/", b""), *training_members(scans, region=region, affine=affine)])


def toy_archive(path: Path, cases: Mapping[str, ToyCase], *, affine: np.ndarray | None = None) -> Path:
    folders = [(name, b"") for name in ("toy/", "toy_label/", "toy_label/pixel/", "toy_label/sample/")]
    return write_zip(path, [*folders, *toy_members(cases, affine=affine)])


def small_scans(count: int, *, shape: tuple[int, int, int] = (6, 7, 8), seed: int = 0) -> dict[str, np.ndarray]:
    """Scans with values in [0, 1], named 00000, 00001, … as in the challenge."""
    rng = np.random.default_rng(seed)
    return {f"{k:05d}": rng.random(shape, dtype=np.float32) for k in range(count)}


def small_toys(count: int, *, shape: tuple[int, int, int] = (6, 7, 8), seed: int = 0) -> dict[str, ToyCase]:
    """Toy cases named toy_0, toy_1, …; the last is healthy if there is more than one."""
    rng = np.random.default_rng(seed)
    cases = {}
    for k in range(count):
        label = np.zeros(shape, np.uint8)
        if k < count - 1 or count == 1:
            label[1:3, 2:4, 3:5] = 1
        cases[f"toy_{k}"] = ToyCase(np.clip(rng.random(shape, dtype=np.float32) / 2 + label / 2, 0, 1), label)
    return cases

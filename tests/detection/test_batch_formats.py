"""Detection in scans of every format, and under pseudonyms: the same results, and nobody's name."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it

from detection.conftest import WriteScan
from mendscan.detection.batch import detect_folder
from mendscan.errors import CohortError, SettingsError
from mendscan.volumes import read_volume
from mendscan.volumes.pseudonyms import pseudonym
from tiny_model import OBLIQUE, head
from volumes.dicom_files import AXIAL, CANARY, with_pixels, write_object, write_series


def write_dicom(folder: Path, voxels: np.ndarray, affine: np.ndarray = AXIAL) -> list[Path]:
    def signed(dataset, k):
        with_pixels(dataset, voxels[:, :, k], signed=True)

    return write_series(folder, voxels, affine, change=signed)


@pytest.fixture
def orthogonal() -> np.ndarray:
    """The oblique affine with right angles, which DICOM and SimpleITK ask for."""
    u, _, v = np.linalg.svd(OBLIQUE[:3, :3])
    affine = OBLIQUE.copy()
    affine[:3, :3] = (u @ v) * [1.25, 1.75, 2.5]
    return affine


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_one_scan_in_every_format_has_one_score_and_one_map(model_folder, tmp_path, write_scan: WriteScan, orthogonal):
    scans = tmp_path / "scans"
    nifti = write_scan(scans, "nifti", affine=orthogonal)
    for name in ("nrrd.nrrd", "nhdr.nhdr", "meta.mha", "detached.mhd"):
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(scans / name), True)
    write_dicom(scans / "study" / "series", head(0), orthogonal)
    summary = detect_folder(model_folder, scans, tmp_path / "results", device="cpu", workers=0)
    assert summary.failed == 0
    rows = table(tmp_path / "results" / "scores.csv")
    assert [row["case"] for row in rows] == ["detached", "meta", "nhdr", "nifti", "nrrd", "series"]
    assert len({(row["score"], row["p_value"], row["map_max"], row["findings"]) for row in rows}) == 1
    maps = [read_volume(tmp_path / "results" / "maps" / f"{row['case']}.nii.gz") for row in rows]
    assert len({one.content_hash for one in maps}) == 1


def test_the_same_name_in_two_formats_is_refused_before_any_work(model_folder, tmp_path, write_scan: WriteScan):
    write_scan(tmp_path / "scans", "P01")
    write_dicom(tmp_path / "scans" / "deep" / "P01", head(0))
    with pytest.raises(CohortError) as caught:
        detect_folder(model_folder, tmp_path / "scans", tmp_path / "results", device="cpu", workers=0)
    assert caught.value.code == "E_DUPLICATE_NAME"
    assert not (tmp_path / "results").exists()


def test_pseudonyms_change_names_and_nothing_else(model_folder, tmp_path, write_scan: WriteScan):
    for name, seed in (("Doe", 0), ("Roe", 1)):
        write_scan(tmp_path / "scans", name, seed=seed)
    options = {"device": "cpu", "workers": 0, "restorations": 2}
    key = tmp_path / "key"
    detect_folder(model_folder, tmp_path / "scans", tmp_path / "plain", **options)
    detect_folder(model_folder, tmp_path / "scans", tmp_path / "hidden", pseudonymise=key, **options)
    for name in ("Doe", "Roe"):
        alias = pseudonym(name, key.read_bytes().strip())
        map_bytes = (tmp_path / "hidden" / "maps" / f"{alias}.nii.gz").read_bytes()
        assert map_bytes == (tmp_path / "plain" / "maps" / f"{name}.nii.gz").read_bytes()
    assert (tmp_path / "hidden" / "results.json").read_bytes() == (tmp_path / "plain" / "results.json").read_bytes()


def test_the_key_does_not_lie_among_the_results(model_folder, tmp_path, write_scan: WriteScan):
    write_scan(tmp_path / "scans", "a")
    results = tmp_path / "results"
    with pytest.raises(SettingsError) as caught:
        detect_folder(model_folder, tmp_path / "scans", results, pseudonymise=results / "key", device="cpu", workers=0)
    assert caught.value.code == "E_KEY"
    assert not results.exists()


def write_named_scans(folder: Path) -> None:
    """Good and bad scans of every format, with the canary in names of files and wherever a file may hold one."""
    image = nib.Nifti1Image(head(0), OBLIQUE)
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = CANARY.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY.encode()))
    folder.mkdir()
    image.header.set_xyzt_units("micron")  # a warning
    nib.save(image, folder / f"{CANARY}_1.nii.gz")
    (folder / f"{CANARY}_2.nii.gz").write_bytes((folder / f"{CANARY}_1.nii.gz").read_bytes()[:-20])
    scan = sitk.GetImageFromArray(head(1).T)
    scan.SetMetaData("patient", CANARY)
    sitk.WriteImage(scan, str(folder / f"{CANARY}_3.nrrd"))
    sitk.WriteImage(scan, str(folder / f"{CANARY}_4.mhd"))
    (folder / f"{CANARY}_4.raw").unlink()
    write_dicom(folder / f"{CANARY}_5" / CANARY, head(2))
    write_dicom(folder / f"{CANARY}_6" / CANARY, head(3))[4].unlink()
    broken = write_dicom(folder / f"{CANARY}_7", head(4))[4]
    broken.write_bytes(broken.read_bytes()[:900])
    write_object(folder / f"{CANARY}_8" / CANARY, "1.2.840.10008.5.1.4.1.1.104.1", "DOC")


@pytest.mark.parametrize(("workers", "debug"), [(0, ["--debug"]), (2, [])])
def test_no_name_of_a_patient_is_in_anything_written_or_said(model_folder, tmp_path, workers, debug):
    write_named_scans(tmp_path / "scans")
    folders = ["-m", model_folder, "-i", tmp_path / "scans", "-o", tmp_path / "results"]
    options = ["--pseudonymise", tmp_path / "key", "--restorations", 1, "--device", "cpu", "--workers", workers]
    command = [sys.executable, "-m", "mendscan", "detect", *folders, *options, *debug]
    ran = subprocess.run(list(map(str, command)), capture_output=True, check=False, env=os.environ)
    said = (ran.stdout + ran.stderr).decode()
    assert ran.returncode == 3, said
    assert CANARY not in said
    assert "a new key for pseudonyms" in said
    assert "Encapsulated PDF" in said
    rows = table(tmp_path / "results" / "scores.csv")
    codes = sorted(row["code"] for row in rows)
    assert codes == ["", "", "", "E_MISSING_SLICES", "E_NO_DATA_FILE", "E_TRUNCATED", "E_TRUNCATED"]
    key = (tmp_path / "key").read_bytes().strip()
    assert pseudonym(f"{CANARY}_5/{CANARY}", key) in {row["case"] for row in rows if row["status"] == "ok"}
    written = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(written) == 5 + 3 * 6  # tables, times and card; five files and the record of a case
    for path in written:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert CANARY.encode() not in content
        assert CANARY not in str(path.relative_to(tmp_path))

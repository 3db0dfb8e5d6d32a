"""Results as DICOM in a batch: only where the scan came from DICOM files, and refused before anything is computed."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.detection.batch import detect_folder, one_after_the_other
from mendscan.detection.detector import Detector
from mendscan.detection.dicom_results import DicomResults, dicom_results, label_findings
from mendscan.errors import CohortError, ModelError, SettingsError
from mendscan.results import Detection
from mendscan.results.figures import save_figure
from mendscan.volumes.dicom_objects import MOST_SEGMENTS
from mendscan.volumes.volume import volume_from_array
from source_series import AXIAL, CANARY, write_source_series
from tiny_model import head

WriteScan = Callable[..., Path]


@pytest.fixture(scope="module")
def detection(detector: Detector) -> Detection:
    return detector.detect(volume_from_array(head(1), AXIAL, name="a"), restorations=2)


def hook(scans: dict[str, Path], **options: Any) -> DicomResults:
    wanted = {"without": (), "model": "0" * 64, "seed": 0, "patient": False} | options
    return DicomResults(scans, **wanted)


# --- which voxel is of which finding ---------------------------------------------------------------------------------


def test_voxels_are_numbered_as_the_findings_are(detection: Detection) -> None:
    assert len(detection.findings) > 1
    labels = label_findings(detection)
    assert labels.max() == len(detection.findings)
    for number, finding in enumerate(detection.findings, start=1):
        inside = labels == number
        assert inside.sum() == finding.voxels
        assert detection.map_XYZ[inside].max() == np.float32(finding.peak)
        assert detection.map_XYZ[inside].min() > detection.threshold


def test_findings_that_were_left_out_have_no_number(detection: Detection) -> None:
    last = replace(detection.findings[-1], expected_false=0.25)
    labels = label_findings(replace(detection, findings=(last,)))
    assert (labels > 0).sum() == last.voxels
    assert label_findings(replace(detection, findings=())).max() == 0


def test_findings_of_another_map_are_refused(detection: Detection) -> None:
    other = replace(detection.findings[0], voxels=3)
    for wrong in (replace(detection, findings=(other,)), replace(detection, map_XYZ=None)):
        with pytest.raises(ValueError, match="map"):
            label_findings(wrong)


# --- refused before anything is computed -----------------------------------------------------------------------------


def test_it_says_beforehand_what_cannot_be(
    tmp_path: Path, model_folder: Path, write_scan: WriteScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: dict[str, Any] = {"seed": 0, "maps": True, "patient": False}
    scan = write_scan(tmp_path / "nifti", "scan")
    write_source_series(tmp_path / "series", head(1), AXIAL)
    source = tmp_path / "series"
    with pytest.raises(SettingsError, match="no scan comes from DICOM files"):
        dicom_results(model_folder, tmp_path / "nifti", **wanted)
    with pytest.raises(SettingsError, match="--no-maps"):
        dicom_results(model_folder, source, **(wanted | {"maps": False}))
    with pytest.raises(CohortError):
        dicom_results(model_folder, tmp_path / "absent", **wanted)
    with pytest.raises(ModelError):
        dicom_results(tmp_path, source, **wanted)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(SettingsError, match=re.escape("pip install 'mendscan[dicom]'")):
        dicom_results(model_folder, scan, **wanted)


def test_a_series_is_prepared_with_the_models_hash(tmp_path: Path, model_folder: Path) -> None:
    write_source_series(tmp_path / "visit", head(1), AXIAL)
    prepared = dicom_results(model_folder, tmp_path, seed=7, maps=True, patient=True)
    assert prepared.scans == {"visit": tmp_path / "visit"}
    assert prepared.model == Detector.load(model_folder, device="cpu").model_hash
    assert (prepared.seed, prepared.patient, prepared.without) == (7, True, ())


def test_the_commands_options(tmp_path: Path, model_folder: Path, write_scan: WriteScan) -> None:
    write_scan(tmp_path / "scans", "a")
    common = ["detect", "-m", str(model_folder), "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "results")]
    for options, words in (
        (["--dicom-out"], "no scan comes from DICOM files"),
        (["--dicom-patient"], "about --dicom-out"),
        (["--dicom-out", "--pseudonymise", "key"], "DICOM objects name their study"),
        (["--dicom-out", "--no-maps"], "nothing to write as DICOM without maps"),
    ):
        shown = CliRunner().invoke(app, [*common, *options])
        assert shown.exit_code == 2
        assert words in re.sub(r"[\s│]+", " ", shown.output)
    assert not (tmp_path / "results").exists()


# --- in a batch ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path, write_scan: WriteScan) -> tuple[Path, dict[str, Path]]:
    """Two scans from DICOM, one from NIfTI; and the folders of the two."""
    series = {name: tmp_path / "scans" / name for name in "ab"}
    for seed, folder in enumerate(series.values(), start=1):
        write_source_series(folder, head(seed), AXIAL)
    write_scan(tmp_path / "scans", "c", voxels=head(3), affine=AXIAL)
    return tmp_path / "scans", series


def objects(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((results / "dicom").glob("*"))}


def test_dicom_scans_of_a_mixed_folder_get_their_objects(
    model_folder: Path, mixed: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    scans, series = mixed
    steps = one_after_the_other(save_figure, hook(series))
    sent = pickle.loads(pickle.dumps(steps))  # as it gets to worker processes
    for folder, step in (("1", steps), ("2", sent)):
        results = tmp_path / folder
        summary = detect_folder(model_folder, scans, results, workers=0, device="cpu", restorations=2, after_save=step)
        assert summary.failed == 0
    assert list(objects(tmp_path / "1")) == ["a-findings.dcm", "a-map.dcm", "b-findings.dcm", "b-map.dcm"]
    assert objects(tmp_path / "1") == objects(tmp_path / "2")
    assert CANARY.encode() not in b"".join(objects(tmp_path / "1").values())
    assert (tmp_path / "1" / "figures" / "c.png").is_file()
    for case in "ab":
        (count,) = [row["findings"] for row in summary.rows if row["case"] == case]
        assert hd.seg.segread(tmp_path / "1" / "dicom" / f"{case}-findings.dcm").number_of_segments == count


def test_a_scan_that_is_not_that_of_its_files_fails_alone_and_leaves_nothing(
    model_folder: Path, mixed: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    scans, series = mixed
    results = tmp_path / "results"
    run = partial(detect_folder, model_folder, scans, results, workers=0, device="cpu", restorations=2)
    assert run(after_save=hook(series)).failed == 0
    other = tmp_path / "other"
    write_source_series(other, head(2)[:-1], AXIAL)
    summary = run(after_save=hook(series | {"b": other}))
    assert {row["case"]: row.get("code") for row in summary.rows if row["status"] == "failed"} == {"b": "E_GRID"}
    assert list(objects(results)) == ["a-findings.dcm", "a-map.dcm"]
    assert sorted(path.name for path in (results / "maps").iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_the_command_writes_objects_of_the_series_of_a_folder(
    model_folder: Path, mixed: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    """From DICOM to DICOM: every voxel of the map is in the object, at its place in the series."""
    command = [
        "detect",
        "-m",
        model_folder,
        "-i",
        mixed[0],
        "-o",
        tmp_path / "results",
        "--dicom-out",
        "--workers",
        "0",
    ]
    shown = CliRunner().invoke(app, [*map(str, command), "--device", "cpu", "--restorations", "2"])
    assert shown.exit_code == 0, shown.output
    assert "no DICOM objects for scans that do not come from DICOM: c" in re.sub(r"\s+", " ", shown.output)
    for name in "ab":
        found = hd.pm.ParametricMap.from_dataset(pydicom.dcmread(tmp_path / "results" / "dicom" / f"{name}-map.dcm"))
        frames = found.get_volume(apply_real_world_transform=False)
        saved = nib.load(tmp_path / "results" / "maps" / f"{name}.nii.gz")
        in_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ frames.affine
        values = saved.get_fdata(dtype=np.float32)
        for index in ((0, 0, 0), tuple(n - 1 for n in frames.array.shape[:3]), (2, 3, 1)):
            voxel = np.linalg.inv(saved.affine) @ in_lps @ [*index, 1.0]
            assert frames.array[index] == values[tuple(np.rint(voxel[:3]).astype(int))]


# --- what is said ----------------------------------------------------------------------------------------------------


def test_what_is_said_before() -> None:
    assert hook({}).notes_before() == []
    (warned, told) = hook({}, patient=True, without=tuple("abcdefg")).notes_before()
    assert "name, id and birth date" in warned
    assert told.endswith("a, b, c, d, e and 2 more")


def test_what_is_said_after() -> None:
    rows = [
        {"case": "a", "status": "ok", "findings": 0},
        {"case": "b", "status": "ok", "findings": MOST_SEGMENTS + 1},
        {"case": "c", "status": "failed"},
        {"case": "d", "status": "ok", "findings": 0},
        {"case": "e", "status": "ok", "findings": 3},
    ]
    prepared = hook({case: Path(case) for case in "abce"})
    (done, empty, crowded) = prepared.notes_after(rows)
    assert done == "DICOM objects of 3 scans in the folder dicom of the results"
    assert empty.endswith("no finding: a")
    assert crowded.endswith(f"first {MOST_SEGMENTS} findings: b")
    assert prepared.notes_after(rows[2:]) == [done.replace("3", "1")]

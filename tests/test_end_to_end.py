"""A newcomer's first minute: train on healthy scans, find a planted blob, evaluate, through the commands."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.detection.batch import detect_folder
from training.conftest import SMALL, write_phantoms

BLOB = (slice(4, 9), slice(6, 11), slice(4, 8))


def run(*arguments: object, expected: int = 0) -> str:
    finished = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert finished.exit_code == expected, finished.output
    return finished.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, half of them with a blob, and their labels; one file is broken."""
    folder = tmp_path_factory.mktemp("end-to-end")
    write_phantoms(folder / "healthy", 24, seed=0)
    scans = write_phantoms(folder / "scans", 6, seed=1, prefix="case")
    (folder / "labels" / "pixel").mkdir(parents=True)
    (folder / "labels" / "sample").mkdir()
    for number, path in enumerate(scans):
        image = nib.load(path)
        voxels, label = image.get_fdata(), np.zeros(image.shape, np.uint8)
        if number < 3:
            voxels[BLOB] = voxels.max() * 1.5
            label[BLOB] = 1
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
        nib.save(nib.Nifti1Image(label, image.affine), folder / "labels" / "pixel" / path.name)
        (folder / "labels" / "sample" / f"{path.name}.txt").write_text(str(int(number < 3)))
    (folder / "scans" / "broken.nii.gz").write_bytes(scans[0].read_bytes()[:300])
    sets = [part for setting in SMALL for part in ("--set", setting)]
    run("train", "-i", folder / "healthy", "-o", folder / "model", "--steps", 500, *sets)
    run(
        *("detect", "-m", folder / "model", "-i", folder / "scans", "-o", folder / "results"),
        *("--restorations", 4),
        expected=3,
    )
    run("evaluate", "-i", folder / "results", "-l", folder / "labels", "-o", folder / "evaluation")
    return folder


def test_the_blob_is_found(folder: Path) -> None:
    evaluation = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    figures = {name: figure["estimate"] for name, figure in evaluation["figures"].items()}
    assert figures["voxel_auroc"] > 0.9
    assert figures["voxel_ap"] > 5 * evaluation["voxel_prevalence"]
    assert evaluation["counts"]["counted_as_zeros"] == 0
    assert (folder / "evaluation" / "evaluation.png").is_file()


def test_a_finding_covers_the_blob_and_lies_about_it(folder: Path) -> None:
    above = nib.load(folder / "results" / "maps" / "case00.nii.gz").get_fdata() > 0.5
    # Most of it: 500 steps are few for a discriminator whose scans are restyled.
    assert above[BLOB].mean() > 0.6
    with (folder / "results" / "findings.csv").open() as opened:
        first = next(row for row in csv.DictReader(opened) if row["case"] == "case00" and row["finding"] == "1")
    for axis, where in zip("ijk", BLOB, strict=True):
        # Codes are judged in raster order, and the edge at which a scan is usual again counts, too.
        assert where.start - 2 <= float(first[f"centre_{axis}"]) <= where.stop + 2


def test_the_tables_say_how_often_healthy_scans_look_so(folder: Path) -> None:
    """Three calibration scans: the blob is stronger than all that they show, and too few to flag at 5 %."""
    facts = json.loads((folder / "results" / "results.json").read_text())
    assert (facts["calibration_scans"], facts["smallest_p_value"], facts["score_threshold"]) == (3, 0.25, None)
    with (folder / "results" / "findings.csv").open() as opened:
        first = next(row for row in csv.DictReader(opened) if row["case"] == "case00" and row["finding"] == "1")
    assert first["expected_false_per_scan"] in {"0.25", "0.5"}, "at most one healthy scan has so strong a finding"
    with (folder / "results" / "scores.csv").open() as opened:
        rows = [row for row in csv.DictReader(opened) if row["status"] == "ok"]
    assert {row["flagged"] for row in rows} == {""}
    for row in rows:
        assert float(row["score"]) == max(float(row["local"]), float(row["acquisition"])) == float(row[row["part"]])
        assert float(row["paper_score"]) >= 0
    detect_folder(
        folder / "model", folder / "scans", folder / "kept", false_positive_rate=0.3, false_positives_per_scan=0.5
    )
    with (folder / "kept" / "scores.csv").open() as opened:
        rows = {row["case"]: row for row in csv.DictReader(opened)}
    assert [rows[f"case0{n}"]["flagged"] for n in range(3)] == ["1", "1", "1"]
    assert rows["broken"]["flagged"] == ""
    assert all(int(rows[f"case0{n}"]["findings"]) > 0 for n in range(3))


def test_the_papers_score_and_map_stay_available(folder: Path) -> None:
    run(
        *("detect", "-m", folder / "model", "-i", folder / "scans", "-o", folder / "paper"),
        *("--restorations", 2, "--scores", "paper"),
        expected=3,
    )
    tables = []
    for name in ("results", "paper"):
        with (folder / name / "scores.csv").open() as opened:
            tables.append({row["case"]: row for row in csv.DictReader(opened) if row["status"] == "ok"})
    for case, row in tables[1].items():
        assert row["score"] == row["paper_score"] == tables[0][case]["paper_score"]
        assert row["part"] == ""
    calibration = json.loads((folder / "model" / "calibration.json").read_text())
    facts = json.loads((folder / "paper" / "results.json").read_text())
    assert facts["map_threshold"] == calibration["paper_map_threshold"] != 0.5


def test_the_broken_scan_has_its_row(folder: Path) -> None:
    with (folder / "results" / "scores.csv").open() as opened:
        rows = {row["case"]: row for row in csv.DictReader(opened)}
    assert len(rows) == 7
    assert rows["broken"]["status"] == "failed"
    assert rows["broken"]["code"] == "E_TRUNCATED"
    assert rows["broken"]["score"] == ""
    assert not (folder / "results" / "maps" / "broken.nii.gz").exists()


def test_maps_lie_on_their_scans(folder: Path) -> None:
    for path in (folder / "results" / "maps").iterdir():
        scan, found = nib.load(folder / "scans" / path.name), nib.load(path)
        assert found.shape == scan.shape
        np.testing.assert_array_equal(found.affine, scan.affine)
        assert found.get_data_dtype() == np.float32
        values = np.asanyarray(found.dataobj)
        assert values.min() >= 0
        assert values.max() <= 1


def test_each_scan_has_a_picture_and_a_restoration(folder: Path) -> None:
    for kind, suffix in (("figures", ".png"), ("restored", ".nii.gz")):
        assert {p.name for p in (folder / "results" / kind).iterdir()} == {f"case{n:02d}{suffix}" for n in range(6)}

"""Every scan gets a prediction of its name, shape and place, whatever is wrong with it."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.config import DetectionSettings
from mendscan.detection.calibration import Calibration
from mendscan.detection.detector import Detector
from mendscan.detection.networks import Networks
from mendscan.detection.voxel_calibration import VoxelCalibration
from mendscan.errors import CohortError, WriteError
from mendscan.submission.challenge import Anatomy, Mode
from mendscan.submission.inspecting import inspect_prediction
from mendscan.submission.predicting import predict_folder
from mendscan.submission.ranks import challenge_map, challenge_score
from mendscan.volumes.reading import read_volume
from tiny_model import OBLIQUE, head


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path: Path, toys: Path) -> Path:
    return Path(shutil.copytree(toys / "brain" / "toy", tmp_path / "data"))


def values(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_maps_are_the_detectors_in_the_files_own_axes(data: Path, tmp_path: Path, models: dict[Anatomy, Path]) -> None:
    shown = run("mood-predict", "--mode", "pixel", "-m", models["brain"], "-i", data, "-o", tmp_path / "pred")
    assert shown.exit_code == 0, shown.output
    assert {p.name for p in (tmp_path / "pred").iterdir()} == {p.name for p in data.iterdir()}
    detector = Detector.load(models["brain"], workers=1)
    for scan in data.iterdir():
        found, given = nib.load(tmp_path / "pred" / scan.name), nib.load(scan)
        np.testing.assert_array_equal(found.affine, given.affine)
        assert found.get_data_dtype() == np.float32
        volume = read_volume(scan)
        expected = volume.to_native(challenge_map(detector.ranking_map(volume)))
        np.testing.assert_array_equal(values(tmp_path / "pred" / scan.name), expected)
        assert not inspect_prediction(tmp_path / "pred" / scan.name, scan, "pixel").problems
        assert 0 < expected.max() < 1


def test_scores_are_the_detectors(data: Path, tmp_path: Path, models: dict[Anatomy, Path]) -> None:
    shown = run("mood-predict", "--mode", "sample", "-m", models["brain"], "-i", data, "-o", tmp_path / "pred")
    assert shown.exit_code == 0, shown.output
    detector = Detector.load(models["brain"], workers=1)
    scores = []
    for scan in sorted(data.iterdir()):
        text = (tmp_path / "pred" / f"{scan.name}.txt").read_text()
        score = detector.detect(scan).score
        assert float(text) == challenge_score(score, detector.calibration.healthy())
        scores.append((score, float(text)))
    assert len(list((tmp_path / "pred").iterdir())) == len(scores) == len(set(scores)) == 3
    assert sorted(scores) == sorted(scores, key=lambda pair: pair[1])


def damage(data: Path) -> dict[str, tuple[int, int, int]]:
    """Add scans that cannot be worked on; return what shape a prediction of each can have."""
    image = nib.Nifti1Image(head(0).astype(np.float32), OBLIQUE)
    whole = image.to_bytes()
    nan = np.full(image.shape, np.nan, np.float32)
    nib.save(nib.Nifti1Image(nan, OBLIQUE), data / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.float32), OBLIQUE), data / "constant.nii.gz")
    (data / "cut.nii.gz").write_bytes(gzip.compress(whole)[: len(gzip.compress(whole)) // 2])
    (data / "flipped.nii.gz").write_bytes(gzip.compress(whole)[:-8] + bytes(8))
    (data / "garbage.nii.gz").write_bytes(b"no scan at all")
    (data / "empty.nii.gz").write_bytes(b"")
    (data / "folder.nii.gz").mkdir()
    singular = nib.Nifti1Header(whole[:348])
    singular.set_sform(np.diag([1.0, 0, 1, 1]), 1)
    singular["qform_code"] = 0
    (data / "singular.nii.gz").write_bytes(gzip.compress(bytes(singular.binaryblock) + whole[348:]))
    shapes = dict.fromkeys(("nan", "constant", "cut", "flipped", "singular"), image.shape)
    return shapes | dict.fromkeys(("garbage", "empty", "folder"), (1, 1, 1))


@pytest.mark.parametrize("mode", ["pixel", "sample"])
def test_a_bad_scan_is_zero_with_a_warning_and_costs_nobody_else(
    data: Path, toys: Path, tmp_path: Path, models: dict[Anatomy, Path], mode: Mode
) -> None:
    shapes = damage(data)
    (data / ".hidden.nii.gz").write_bytes(b"")
    (data / "notes.txt").write_text("not a scan")
    alone = tmp_path / "alone"
    predict_folder(models["brain"], toys / "brain" / "toy", alone, mode=mode)
    shown = run("mood-predict", "--mode", mode, "-m", models["brain"], "-i", data, "-o", tmp_path / "pred")
    assert shown.exit_code == 0, shown.output
    assert "11 scans predicted, 8 of them as 0" in shown.output
    suffix = ".txt" if mode == "sample" else ""
    expected = {f"toy_{n}" for n in range(3)} | set(shapes)
    assert {p.name for p in (tmp_path / "pred").iterdir()} == {f"{name}.nii.gz{suffix}" for name in expected}
    for name, shape in shapes.items():
        path = tmp_path / "pred" / f"{name}.nii.gz{suffix}"
        if mode == "sample":
            assert path.read_text() == "0.0\n"
        else:
            assert values(path).shape == shape
            assert not values(path).any()
    for path in alone.iterdir():
        assert path.read_bytes() == (tmp_path / "pred" / path.name).read_bytes()


def test_warnings_name_scan_and_problem(
    data: Path, tmp_path: Path, models: dict[Anatomy, Path], caplog: pytest.LogCaptureFixture
) -> None:
    damage(data)
    with caplog.at_level(logging.WARNING):
        done = predict_folder(models["brain"], data, tmp_path / "pred", mode="sample")
    said = [record.getMessage() for record in caplog.records if "predicted as 0" in record.getMessage()]
    assert len(said) == len(done.zeros) == 8
    assert any("nan.nii.gz: predicted as 0: voxels are NaN or infinite" in line for line in said)


def test_an_unforeseen_error_in_one_scan_is_zero_too(
    data: Path, tmp_path: Path, models: dict[Anatomy, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Detector.ranking_map

    def failing(self: Detector, volume, **options):
        if volume.name == "toy_1":
            raise MemoryError
        return whole(self, volume, **options)

    monkeypatch.setattr(Detector, "ranking_map", failing)
    done = predict_folder(models["brain"], data, tmp_path / "pred", mode="pixel")
    assert done.zeros == ("toy_1.nii.gz",)
    assert [values(tmp_path / "pred" / f"toy_{n}.nii.gz").any() for n in range(3)] == [True, False, True]


def test_what_fails_on_an_accelerator_is_computed_on_the_cpu(
    data: Path, tmp_path: Path, models: dict[Anatomy, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network on the device "meta", which has no values, stands for an accelerator that fails."""
    load = Detector.load

    def failing(model: Path, *, device: str, workers: int | None) -> Detector:
        detector = load(model, device="cpu", workers=workers)
        if device != "cpu":
            detector.networks.prior.to("meta")
        return detector

    monkeypatch.setattr(Detector, "load", failing)
    done = predict_folder(models["brain"], data, tmp_path / "pred", mode="sample")
    assert done.zeros == ()
    assert all(float(path.read_text()) > 0 for path in (tmp_path / "pred").iterdir())


def test_a_prediction_that_cannot_be_written_ends_the_run(
    data: Path, tmp_path: Path, models: dict[Anatomy, Path]
) -> None:
    (tmp_path / "pred" / "toy_1.nii.gz").mkdir(parents=True)
    with pytest.raises(WriteError):
        predict_folder(models["brain"], data, tmp_path / "pred", mode="pixel")


def test_no_scan_is_an_error(tmp_path: Path, models: dict[Anatomy, Path]) -> None:
    (tmp_path / "scan.nii").write_bytes(b"x")
    with pytest.raises(CohortError, match="no scans found"):
        predict_folder(models["brain"], tmp_path, tmp_path / "pred", mode="pixel")
    shown = run("mood-predict", "--mode", "pixel", "-m", models["brain"], "-i", tmp_path / "no", "-o", tmp_path / "p")
    assert shown.exit_code == 4


def test_environment_is_left_as_it_was(data: Path, tmp_path: Path, models: dict[Anatomy, Path]) -> None:
    before = dict(os.environ)
    run("mood-predict", "--mode", "sample", "-m", models["brain"], "-i", data, "-o", tmp_path / "pred")
    assert dict(os.environ) == before


# --- the ranking map -------------------------------------------------------------------------------------------------


def test_the_ranking_map_of_standardised_evidence_is_the_map(detector: Detector) -> None:
    volume = detector.detect((head(0), OBLIQUE)).volume
    np.testing.assert_array_equal(detector.ranking_map(volume), detector.detect(volume).map_XYZ)
    assert not np.array_equal(detector.ranking_map(volume, seed=1), detector.ranking_map(volume))


def test_the_papers_map_is_not_cut_off_for_ranking(networks: Networks, calibration: Calibration) -> None:
    """Where the paper's map says 1, voxels still differ; below, the order is the same."""
    paper = DetectionSettings(restorations=2, min_pool=1, mean_pool_SHW=(1, 1, 1))
    settings = networks.settings.model_copy(update={"detection": paper})
    voxels = VoxelCalibration(threshold=0.5, settings=paper)
    own = Detector(replace(networks, settings=settings), replace(calibration, voxels=voxels), model_hash="")
    volume = own.detect((head(0), OBLIQUE), maps=False).volume
    clipped, ranking = own.detect(volume).map_XYZ, own.ranking_map(volume)
    assert clipped is not None
    cut_off = clipped == 1
    assert 0.05 < cut_off.mean() < 0.95
    assert len(np.unique(ranking[cut_off])) > 0.5 * cut_off.sum()
    assert ranking.max() < 1
    assert ranking[cut_off].min() > 0.5


def test_scans_are_not_overwritten_by_their_maps(data: Path, models: dict[Anatomy, Path]) -> None:
    before = {path: path.read_bytes() for path in data.iterdir()}
    shown = run("mood-predict", "--mode", "pixel", "-m", models["brain"], "-i", data, "-o", data)
    assert shown.exit_code == 2
    assert {path: path.read_bytes() for path in data.iterdir()} == before

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from baselines.conftest import AFFINE, BLOB, blob_SHW, save_scan
from mendscan.baselines.calibrating import Calibrated, StandardisedBaseline, calibrate, standardise
from mendscan.baselines.detecting import detect_with
from mendscan.baselines.fitting import BASELINES, fit_baseline
from mendscan.baselines.positional import fit_pca
from mendscan.baselines.saving import load_baseline, load_calibrated, save_baseline, save_calibrated
from mendscan.baselines.training import Budget, training_folder
from mendscan.cohort.preparing import prepare
from mendscan.detection.standardising import HealthyReference, smoothed
from mendscan.errors import ModelError
from mendscan.results import SCORE_COLUMNS, read_run, read_scores
from mendscan.volumes.reading import read_volume
from training.conftest import phantom


@pytest.fixture(scope="module", params=list(BASELINES))
def baseline(request, cohort, tmp_path_factory):
    where = training_folder(tmp_path_factory.mktemp("fit"))
    return fit_baseline(request.param, cohort, Budget(steps=2), where)


@pytest.fixture(scope="module")
def pca(cohort):
    return fit_pca(cohort, components=4)


def healthy_maps(baseline, cohort):
    return np.stack([baseline.residual(prepared) for prepared in cohort.calibration()])


def test_half_is_the_healthy_quantile_of_scored_voxels(baseline, cohort):
    calibrated = calibrate(baseline, cohort)
    maps, scored = [], []
    foreground = np.stack([prepared.foreground_SHW for prepared in cohort.calibration()])
    usual = foreground.mean(axis=0) >= 0.1
    for prepared in cohort.calibration():
        maps.append(calibrated.scored(prepared).map_SHW)
        scored.append(prepared.foreground_SHW | usual)
        assert (maps[-1][~scored[-1]] == 0).all()
    above = np.mean(np.stack(maps)[np.stack(scored)] > 0.5)
    assert above == pytest.approx(0.005, abs=5e-4)
    assert 0 <= np.min(maps) <= np.max(maps) <= 1


def test_the_raw_score_is_the_mean_over_scored_voxels(pca, cohort):
    calibrated = calibrate(pca, cohort)
    for prepared in cohort.calibration():
        where = prepared.foreground_SHW | (calibrated.usual_SHW >= 0.1)
        expected = pca.residual(prepared)[where].mean()
        assert calibrated.scored(prepared).score == pytest.approx(expected, rel=1e-5)


def test_the_map_keeps_the_order_of_the_raw_map(pca, cohort, new_scan):
    calibrated, prepared = calibrate(pca, cohort), new_scan(blob=2.0)
    raw, shown = pca.residual(prepared)[prepared.foreground_SHW], calibrated.scored(prepared).map_SHW
    order = np.argsort(raw, kind="stable")
    assert (np.diff(shown[prepared.foreground_SHW][order]) >= 0).all()


def test_the_standardised_map_is_smoothed_and_standardised_by_the_calibration_scans(pca, cohort, new_scan):
    reference = HealthyReference.fit(healthy_maps(pca, cohort), sigma_voxels=2.0)
    expected = (smoothed(pca.residual(new_scan(blob=1.0)), 2.0) - reference.mean_SHW) / reference.spread_SHW
    found = standardise(pca, cohort).baseline
    assert found.name == "pca-standardised"
    np.testing.assert_allclose(found.residual(new_scan(blob=1.0)), expected, rtol=1e-5, atol=1e-5)


def test_where_voxels_are_long_the_smoothing_is_as_wide_in_mm_along_all_axes(pca, cohort, new_scan, tmp_path):
    detection = cohort.settings.detection.model_copy(update={"voxel_aspect_SHW": (4.0, 1.0, 1.0)})
    thick = replace(cohort, settings=cohort.settings.model_copy(update={"detection": detection}))
    reference = HealthyReference.fit(healthy_maps(pca, cohort), sigma_voxels=(0.5, 2.0, 2.0))
    raw = pca.residual(new_scan(blob=1.0))
    expected = (smoothed(raw, (0.5, 2.0, 2.0)) - reference.mean_SHW) / reference.spread_SHW
    found = standardise(pca, thick)
    np.testing.assert_allclose(found.baseline.residual(new_scan(blob=1.0)), expected, rtol=1e-5, atol=1e-5)
    save_calibrated(tmp_path / "thick", found)
    loaded = load_calibrated(tmp_path / "thick", device="cpu")
    np.testing.assert_array_equal(
        loaded.baseline.residual(new_scan(blob=1.0)), found.baseline.residual(new_scan(blob=1.0))
    )


def test_the_standardised_score_is_the_mean_of_the_highest_voxels(pca, cohort):
    standardised = standardise(pca, cohort).baseline
    map_SHW = np.random.default_rng(0).normal(size=(10, 20, 20)).astype(np.float32)
    where_SHW = np.random.default_rng(1).random(map_SHW.shape) < 0.5
    inside = np.sort(map_SHW[where_SHW])
    expected = inside[-round(0.002 * inside.size) :].mean()
    assert standardised.scan_score(map_SHW, where_SHW) == pytest.approx(expected, rel=1e-5)
    assert standardised.scan_score(map_SHW, np.zeros_like(where_SHW)) == 0


def test_healthy_scans_are_standardised_without_themselves(pca, cohort):
    calibrated = standardise(pca, cohort)
    maps, scores = healthy_maps(pca, cohort), []
    for left_out, prepared in enumerate(cohort.calibration()):
        reference = HealthyReference.fit(np.delete(maps, left_out, axis=0), sigma_voxels=2.0)
        others = StandardisedBaseline(pca, reference)
        where = prepared.foreground_SHW | (calibrated.usual_SHW >= 0.1)
        scores.append(others.scan_score(others.residual(prepared), where))
    np.testing.assert_allclose(calibrated.healthy_scores, sorted(scores), rtol=1e-4)


def test_a_blob_is_found_above_the_healthy_threshold(pca, cohort, new_scan):
    calibrated = standardise(pca, cohort)
    map_SHW, score = calibrated.scored(new_scan(blob=4.0))
    assert map_SHW[blob_SHW()].mean() > 0.5
    assert score > calibrated.scored(new_scan()).score
    assert calibrated.p_value(score) == 1 / (1 + len(cohort.split.calibration))


def test_p_values_count_the_healthy_scores(pca, cohort):
    calibrated = Calibrated(pca, cohort.settings, np.ones((1, 1, 1), np.float32), 1.0, (1.0, 2.0, 3.0, 4.0))
    assert [calibrated.p_value(s) for s in (0.5, 2.0, 2.5, 9.0)] == [1.0, 0.8, 0.6, 0.2]


def test_saved_and_loaded_gives_the_same_map_to_the_last_bit(baseline, cohort, new_scan, tmp_path):
    save_baseline(tmp_path / "raw", baseline, cohort.settings)
    loaded = load_baseline(tmp_path / "raw", device="cpu")
    assert (type(loaded), loaded.name, loaded.steps) == (type(baseline), baseline.name, baseline.steps)
    assert loaded.residual(new_scan()).tobytes() == baseline.residual(new_scan()).tobytes()
    for name, calibrated in (("c", calibrate(baseline, cohort)), ("s", standardise(baseline, cohort))):
        save_calibrated(tmp_path / name, calibrated)
        again = load_calibrated(tmp_path / name, device="cpu")
        assert again.scored(new_scan()).map_SHW.tobytes() == calibrated.scored(new_scan()).map_SHW.tobytes()
        assert again.healthy_scores == calibrated.healthy_scores
        assert again.settings == calibrated.settings
        assert again.baseline.name == calibrated.baseline.name


def test_damaged_baselines_are_refused(pca, cohort, tmp_path):
    save_baseline(tmp_path, pca, cohort.settings)
    with pytest.raises(ModelError, match="not calibrated"):
        load_calibrated(tmp_path)
    facts, arrays = tmp_path / "baseline.json", tmp_path / "baseline.safetensors"
    whole, raw = facts.read_text(), arrays.read_bytes()
    arrays.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ModelError, match="not the one that was saved"):
        load_baseline(tmp_path)
    arrays.write_bytes(raw)
    for damaged, words in (
        (whole.replace('"format": 1', '"format": 2'), "another format"),
        (whole.replace('"name": "pca"', '"name": "vae"'), "do not fit"),
        (whole.replace('"name": "pca"', '"name": "gan"'), "do not fit"),
        ("{", "no baseline here"),
    ):
        facts.write_text(damaged)
        with pytest.raises(ModelError, match=words):
            load_baseline(tmp_path)
    with pytest.raises(ModelError, match="no baseline here"):
        load_baseline(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("test")
    healthy, bright = (phantom(np.random.default_rng(seed)) for seed in (50, 51))
    bright[BLOB] += 4 * bright.std()
    save_scan(folder / "a-healthy.nii.gz", healthy)
    save_scan(folder / "b-bright.nii.gz", bright)
    (folder / "c-broken.nii.gz").write_bytes(b"no")
    return folder


@pytest.mark.parametrize("make", [calibrate, standardise])
def test_the_results_folder_is_one_that_others_can_read(pca, cohort, scans, tmp_path, make):
    calibrated = make(pca, cohort)
    summary = detect_with(calibrated, scans, tmp_path, workers=0)
    assert summary.failed == 1
    scores, run = read_scores(tmp_path), read_run(tmp_path)
    assert set(scores) == {"a-healthy", "b-bright"}
    assert scores["b-bright"] > scores["a-healthy"]
    expected = {"method": calibrated.baseline.name, "map_threshold": 0.5, "steps": 0, "seed": 0, "calibration_scans": 4}
    assert {key: run[key] for key in expected} == expected
    assert run["settings"] == cohort.settings.model_dump(mode="json")
    with (tmp_path / "scores.csv").open(newline="") as opened:
        rows = {row["case"]: row for row in csv.DictReader(opened)}
    assert tuple(rows["a-healthy"]) == SCORE_COLUMNS
    assert float(rows["b-bright"]["p_value"]) == 0.2
    assert (rows["c-broken"]["status"], rows["c-broken"]["score"]) == ("failed", "")
    assert rows["c-broken"]["code"].startswith("E_")
    assert str(scans) not in (tmp_path / "scores.csv").read_text()


def test_maps_lie_on_the_scans_own_grid(pca, cohort, scans, tmp_path):
    calibrated = standardise(pca, cohort)
    detect_with(calibrated, scans, tmp_path, workers=0)
    image = nib.load(tmp_path / "maps" / "b-bright.nii.gz")
    np.testing.assert_array_equal(image.affine, AFFINE)
    volume = read_volume(scans / "b-bright.nii.gz")
    prepared = prepare(volume, cohort.settings.preparation)
    expected = prepared.to_scan(calibrated.scored(prepared).map_SHW)
    np.testing.assert_allclose(image.get_fdata(dtype=np.float32), expected, atol=1e-6)
    assert image.get_fdata()[BLOB].mean() > 0.5
    assert not (tmp_path / "maps" / "c-broken.nii.gz").exists()


def test_worker_processes_change_nothing(cohort, scans, tmp_path):
    calibrated = standardise(fit_baseline("dae", cohort, Budget(steps=1), training_folder(tmp_path)), cohort)
    for workers in (0, 2):
        detect_with(calibrated, scans, tmp_path / str(workers), workers=workers)
    for name in ("maps/a-healthy.nii.gz", "maps/b-bright.nii.gz", "results.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert read_scores(tmp_path / "0") == read_scores(tmp_path / "2")


def test_earlier_results_of_the_same_cases_are_replaced(pca, cohort, scans, tmp_path):
    (tmp_path / "maps").mkdir()
    stale = tmp_path / "maps" / "c-broken.nii.gz"
    stale.write_bytes(b"old")
    (tmp_path / "results.json").write_text(json.dumps({"old": True}))
    detect_with(calibrate(pca, cohort), scans, tmp_path, workers=0)
    assert not stale.exists()
    assert "old" not in read_run(tmp_path)


def test_nothing_touches_the_number_of_threads(baseline, new_scan):
    before = torch.get_num_threads()
    baseline.residual(new_scan())
    assert torch.get_num_threads() == before

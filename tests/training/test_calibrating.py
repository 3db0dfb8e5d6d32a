"""What a trained model knows of healthy findings: as in detection, each scan by the others; and calibrating again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mendscan
from mendscan.cohort.preparing import prepare
from mendscan.detection.acquisition import GENERATIONS, STATISTICS
from mendscan.detection.detector import Detector
from mendscan.detection.standardising import HealthyReference
from mendscan.detection.voxel_calibration import HealthyKind
from mendscan.errors import CohortError, ModelError, SettingsError
from mendscan.models.bundle import load_bundle, save_bundle
from mendscan.training.calibrating import recalibrate
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume
from training.conftest import SMALL, write_phantoms


@pytest.fixture(scope="module")
def model(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with five calibration scans, from the 16 of the cohort."""
    folder = tmp_path_factory.mktemp("models") / "five"
    settings = (*SMALL, "training.calibration_fraction=0.3", "detection.threshold_quantile=0.97")
    mendscan.train(healthy, folder, assignments=settings, steps=40, device="cpu")
    return folder


def calibration_scans(model: Path, healthy: Path) -> list[Path]:
    wanted = json.loads((model / "split.json").read_text())["calibration"]
    by_content = {read_volume(path).content_hash: path for path in find_scans(healthy)}
    return [by_content[content] for content in wanted]


def test_healthy_peaks_are_what_detection_finds_with_a_model_of_the_other_scans(model: Path, healthy: Path) -> None:
    detector = Detector.load(model, device="cpu")
    networks, calibration, settings = detector.networks, detector.calibration, detector.settings
    scans = calibration_scans(model, healthy)
    evidence = []
    for path in scans:
        volume = read_volume(path)
        encoded = networks.encode(prepare(volume, settings.preparation))
        drawn = {"restorations": 2, "threshold_nats": calibration.thresholds.restoration, "seed": settings.seed}
        evidence.append(networks.evidence(encoded, networks.restore(encoded, **drawn).residual_SHW))
    found = []
    for path, own in zip(scans, evidence, strict=True):
        others = [each for each in evidence if each is not own]
        nll = np.stack([each.nll_SHW for each in others])
        reference = HealthyReference.fit(nll, sigma_voxels=settings.detection.nll_sigma)
        kinds = calibration.voxels.kinds
        of_others = {**kinds, "nll": HealthyKind((reference,), kinds["nll"].tail)}
        without = replace(calibration, voxels=replace(calibration.voxels, kinds=of_others))
        detection = Detector(networks, without, model_hash="").detect(path, restorations=2, seed=settings.seed)
        found.append(sorted((finding.peak for finding in detection.findings), reverse=True))
    assert sum(map(len, found)) > 5
    for expected, peaks in zip(sorted(found, reverse=True), calibration.healthy_peaks, strict=True):
        assert peaks == pytest.approx(expected, rel=1e-3)


def test_a_trained_model_keeps_a_wanted_number_of_findings(model: Path, healthy: Path, tmp_path: Path) -> None:
    scans = write_phantoms(tmp_path / "new", 6, seed=5)
    detector = Detector.load(model, device="cpu")
    threshold = detector.calibration.finding_threshold(false_positives_per_scan=0.5)
    every = [f for scan in scans for f in detector.detect(scan).findings]
    kept = [f for scan in scans for f in detector.detect(scan, false_positives_per_scan=0.5).findings]
    assert kept == [found for found in every if found.peak > threshold]
    assert len(kept) < len(every)


def test_two_calibration_scans_cannot_be_left_out_and_say_so(healthy: Path, tmp_path: Path) -> None:
    mendscan.train(healthy, tmp_path / "two", assignments=SMALL, steps=10, device="cpu")
    detector = Detector.load(tmp_path / "two", device="cpu")
    assert detector.calibration.healthy_peaks is None
    with pytest.raises(ModelError, match="at least 3 calibration scans"):
        detector.detect(find_scans(healthy)[0], false_positives_per_scan=1.0)


def test_calibrating_again_changes_nothing_but_gives_an_earlier_model_its_peaks(
    model: Path, healthy: Path, tmp_path: Path
) -> None:
    recalibrate(model, healthy, tmp_path / "again", device="cpu")
    first, again = (Detector.load(folder, device="cpu").calibration for folder in (model, tmp_path / "again"))
    assert again.healthy_scores == pytest.approx(first.healthy_scores, rel=1e-5)
    assert [len(peaks) for peaks in again.healthy_peaks] == [len(peaks) for peaks in first.healthy_peaks]
    np.testing.assert_allclose(sum(again.healthy_peaks, ()), sum(first.healthy_peaks, ()), rtol=1e-4)
    for name in ("config.json", "plan.json", "split.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (model / name).read_bytes()
    recalibrate(tmp_path / "again", healthy, tmp_path / "third", device="cpu")
    for path in (tmp_path / "again").iterdir():
        assert (tmp_path / "third" / path.name).read_bytes() == path.read_bytes(), "the same scans, the same bytes"


@pytest.mark.parametrize("n", GENERATIONS[:-1])
def test_a_model_of_an_earlier_version_compares_less_until_it_is_calibrated_again(
    model: Path, healthy: Path, tmp_path: Path, n: int
) -> None:
    bundle, (scan,) = load_bundle(model), write_phantoms(tmp_path / "new", 1, seed=6)
    arrays = dict(bundle.calibration_arrays)
    for name in ("centre", "spread"):
        arrays[f"acquisition_{name}"] = arrays[f"acquisition_{name}"][:n].contiguous()
    arrays["acquisition_precision"] = arrays["acquisition_precision"][:n, :n].contiguous()
    (tmp_path / "earlier").mkdir()
    save_bundle(
        tmp_path / "earlier", settings=bundle.settings, networks=bundle.networks, calibration=bundle.calibration,
        calibration_arrays=arrays, plan=bundle.plan, split=bundle.split, card=bundle.card,
    )  # fmt: skip
    said = Detector.load(tmp_path / "earlier", device="cpu").detect(scan, maps=False).statistics
    assert tuple(said) == STATISTICS[:n]
    recalibrate(tmp_path / "earlier", healthy, tmp_path / "again", device="cpu")
    again, first = (Detector.load(folder, device="cpu").calibration.scan for folder in (tmp_path / "again", model))
    assert again.acquisition.is_whole
    # Training stores its slices as float16.
    np.testing.assert_allclose(again.acquisition.centre, first.acquisition.centre, rtol=0.02, atol=0.02)
    assert tuple(Detector.load(tmp_path / "again", device="cpu").detect(scan, maps=False).statistics) == STATISTICS


def test_calibrating_again_needs_the_same_scans_and_a_folder_of_its_own(
    model: Path, healthy: Path, tmp_path: Path
) -> None:
    write_phantoms(tmp_path / "others", 9, seed=9)
    with pytest.raises(CohortError, match=r"not the scans .* 5 of 5 scans missing"):
        recalibrate(model, tmp_path / "others", tmp_path / "new", device="cpu")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ModelError, match="there is a model already"):
        recalibrate(model, healthy, model, device="cpu")


def test_the_papers_score_and_map_are_those_of_a_model_that_has_nothing_else(
    model: Path, healthy: Path, tmp_path: Path
) -> None:
    plain = ["detection.voxel_map=residual", "detection.scan_score=paper"]
    recalibrate(model, healthy, tmp_path / "plain", device="cpu", assignments=plain)
    whole, paper = (Detector.load(folder, device="cpu") for folder in (model, tmp_path / "plain"))
    scan = write_phantoms(tmp_path / "new", 1, seed=5)[0]
    asked, own = whole.detect(scan, scores="paper"), paper.detect(scan)
    np.testing.assert_array_equal(asked.map_XYZ, own.map_XYZ)
    assert (asked.score, asked.p_value, asked.parts) == (own.score, own.p_value, {})
    assert asked.threshold == pytest.approx(own.threshold, rel=1e-6)
    with pytest.raises(SettingsError, match="own map only"):
        whole.detect(scan, scores="paper", false_positives_per_scan=1.0)


def test_the_score_is_the_same_without_maps_and_its_parts_are_named(model: Path, tmp_path: Path) -> None:
    detector = Detector.load(model, device="cpu")
    scan = write_phantoms(tmp_path / "new", 1, seed=6)[0]
    whole, quick = detector.detect(scan), detector.detect(scan, maps=False)
    assert (quick.score, quick.p_value, quick.parts) == (whole.score, whole.p_value, whole.parts)
    assert quick.map_XYZ is None
    assert set(whole.parts) == set(whole.part_p_values) == {"local", "acquisition"}
    assert whole.score == whole.parts[whole.part]
    assert whole.strangest.rsplit(" ", 1)[0] in STATISTICS

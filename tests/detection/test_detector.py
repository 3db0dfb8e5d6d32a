"""The conductor: a scan's result depends on the scan, the model and the seed, and lies where the scan lies."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.stats import betabinom

from mendscan.cohort.preparing import prepare
from mendscan.detection.calibration import Calibration, CodeThresholds
from mendscan.detection.detector import Detector
from mendscan.detection.devices import choose_device
from mendscan.detection.encoded_scan import scan_generator
from mendscan.detection.gate import AcquisitionGate
from mendscan.detection.gate_facts import gate_facts
from mendscan.detection.restoration import draw_uniforms, restore_by_fixed_point
from mendscan.detection.scoring import weigh_restorations
from mendscan.detection.standardising import HealthyReference
from mendscan.detection.voxel_calibration import HealthyKind, TailTable, VoxelCalibration
from mendscan.errors import (
    GeometryError,
    IntensityError,
    ModelError,
    SettingsError,
    UnfitScanError,
    UnreadableScanError,
)
from mendscan.results import Detection
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import volume_from_array
from tiny_model import OBLIQUE, head

WriteScan = Callable[..., Path]
SHAPES_ARE_CHECKED = bool(os.environ.get("JAXTYPING"))
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product([1, -1], repeat=3)
]


@pytest.fixture
def scan(tmp_path: Path, write_scan: WriteScan) -> Path:
    return write_scan(tmp_path / "scans", "head", seed=0)


def assert_same(first: Detection, second: Detection) -> None:
    assert (first.score, first.p_value, first.findings) == (second.score, second.p_value, second.findings)
    np.testing.assert_array_equal(first.slice_scores, second.slice_scores)
    np.testing.assert_array_equal(first.map_XYZ, second.map_XYZ)
    np.testing.assert_array_equal(first.restored_XYZ, second.restored_XYZ)


def saved_bytes(detection: Detection, folder: Path) -> tuple[bytes, bytes]:
    detection.save(folder)
    name = f"{detection.case}.nii.gz"
    return (folder / "maps" / name).read_bytes(), (folder / "restored" / name).read_bytes()


def without_replacement(detector: Detector) -> Detector:
    """A detector whose threshold no code exceeds: no random number is used."""
    calibration = replace(detector.calibration, thresholds=CodeThresholds(detector.calibration.thresholds.score, 1e9))
    return Detector(detector.networks, calibration, model_hash=detector.model_hash)


# --- the figures -----------------------------------------------------------------------------------------------------


def test_the_fixtures_are_sane(detector: Detector, scan: Path) -> None:
    """Many codes, a part of them replaced, a map that says something: else the tests below prove nothing."""
    detection = detector.detect(scan)
    prepared = prepare(detection.volume, detector.settings.preparation)
    codes, nll = detector.networks.codes_and_nll(
        torch.from_numpy(prepared.slices_SHW), torch.from_numpy(prepared.positions_S)
    )
    assert len(codes.unique()) > 6
    assert 0.02 < (nll > detector.calibration.thresholds.restoration).double().mean() < 0.4
    assert detection.map_XYZ.max() > 0.5 > detection.map_XYZ.min()
    assert detection.score > 0
    assert detection.findings


def test_the_score_is_the_sum_of_unlikely_codes(detector: Detector, scan: Path) -> None:
    detection = detector.detect(scan)
    prepared = prepare(read_volume(scan), detector.settings.preparation)
    expected = []
    for slice_HW, position in zip(prepared.slices_SHW, prepared.positions_S, strict=True):
        _, nll = detector.networks.codes_and_nll(torch.from_numpy(slice_HW[None]), torch.tensor([position]))
        expected.append(sum(v for v in nll.flatten().tolist() if v > detector.calibration.thresholds.score))
    assert detection.slice_scores.tolist() == pytest.approx(expected, rel=1e-4)
    assert detection.score == pytest.approx(sum(expected), rel=1e-4)
    assert detection.p_value == detector.calibration.p_value(detection.score)


def test_each_restoration_is_decoded_and_weighed(detector: Detector, scan: Path) -> None:
    """Decoding each distinct grid once changes nothing: a restoration drawn twice counts twice."""
    networks, nats = detector.networks, detector.calibration.thresholds.restoration
    volume = read_volume(scan)
    encoded = networks.encode(prepare(volume, detector.settings.preparation))
    slices, codes, position = encoded.slices_SHW, encoded.codes_Shw, encoded.position_S
    restored, residual = networks.restore(encoded, restorations=9, threshold_nats=nats, seed=3)
    uniforms = draw_uniforms(9, len(codes), (4, 4), generator=scan_generator(encoded.codes_hash, 3))
    with torch.inference_mode():
        grids_RShw = restore_by_fixed_point(networks.prior, codes, position, uniforms, threshold_nats=nats)
        distinct = [len(grids_RShw[:, s].flatten(1).unique(dim=0)) for s in range(len(codes))]
        assert any(1 < count < 9 for count in distinct)
        for s, slice_HW in enumerate(slices):
            decoded_RHW = torch.stack(
                [networks.vqvae.decode_codes(grid[None, s], position[s : s + 1])[0] for grid in grids_RShw]
            )
            expected = weigh_restorations(slice_HW, decoded_RHW, temperature=detector.settings.detection.temperature)
            torch.testing.assert_close(torch.from_numpy(restored[s]), expected.restored_HW, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(torch.from_numpy(residual[s]), expected.residual_HW, rtol=1e-4, atol=1e-4)


def test_slices_are_named_in_the_files_own_axis(detector: Detector, scan: Path) -> None:
    """Axial slices: the file's first axis runs to inferior, so the top slice of the model is its first."""
    detection = detector.detect(scan)
    assert nib.aff2axcodes(nib.load(scan).affine) == ("I", "L", "P")
    assert detection.slice_axis == "Z"
    assert len(detection.slice_scores) == len(detection.slice_indices) == 8
    assert (np.diff(detection.slice_indices) > 0).all()
    for worst, expected in ((0, 17 - 0.625), (7, 0.625)):
        scores = np.zeros(8)
        scores[worst] = 1.0
        axis, index = replace(detection, slice_scores=scores).max_slice
        assert axis == "i"
        assert abs(index - expected) <= 0.5


def test_without_maps_only_the_score_is_computed(detector: Detector, scan: Path) -> None:
    full, short = detector.detect(scan), detector.detect(scan, maps=False)
    assert (short.score, short.p_value) == (full.score, full.p_value)
    assert short.map_XYZ is short.restored_XYZ is short.anomaly_map is short.restored is None
    assert short.findings == ()
    assert short.score_row()["map_max"] == ""


def test_a_subset_of_slices_can_be_scored(detector: Detector, scan: Path) -> None:
    settings = detector.settings
    few = settings.model_copy(update={"preparation": settings.preparation.model_copy(update={"scored_slices": 3})})
    networks = replace(detector.networks, settings=few)
    paper = Calibration(detector.calibration.thresholds, (1.0,), replace(detector.calibration.voxels, kinds={}))
    detection = Detector(networks, paper, model_hash="").detect(scan)
    assert len(detection.slice_scores) == 3
    assert detection.map_XYZ.shape == detection.volume.shape
    assert detection.slice_scores.tolist() == pytest.approx(detector.detect(scan).slice_scores[[0, 4, 7]], rel=1e-4)


# --- healthy scans as the measure ------------------------------------------------------------------------------------


HEADS = [(head(seed), OBLIQUE) for seed in range(6)]


def test_findings_say_how_many_so_strong_ones_a_healthy_scan_has(detector: Detector) -> None:
    peaks = [peak for each in detector.calibration.healthy_peaks for peak in each]
    assert len(peaks) > 8
    findings = [found for scan in HEADS for found in detector.detect(scan).findings]
    assert len({found.expected_false for found in findings}) > 5
    for found in findings:
        assert found.expected_false == (1 + sum(peak >= found.peak for peak in peaks)) / 9


@pytest.mark.parametrize(("wanted", "some_go"), [(0.5, True), (1.0, True), (50.0, False)])
def test_only_findings_above_the_threshold_are_kept(detector: Detector, wanted: float, some_go: bool) -> None:
    threshold = detector.calibration.finding_threshold(false_positives_per_scan=wanted)
    gone = 0
    for scan in HEADS:
        every, kept = detector.detect(scan), detector.detect(scan, false_positives_per_scan=wanted)
        assert kept.findings == tuple(found for found in every.findings if found.peak > threshold)
        np.testing.assert_array_equal(kept.map_XYZ, every.map_XYZ)
        assert kept.threshold == every.threshold == 0.5
        gone += len(every.findings) - len(kept.findings)
    assert (gone > 0) == some_go


def test_without_healthy_peaks_nothing_is_expected_and_no_number_can_be_wanted(detector: Detector, scan: Path) -> None:
    unknowing = Detector(detector.networks, replace(detector.calibration, healthy_peaks=None), model_hash="")
    known, unknown = detector.detect(scan).findings, unknowing.detect(scan).findings
    assert unknown == tuple(replace(found, expected_false=None) for found in known)
    with pytest.raises(ModelError, match="does not know the findings of healthy scans"):
        unknowing.detect(scan, false_positives_per_scan=1.0)


def test_too_few_healthy_scans_for_a_wanted_number_are_refused_without_maps_too(detector: Detector, scan: Path) -> None:
    with pytest.raises(SettingsError, match=r"with 8 healthy scans .* is 1/9"):
        detector.detect(scan, maps=False, false_positives_per_scan=0.1)


def test_p_values_of_new_healthy_scans_are_uniform(detector: Detector) -> None:
    """One calibration set serves all new scans, so the number of p-values at most a is beta-binomial."""
    new = [detector.detect((head(seed), OBLIQUE), maps=False).p_value for seed in range(100, 180)]
    for m in range(1, 9):
        at_most = sum(p <= m / 9 for p in new)
        law = betabinom(80, m, 9 - m)
        assert min(law.cdf(at_most), law.sf(at_most - 1)) > 1e-4, (m, at_most)
    assert len(set(new)) > 5


# --- reproducible ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    detector: Detector, scan: Path, tmp_path: Path
) -> None:
    first, again, other = (
        saved_bytes(detector.detect(scan, seed=seed), tmp_path / str(n)) for n, seed in enumerate((5, 5, 6))
    )
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_the_score_needs_no_seed(detector: Detector, scan: Path) -> None:
    assert detector.detect(scan, seed=1).score == detector.detect(scan, seed=2).score


def test_the_file_name_does_not_matter(detector: Detector, scan: Path, tmp_path: Path, write_scan: WriteScan) -> None:
    other = write_scan(tmp_path / "elsewhere", "zz other name", seed=0)
    first, second = detector.detect(scan), detector.detect(other)
    assert first.case == "head"
    assert second.case == "zz other name"
    assert_same(first, second)
    assert saved_bytes(first, tmp_path / "1") == saved_bytes(second, tmp_path / "2")


def test_array_and_affine_equal_the_file(detector: Detector, scan: Path) -> None:
    image = nib.load(scan)
    from_file = detector.detect(scan)
    assert_same(from_file, detector.detect(str(scan)))
    assert_same(from_file, detector.detect(read_volume(scan)))
    assert_same(from_file, detector.detect((image.get_fdata(), image.affine)))
    assert_same(from_file, detector.detect((image.get_fdata(dtype=np.float32), image.affine)))


def test_an_array_of_integers_equals_the_file(detector: Detector, scan: Path) -> None:
    image = nib.load(scan)
    assert_same(detector.detect(scan), detector.detect((np.asarray(image.dataobj), image.affine)))


def test_what_was_detected_before_does_not_matter(
    detector: Detector, scan: Path, tmp_path: Path, write_scan: WriteScan
) -> None:
    first = detector.detect(scan)
    detector.detect(write_scan(tmp_path / "scans", "other", seed=1))
    assert_same(first, detector.detect(scan))


def test_the_loaded_model_equals_the_one_in_memory(detector: Detector, model_folder: Path, scan: Path) -> None:
    loaded = Detector.load(model_folder, device="cpu")
    assert loaded.settings == detector.settings
    assert loaded.calibration.to_json() == detector.calibration.to_json()
    assert_same(detector.detect(scan), loaded.detect(scan))


def test_global_random_numbers_are_neither_used_nor_moved(detector: Detector, scan: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = detector.detect(scan)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(2)
    assert_same(first, detector.detect(scan))


@pytest.mark.parametrize("asked", [0, -1])
def test_no_restoration_is_refused(detector: Detector, scan: Path, asked: int) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        detector.detect(scan, restorations=asked)


def test_the_number_of_restorations_can_be_chosen(detector: Detector, scan: Path) -> None:
    one, default, four = (detector.detect(scan, restorations=n) for n in (1, None, 4))
    assert_same(default, four)
    assert not np.array_equal(one.map_XYZ, four.map_XYZ)


def test_the_stream_of_a_scan_depends_on_content_and_seed() -> None:
    def drawn(content_hash: str, seed: int) -> list[float]:
        return torch.rand(4, generator=scan_generator(content_hash, seed)).tolist()

    assert drawn("ab", 0) == drawn("ab", 0)
    assert len({tuple(drawn(content, seed)) for content in ("ab", "cd", "") for seed in (0, 1, -1, 10**30)}) == 12


# --- geometry --------------------------------------------------------------------------------------------------------


def test_the_map_has_the_scans_shape_and_affine(detector: Detector, scan: Path, tmp_path: Path) -> None:
    detection = detector.detect(scan)
    detection.save(tmp_path)
    image = nib.load(scan)
    for folder, native, ras in (
        ("maps", detection.anomaly_map, detection.map_XYZ),
        ("restored", detection.restored, detection.restored_XYZ),
    ):
        saved = nib.load(tmp_path / folder / "head.nii.gz")
        assert saved.shape == image.shape == native.shape == (18, 14, 11)
        np.testing.assert_array_equal(saved.affine, image.affine)
        assert saved.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asarray(saved.dataobj), native)
        np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(saved).dataobj), ras)
    found = np.asarray(nib.load(tmp_path / "maps" / "head.nii.gz").dataobj)
    assert found.min() >= 0
    assert found.max() <= 1


def by_residual_alone(detector: Detector) -> Detector:
    """A detector whose map is the residual r, slightly smoothed, as r / (r + 2.5)."""
    shape = detector.calibration.voxels.kinds["residual"].references[0].mean_SHW.shape
    zero, one, never = (np.full(shape, value, np.float32) for value in (0, 1, 1e6))
    identity = TailTable((0.0, 1.0, 2.0), (0.0, 1.0, 2.0))
    residual, nll = HealthyReference(zero, one, 0.5), HealthyReference(never, one, 0.0)
    kinds = {"residual": HealthyKind((residual,), identity), "nll": HealthyKind((nll,), identity)}
    voxels = VoxelCalibration(0.5, kinds, scale=2.5)
    return Detector(detector.networks, replace(detector.calibration, voxels=voxels), model_hash="")


@pytest.mark.parametrize("centre", [(3, 3, 3), (14, 3, 8), (4, 10, 3), (9, 7, 5)])
def test_a_bright_spot_is_found_where_it_is(detector: Detector, scan: Path, centre: tuple[int, int, int]) -> None:
    image = nib.load(scan)
    voxels = np.asarray(image.dataobj).astype(np.float32)
    voxels[tuple(slice(c - 1, c + 2) for c in centre)] = 9_000
    detection = by_residual_alone(detector).detect((voxels, image.affine))
    for values in (detection.anomaly_map, np.abs(detection.restored - voxels)):
        peak = np.unravel_index(values.argmax(), values.shape)
        assert np.abs(np.array(peak) - centre).max() <= 1
    found = detection.findings[0]
    assert np.abs(np.array(found.centre_voxel) - centre).max() < 1
    np.testing.assert_allclose(image.affine @ [*found.centre_voxel, 1], [*found.centre_mm, 1], atol=1e-6)


def reoriented(scan: Path, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same content with its axes permuted and flipped, and the affine that says so."""
    image = nib.load(scan)
    voxels = np.asarray(image.dataobj).astype(np.float32)
    return apply_orientation(voxels, orientation), image.affine @ inv_ornt_aff(orientation, voxels.shape)


@pytest.mark.parametrize("orientation", [*ORIENTATIONS[::7], ORIENTATIONS[-1]], ids=lambda o: str(o.tolist()))
def test_another_storage_order_gives_the_same_result(detector: Detector, scan: Path, orientation: np.ndarray) -> None:
    deterministic = without_replacement(detector)
    first, second = deterministic.detect(scan), deterministic.detect(reoriented(scan, orientation))
    assert first.score == second.score
    np.testing.assert_array_equal(apply_orientation(first.anomaly_map, orientation), second.anomaly_map)
    np.testing.assert_array_equal(apply_orientation(first.restored, orientation), second.restored)
    for mine, others in zip(first.findings, second.findings, strict=True):
        assert mine.centre_mm == pytest.approx(others.centre_mm, abs=1e-9)
        assert (mine.voxels, mine.peak) == (others.voxels, others.peak)


def test_another_storage_order_gives_the_same_samples(detector: Detector, scan: Path) -> None:
    orientation = ORIENTATIONS[-1]
    first, second = detector.detect(scan), detector.detect(reoriented(scan, orientation))
    np.testing.assert_array_equal(apply_orientation(first.anomaly_map, orientation), second.anomaly_map)


def test_where_nothing_is_replaced_the_restoration_is_the_reconstruction(detector: Detector, scan: Path) -> None:
    deterministic = without_replacement(detector)
    detection = deterministic.detect(scan)
    prepared = prepare(detection.volume, detector.settings.preparation)
    slices, position = torch.from_numpy(prepared.slices_SHW), torch.from_numpy(prepared.positions_S)
    with torch.inference_mode():
        reconstructed = detector.networks.vqvae(slices, position).slices_BHW.numpy()
    expected = prepared.restored_scan(detection.volume, reconstructed)
    np.testing.assert_allclose(detection.restored_XYZ, expected, rtol=1e-3, atol=0.05)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_what_had_no_value_is_not_anomalous(detector: Detector, tmp_path: Path, write_scan: WriteScan) -> None:
    voxels = head(0)
    holed = voxels.astype(np.float32)
    holed[:5], holed[10:14, 12:18, 6:9] = np.nan, np.nan
    path = write_scan(tmp_path, "holed", voxels=holed)
    detection = detector.detect(read_volume(path, nan="fill"))
    missing_XYZ = detection.volume.missing_XYZ
    assert missing_XYZ is not None
    assert missing_XYZ.sum() == np.isnan(holed).sum()
    assert (detection.map_XYZ[missing_XYZ] == 0).all()
    filled = replace(detection.volume, missing_XYZ=None)
    whole = detector.detect(filled)
    assert (whole.map_XYZ[missing_XYZ] > 0).any()
    np.testing.assert_array_equal(detection.map_XYZ[~missing_XYZ], whole.map_XYZ[~missing_XYZ])
    assert [each["code"] for each in detection.details()["remarks"]] == ["W_NAN"]


def test_strict_refuses_a_scan_of_uncertain_place(detector: Detector, tmp_path: Path) -> None:
    image = nib.Nifti1Image(head(0), OBLIQUE)
    image.set_sform(OBLIQUE, 0)
    image.set_qform(OBLIQUE, 0)
    nib.save(image, tmp_path / "nowhere.nii")
    volume = read_volume(tmp_path / "nowhere.nii")
    assert detector.detect(volume).score == detector.detect(tmp_path / "nowhere.nii").score
    for scan in (volume, tmp_path / "nowhere.nii"):
        with pytest.raises(GeometryError, match="not certain where the scan lies"):
            detector.detect(scan, strict=True)


def test_errors_are_typed(detector: Detector, tmp_path: Path, write_scan: WriteScan) -> None:
    with pytest.raises(UnreadableScanError, match="no such file"):
        detector.detect(tmp_path / "missing.nii.gz")
    constant = write_scan(tmp_path, "constant", voxels=np.ones((8, 8, 8), np.float32))
    with pytest.raises(IntensityError) as caught:
        detector.detect(constant)
    assert caught.value.code == "E_CONSTANT"
    voxels = np.random.default_rng(0).normal(size=(8, 8, 8))
    voxels[1, 2, 3] = np.nan
    with pytest.raises(IntensityError) as caught:
        detector.detect((voxels, np.eye(4)))
    assert caught.value.code == "E_NAN"
    with pytest.raises(ModelError):
        Detector.load(tmp_path / "nowhere")


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    missing = [name for name in ("cuda", "mps") if choose_device("auto").type != name]
    for name in [*missing[:1], "quantum"]:
        with pytest.raises(SettingsError, match="device not available"):
            choose_device(name)


def test_a_volume_keeps_its_name(detector: Detector) -> None:
    voxels = np.random.default_rng(0).normal(size=(9, 10, 11))
    assert detector.detect(volume_from_array(voxels, np.eye(4), name="mine")).case == "mine"
    assert detector.detect((voxels, np.eye(4))).case == "array"


def test_the_code_nll_lies_as_the_scan_does(detector: Detector, scan: Path) -> None:
    """Its unlikely codes add up to the slices' scores, and it covers just what the model sees of the scan."""
    detection = detector.detect(scan, maps=False)
    nll = detection.code_nll
    assert nll is not None
    unlikely = np.where(nll.nats_Sab > nll.threshold, nll.nats_Sab, 0).sum(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(unlikely, detection.slice_scores, rtol=1e-5)
    prepared = prepare(detection.volume, detector.settings.preparation)
    seen_XYZ = prepared.to_scan(np.ones_like(prepared.slices_SHW)) > 0
    others = [axis for axis in range(3) if axis != "XYZ".index(detection.slice_axis)]
    for axis, (low, high) in zip(others, nll.extent, strict=True):
        seen = np.flatnonzero(seen_XYZ.any(axis=tuple(a for a in range(3) if a != axis)))
        covered = np.flatnonzero([low <= voxel <= high for voxel in range(seen_XYZ.shape[axis])])
        assert seen.tolist() == covered.tolist()


def test_a_scan_unlike_the_training_scans_is_warned_of_or_refused(
    detector: Detector, tmp_path: Path, write_scan: WriteScan
) -> None:
    """The gate of three healthy heads; one of them comes with voxels of four times the size."""
    scans = [read_volume(write_scan(tmp_path, f"healthy{seed}", seed=seed)) for seed in range(3)]
    gate = AcquisitionGate.learn([gate_facts(scan, cell_mm=6.0) for scan in scans], cell_mm=6.0)
    gated = Detector(detector.networks, replace(detector.calibration, gate=gate), model_hash="m")
    assert gated.detect(scans[0]).warnings == ()
    odd = volume_from_array(scans[0].voxels_XYZ, scans[0].affine @ np.diag([4, 4, 4, 1.0]), name="odd")
    detection = gated.detect(odd)
    assert {warning.code for warning in detection.warnings} >= {"W_SPACING"}
    assert "voxels of" in detection.score_row()["warnings"]
    assert detection.score == detector.detect(odd).score
    with pytest.raises(UnfitScanError, match=r"odd: the scan does not look like the training scans .*voxels of"):
        gated.detect(odd, strict=True)
    assert gated.detect(scans[0], strict=True).score == gated.detect(scans[0]).score

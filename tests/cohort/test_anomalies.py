"""Synthetic anomalies: the label says where, the change follows the scan's own scale, the folder is MOOD's."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mendscan.cohort.anomalies import (
    KINDS,
    TestCohort,
    add_anomaly,
    blob_weight,
    deform,
    foreground_of,
    mirror,
    reference_of,
    retexture,
    transplant,
    write_test_cohort,
)
from mendscan.errors import CohortError, IntensityError, ScanError, SettingsError
from mendscan.volumes.reading import case_name

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -40], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
RADIUS_MM = (6.0, 10.0)


def scan(seed: int = 0, shape: tuple[int, int, int] = (40, 44, 36), background: bool = True) -> np.ndarray:
    """Structured noise of several scales, in a ball when there is a background."""
    rng = np.random.default_rng(seed)
    voxels = 100.0 + sum(
        amplitude * smooth / smooth.std()
        for amplitude, sigma in ((12.0, 4.0), (8.0, 1.5), (2.0, 0.0))
        for smooth in [ndimage.gaussian_filter(rng.standard_normal(shape), sigma)]
    )
    if background:
        centred = [2.0 * i / (n - 1) - 1.0 for i, n in zip(np.ogrid[tuple(map(slice, shape))], shape, strict=True)]
        voxels = np.where(sum(c**2 for c in centred) < 0.9, voxels, 0.0)
    return voxels.astype(np.float32)


def blob(shape: tuple[int, int, int] = (40, 44, 36), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return blob_weight(shape, (20, 22, 18), radius_mm=9.0, spacing_mm=(2.0, 2.0, 2.5), rng=rng)


def put(kind: str, voxels: np.ndarray, *, seed: int = 3, **options: object) -> tuple:
    foreground = foreground_of(voxels)
    rng = np.random.default_rng(seed)
    return add_anomaly(voxels, AFFINE, foreground, rng=rng, kind=kind, radius_mm=RADIUS_MM, **options)


# Blobs and foreground


@pytest.mark.parametrize("seed", range(5))
def test_blob_is_one_soft_piece_of_about_the_asked_volume(seed: int) -> None:
    weight = blob(seed=seed)
    volume_mm3 = (weight > 0.5).sum() * 10.0
    assert weight.dtype == np.float32
    assert weight.min() == 0.0
    assert weight.max() == 1.0
    assert ((weight > 0.05) & (weight < 0.95)).sum() > 100
    assert ndimage.label(weight > 0)[1] == 1
    assert 0.4 < volume_mm3 / (4 / 3 * np.pi * 9.0**3) < 2.5


def test_blob_is_irregular() -> None:
    weights = [blob(seed=seed) > 0.5 for seed in (1, 2)]
    assert (weights[0] != weights[1]).sum() > 50


def test_foreground_is_the_head_without_holes() -> None:
    voxels = scan()
    inside = voxels > 0
    voxels[20, 22, 18] = 0.0
    np.testing.assert_array_equal(foreground_of(voxels), inside)


def test_foreground_without_background_is_everything() -> None:
    assert foreground_of(scan(background=False)).all()


def test_foreground_leaves_noisy_air_out() -> None:
    clean = scan(shape=(60, 60, 60))
    air = np.abs(np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    found, head = foreground_of(clean + air), clean > 0
    assert (found & head).sum() / (found | head).sum() > 0.85


# One anomaly


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("background", [True, False])
def test_changes_are_where_the_label_is(kind: str, background: bool) -> None:
    voxels = scan(background=background)
    before = voxels.copy()
    altered, label, anomaly = put(kind, voxels)
    changed = altered != voxels
    np.testing.assert_array_equal(voxels, before)
    assert altered.dtype == np.float32
    assert label.dtype == bool
    assert not (changed & ~ndimage.binary_dilation(label, iterations=4)).any()
    assert not (changed | label)[~foreground_of(voxels)].any()
    assert changed[label].mean() > 0.75
    assert anomaly.voxels == label.sum() > 0
    assert anomaly.kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_anomaly_shows_and_says_how_strong_it_is(kind: str) -> None:
    voxels = scan()
    altered, label, anomaly = put(kind, voxels)
    inside = voxels[foreground_of(voxels)]
    spread = np.subtract(*np.quantile(inside, [0.75, 0.25])) / 1.349
    change = np.sqrt(np.mean((altered[label] - voxels[label]) ** 2)) / spread
    assert anomaly.strength == pytest.approx(change, rel=1e-4)
    assert anomaly.strength >= 0.12
    assert RADIUS_MM[0] <= anomaly.radius_mm <= RADIUS_MM[1]
    np.testing.assert_allclose(AFFINE[:3, :3] @ anomaly.centre_index + AFFINE[:3, 3], anomaly.centre_mm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [2.0**-14, 2.0**14])
def test_scaling_the_scan_scales_the_anomaly(kind: str, scale: float) -> None:
    voxels = scan()
    plain, label, _ = put(kind, voxels)
    scaled, scaled_label, _ = put(kind, voxels * np.float32(scale))
    np.testing.assert_array_equal(label, scaled_label)
    np.testing.assert_allclose(scaled / scale, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_anomaly(kind: str) -> None:
    first, second, other = put(kind, scan()), put(kind, scan()), put(kind, scan(), seed=4)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[2] == second[2] != other[2]


def test_bright_raises_and_dark_lowers_but_not_below_the_scan() -> None:
    voxels = scan()
    bright, _, _ = put("bright", voxels)
    dark, _, _ = put("dark", voxels)
    assert (bright >= voxels).all()
    assert (dark <= voxels).all()
    assert dark.min() == voxels.min()


def test_uniform_is_constant_in_its_core() -> None:
    voxels = scan()
    altered, label, _ = put("uniform", voxels, seed=0)
    core = ndimage.binary_erosion(label, iterations=2)
    assert core.any()
    assert np.ptp(altered[core]) < 1e-3 * np.ptp(voxels[core])


@pytest.mark.parametrize("seed", range(5))
def test_texture_keeps_the_mean_and_changes_the_detail(seed: int) -> None:
    voxels, weight = scan(background=False), blob()
    reference = reference_of(voxels, foreground_of(voxels))
    altered = retexture(voxels, weight, rng=np.random.default_rng(seed), reference=reference)
    support = weight > 0
    change = altered[support].astype(np.float64) - voxels[support]
    assert abs(change.mean()) < 1e-4 * reference.spread
    assert change.std() > 0.2 * reference.spread


def test_blur_takes_detail_and_background_does_not_bleed_in() -> None:
    voxels = scan()
    altered, label, _ = put("blur", voxels)
    assert ndimage.laplace(altered)[label].std() < 0.7 * ndimage.laplace(voxels)[label].std()
    flat = np.where(foreground_of(voxels), np.float32(5.0), np.float32(0.0))
    reference = reference_of(voxels, foreground_of(voxels))
    blurred = KINDS["blur"](flat, np.ones_like(flat), rng=np.random.default_rng(0), reference=reference)
    np.testing.assert_allclose(blurred, flat, rtol=1e-5)


def test_mirror_twice_is_the_original_where_the_weight_is_one() -> None:
    voxels = scan(background=False)
    weight = np.zeros_like(voxels)
    weight[12:29, 14:31, 10:27] = 1.0
    reference, rng = reference_of(voxels, foreground_of(voxels)), np.random.default_rng(0)
    once = mirror(voxels, weight, rng=rng, reference=reference)
    np.testing.assert_allclose(once[12:29, 14:31, 10:27], voxels[28:11:-1, 14:31, 10:27], rtol=1e-5)
    np.testing.assert_allclose(mirror(once, weight, rng=rng, reference=reference), voxels, rtol=1e-5)


def test_another_scan_is_brought_into_this_scans_unit() -> None:
    voxels, donor = scan(), 1e4 * scan(7, shape=(30, 50, 28))
    reference = reference_of(voxels, foreground_of(voxels), donor_XYZ=donor)
    here, there = voxels[foreground_of(voxels)], reference.donor_XYZ[foreground_of(donor)]
    np.testing.assert_allclose(np.median(there), np.median(here), rtol=1e-3)
    np.testing.assert_allclose(np.subtract(*np.quantile(there, [0.75, 0.25])) / 1.349, reference.spread, rtol=1e-3)
    assert reference.donor_XYZ.min() == voxels.min()
    altered, label, _ = put("foreign", voxels, donor_XYZ=donor)
    assert 60 < altered[label].mean() < 140


def test_foreign_patch_is_found_elsewhere_in_the_scan() -> None:
    voxels = scan(background=False)
    weight = np.zeros_like(voxels)
    weight[18:23, 20:25, 16:21] = 1.0
    reference = reference_of(voxels, foreground_of(voxels), patch_depth_voxels=6.0)
    altered = transplant(voxels, weight, rng=np.random.default_rng(0), reference=reference)
    x, y, z = np.unravel_index(np.argmin(np.abs(voxels - altered[20, 22, 18])), voxels.shape)
    source = voxels[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3]
    np.testing.assert_allclose(altered[18:23, 20:25, 16:21], source, rtol=1e-5)
    assert (x, y, z) != (20, 22, 18)


@pytest.mark.parametrize("seed", range(6))
def test_deformation_never_folds_and_brings_no_new_intensity(seed: int) -> None:
    weight = blob(seed=seed)
    coordinates = [np.broadcast_to(c.astype(np.float32), weight.shape).copy() for c in np.ogrid[:40, :44, :36]]
    moved = [
        deform(c, weight, rng=np.random.default_rng(seed), reference=reference_of(c, np.ones(c.shape, dtype=bool)))
        for c in coordinates
    ]
    jacobian = np.moveaxis(np.stack([np.stack(np.gradient(m)) for m in moved]), (0, 1), (-2, -1))
    assert np.linalg.det(jacobian).min() > 0.0
    assert np.abs(moved[0] - coordinates[0]).max() > 0.3
    voxels = scan()
    altered = deform(
        voxels, weight, rng=np.random.default_rng(seed), reference=reference_of(voxels, foreground_of(voxels))
    )
    assert voxels.min() <= altered.min()
    assert altered.max() <= voxels.max()


def test_what_is_taken_is_not_touched() -> None:
    voxels = scan()
    taken = np.zeros(voxels.shape, dtype=bool)
    taken[:22] = True
    for seed in range(4):
        altered, label, _ = put("bright", voxels, seed=seed, taken_XYZ=taken)
        assert not (label | (altered != voxels))[taken].any()


def test_no_room_and_nonsense_are_refused_in_words() -> None:
    voxels, rng = scan(), np.random.default_rng(0)
    foreground = foreground_of(voxels)
    with pytest.raises(ScanError, match="no room"):
        add_anomaly(voxels, AFFINE, foreground, rng=rng, kind="bright", radius_mm=(80.0, 90.0))
    with pytest.raises(SettingsError, match="bright, dark"):
        add_anomaly(voxels, AFFINE, foreground, rng=rng, kind="britght")
    with pytest.raises(SettingsError, match="radius_mm"):
        add_anomaly(voxels, AFFINE, foreground, rng=rng, kind="bright", radius_mm=(5.0, 4.0))
    with pytest.raises(IntensityError, match="constant"):
        add_anomaly(np.ones_like(voxels), AFFINE, np.ones_like(foreground), rng=rng, kind="bright")


# A whole cohort


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Five scans in different axis orders and scales."""
    paths = []
    for k, codes in enumerate(("RAS", "LPS", "SAR", "PIR", "AIL")):
        orientation = nib.orientations.axcodes2ornt(codes)
        image = nib.Nifti1Image(scan(k, background=k % 2 == 0) * np.float32(10.0**k), np.diag([2.0, 2.0, 2.5, 1.0]))
        change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), orientation)
        paths.append(tmp_path / f"case{k}.nii.gz")
        nib.save(image.as_reoriented(change), paths[-1])
    return paths


def cohort(sources: list[Path], folder: Path, **options: object) -> TestCohort:
    return write_test_cohort(sources, folder, **{"seed": 1, "anomalous": 3, "radius_mm": RADIUS_MM, **options})


def test_layout_is_moods(sources: list[Path], tmp_path: Path) -> None:
    written = cohort(sources, tmp_path / "test")
    names = [f"case{k}.nii.gz" for k in range(5)]
    found = sorted(
        str(path.relative_to(tmp_path / "test")) for path in (tmp_path / "test").rglob("*") if path.is_file()
    )
    expected = [f"labels/pixel/{name}" for name in names] + [f"labels/sample/{name}.txt" for name in names]
    assert found == sorted(["anomalies.csv", *expected, *(f"scans/{name}" for name in names)])
    assert [path.name for path in written.scans] == names
    assert sum(bool(added) for added in written.anomalies.values()) == 3


def test_labels_say_what_was_changed_on_the_scans_own_grid(sources: list[Path], tmp_path: Path) -> None:
    written = cohort(sources, tmp_path / "test")
    for source, path in zip(sources, written.scans, strict=True):
        original, image = nib.load(source), nib.load(path)
        pixel = nib.load(written.folder / "labels" / "pixel" / path.name)
        sample = (written.folder / "labels" / "sample" / f"{path.name}.txt").read_text()
        label, added = np.asarray(pixel.dataobj), written.anomalies[case_name(path)]
        changed = np.asarray(image.dataobj) != np.asarray(original.dataobj)
        assert image.get_data_dtype() == pixel.get_data_dtype() == np.float32
        np.testing.assert_allclose(image.affine, original.affine, atol=1e-5)
        np.testing.assert_allclose(pixel.affine, original.affine, atol=1e-5)
        assert set(np.unique(label)) <= {0.0, 1.0}
        assert sample == ("1" if added else "0")
        assert label.any() == changed.any() == bool(added)
        assert not (changed & ~ndimage.binary_dilation(label > 0, iterations=4)).any()


def test_anomalies_do_not_overlap(sources: list[Path], tmp_path: Path) -> None:
    written = cohort(sources, tmp_path / "test", anomalous=5, per_scan=(3, 3), radius_mm=(5.0, 7.0))
    for case, added in written.anomalies.items():
        label = np.asarray(nib.load(written.folder / "labels" / "pixel" / f"{case}.nii.gz").dataobj)
        assert len(added) == 3
        assert label.sum() == sum(one.voxels for one in added)


def test_kinds_are_dealt_evenly_and_listed(sources: list[Path], tmp_path: Path) -> None:
    written = cohort(sources, tmp_path / "test", anomalous=4, per_scan=(2, 2), radius_mm=(5.0, 7.0))
    assert sorted(one.kind for added in written.anomalies.values() for one in added) == sorted(KINDS)
    with (written.folder / "anomalies.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 8
    for row in rows:
        assert row["case"] in written.anomalies
        assert int(row["voxels"]) in [one.voxels for one in written.anomalies[row["case"]]]


def test_same_seed_same_files_byte_for_byte(sources: list[Path], tmp_path: Path) -> None:
    first, second = (cohort(sources, tmp_path / name) for name in ("first", "second"))
    files = [path.relative_to(first.folder) for path in first.folder.rglob("*") if path.is_file()]
    assert all((first.folder / file).read_bytes() == (second.folder / file).read_bytes() for file in files)
    other = cohort(sources, tmp_path / "other", seed=2)
    assert other.anomalies != first.anomalies


def test_where_not_all_fit_those_that_do_are_kept(sources: list[Path], tmp_path: Path) -> None:
    written = cohort(sources[:1], tmp_path / "test", anomalous=1, per_scan=(8, 8), radius_mm=(17.0, 20.0))
    assert 1 <= len(written.anomalies["case0"]) < 8


def test_impossible_cohorts_are_refused_before_anything_is_written(sources: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "test"
    for wrong in ({"anomalous": 6}, {"per_scan": (0, 2)}, {"per_scan": (3, 2)}, {"kinds": ()}, {"kinds": ("odd",)}):
        with pytest.raises(SettingsError):
            cohort(sources, folder, **wrong)
    with pytest.raises(CohortError, match=r"case0\.nii\.gz"):
        cohort([sources[0], sources[0]], folder, anomalous=1)
    assert not folder.exists()

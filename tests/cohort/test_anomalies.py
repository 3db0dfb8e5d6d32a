"""Synthetic anomalies: the label says where, and the change follows the scan's own scale."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cohort.conftest import structured_scan
from mendscan.cohort.anomalies import add_anomaly, blob_weight
from mendscan.cohort.anomaly_kinds import KINDS, deform, mirror, reference_of, retexture, transplant
from mendscan.cohort.foreground import foreground_of
from mendscan.errors import IntensityError, ScanError, SettingsError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -40], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
RADIUS_MM = (6.0, 10.0)


def blob(shape: tuple[int, int, int] = (40, 44, 36), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return blob_weight(shape, (20, 22, 18), radius_mm=9.0, spacing_mm=(2.0, 2.0, 2.5), rng=rng)


def put(kind: str, voxels: np.ndarray, *, seed: int = 3, **options: object) -> tuple:
    foreground = foreground_of(voxels)
    rng = np.random.default_rng(seed)
    return add_anomaly(voxels, AFFINE, foreground, rng=rng, kind=kind, radius_mm=RADIUS_MM, **options)


# Blobs


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


# One anomaly


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("background", [True, False])
def test_changes_are_where_the_label_is(kind: str, background: bool) -> None:
    voxels = structured_scan(background=background)
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
    voxels = structured_scan()
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
    voxels = structured_scan()
    plain, label, _ = put(kind, voxels)
    scaled, scaled_label, _ = put(kind, voxels * np.float32(scale))
    np.testing.assert_array_equal(label, scaled_label)
    np.testing.assert_allclose(scaled / scale, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_anomaly(kind: str) -> None:
    first, second, other = (
        put(kind, structured_scan()),
        put(kind, structured_scan()),
        put(kind, structured_scan(), seed=4),
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert first[2] == second[2] != other[2]


def test_bright_raises_and_dark_lowers_but_not_below_the_scan() -> None:
    voxels = structured_scan()
    bright, _, _ = put("bright", voxels)
    dark, _, _ = put("dark", voxels)
    assert (bright >= voxels).all()
    assert (dark <= voxels).all()
    assert dark.min() == voxels.min()


def test_uniform_is_constant_in_its_core() -> None:
    voxels = structured_scan()
    altered, label, _ = put("uniform", voxels, seed=0)
    core = ndimage.binary_erosion(label, iterations=2)
    assert core.any()
    assert np.ptp(altered[core]) < 1e-3 * np.ptp(voxels[core])


@pytest.mark.parametrize("seed", range(5))
def test_texture_keeps_the_mean_and_changes_the_detail(seed: int) -> None:
    voxels, weight = structured_scan(background=False), blob()
    reference = reference_of(voxels, foreground_of(voxels))
    altered = retexture(voxels, weight, rng=np.random.default_rng(seed), reference=reference)
    support = weight > 0
    change = altered[support].astype(np.float64) - voxels[support]
    assert abs(change.mean()) < 1e-4 * reference.spread
    assert change.std() > 0.2 * reference.spread


def test_blur_takes_detail_and_background_does_not_bleed_in() -> None:
    voxels = structured_scan()
    altered, label, _ = put("blur", voxels)
    assert ndimage.laplace(altered)[label].std() < 0.7 * ndimage.laplace(voxels)[label].std()
    flat = np.where(foreground_of(voxels), np.float32(5.0), np.float32(0.0))
    reference = reference_of(voxels, foreground_of(voxels))
    blurred = KINDS["blur"](flat, np.ones_like(flat), rng=np.random.default_rng(0), reference=reference)
    np.testing.assert_allclose(blurred, flat, rtol=1e-5)


def test_mirror_twice_is_the_original_where_the_weight_is_one() -> None:
    voxels = structured_scan(background=False)
    weight = np.zeros_like(voxels)
    weight[12:29, 14:31, 10:27] = 1.0
    reference, rng = reference_of(voxels, foreground_of(voxels)), np.random.default_rng(0)
    once = mirror(voxels, weight, rng=rng, reference=reference)
    np.testing.assert_allclose(once[12:29, 14:31, 10:27], voxels[28:11:-1, 14:31, 10:27], rtol=1e-5)
    np.testing.assert_allclose(mirror(once, weight, rng=rng, reference=reference), voxels, rtol=1e-5)


def test_another_scan_is_brought_into_this_scans_unit() -> None:
    voxels, donor = structured_scan(), 1e4 * structured_scan(7, shape=(30, 50, 28))
    reference = reference_of(voxels, foreground_of(voxels), donor_XYZ=donor)
    here, there = voxels[foreground_of(voxels)], reference.donor_XYZ[foreground_of(donor)]
    np.testing.assert_allclose(np.median(there), np.median(here), rtol=1e-3)
    np.testing.assert_allclose(np.subtract(*np.quantile(there, [0.75, 0.25])) / 1.349, reference.spread, rtol=1e-3)
    assert reference.donor_XYZ.min() == voxels.min()
    altered, label, _ = put("foreign", voxels, donor_XYZ=donor)
    assert 60 < altered[label].mean() < 140


def test_foreign_patch_is_found_elsewhere_in_the_scan() -> None:
    voxels = structured_scan(background=False)
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
    voxels = structured_scan()
    altered = deform(
        voxels, weight, rng=np.random.default_rng(seed), reference=reference_of(voxels, foreground_of(voxels))
    )
    assert voxels.min() <= altered.min()
    assert altered.max() <= voxels.max()


def test_what_is_taken_is_not_touched() -> None:
    voxels = structured_scan()
    taken = np.zeros(voxels.shape, dtype=bool)
    taken[:22] = True
    for seed in range(4):
        altered, label, _ = put("bright", voxels, seed=seed, taken_XYZ=taken)
        assert not (label | (altered != voxels))[taken].any()


def test_no_room_and_nonsense_are_refused_in_words() -> None:
    voxels, rng = structured_scan(), np.random.default_rng(0)
    foreground = foreground_of(voxels)
    with pytest.raises(ScanError, match="no room"):
        add_anomaly(voxels, AFFINE, foreground, rng=rng, kind="bright", radius_mm=(80.0, 90.0))
    with pytest.raises(SettingsError, match="bright, dark"):
        add_anomaly(voxels, AFFINE, foreground, rng=rng, kind="britght")
    with pytest.raises(SettingsError, match="radius_mm"):
        add_anomaly(voxels, AFFINE, foreground, rng=rng, kind="bright", radius_mm=(5.0, 4.0))
    with pytest.raises(IntensityError, match="constant"):
        add_anomaly(np.ones_like(voxels), AFFINE, np.ones_like(foreground), rng=rng, kind="bright")

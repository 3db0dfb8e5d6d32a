"""Synthetic anomalies: the label says where, and the change follows the scan's own scale."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cohort.conftest import structured_scan
from mendscan.cohort.anomalies import LOCAL_KINDS, add_anomaly, radius_range_mm
from mendscan.cohort.anomaly_blobs import blob_weight
from mendscan.cohort.anomaly_kinds import (
    KINDS,
    STRUCTURE_KINDS,
    deform,
    mirror,
    remove,
    retexture,
    transplant,
    transplant_other,
)
from mendscan.cohort.anomaly_reference import Reference, reference_of, with_donor
from mendscan.cohort.anomaly_strata import CONTRASTS, SIZES, deal, severity_of, size_of, third_of
from mendscan.cohort.foreground import foreground_of
from mendscan.errors import IntensityError, ScanError, SettingsError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -40], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
RADIUS_MM = (6.0, 10.0)


def blob(seed: int = 1, spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.5)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return blob_weight((40, 44, 36), (20, 22, 18), radius_mm=9.0, spacing_mm=spacing_mm, rng=rng)


CUBIC_MM = (1.0, 1.0, 1.0)


def measured(voxels: np.ndarray) -> Reference:
    return reference_of(voxels, foreground_of(voxels))


def put(kind: str, voxels: np.ndarray, *, seed: int = 3, donor: np.ndarray | None = None, **options: object) -> tuple:
    reference = measured(voxels) if donor is None else with_donor(measured(voxels), donor)
    rng = np.random.default_rng(seed)
    return add_anomaly(voxels, AFFINE, reference=reference, rng=rng, kind=kind, radius_mm=RADIUS_MM, **options)


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


@pytest.mark.parametrize("kind", LOCAL_KINDS)
@pytest.mark.parametrize("background", [True, False])
def test_changes_are_where_the_label_is(kind: str, background: bool) -> None:
    voxels = structured_scan(background=background)
    before = voxels.copy()
    altered, label, anomaly = put(kind, voxels)
    changed = altered != voxels
    np.testing.assert_array_equal(voxels, before)
    assert altered.dtype == np.float32
    assert label.dtype == bool
    assert not (changed & ~ndimage.binary_dilation(label, iterations=6)).any()
    assert not (changed | label)[~foreground_of(voxels)].any()
    assert changed[label].mean() > (0.6 if kind == "deformation" else 0.75)
    assert np.isfinite(altered).all()
    assert anomaly.voxels == label.sum() > 0
    assert anomaly.kind == kind


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_anomaly_shows_and_says_how_strong_it_is(kind: str) -> None:
    voxels = structured_scan()
    altered, label, anomaly = put(kind, voxels)
    inside = voxels[foreground_of(voxels)]
    spread = np.subtract(*np.quantile(inside, [0.75, 0.25])) / 1.349
    change = np.sqrt(np.mean((altered[label] - voxels[label]) ** 2)) / spread
    assert anomaly.strength == pytest.approx(change, rel=1e-4)
    assert anomaly.strength >= 0.12
    assert RADIUS_MM[0] <= anomaly.radius_mm <= RADIUS_MM[1]
    assert anomaly.scope == "local"
    assert anomaly.contrast == ("faint" if change < 0.5 else "medium" if change < 1.0 else "plain")
    np.testing.assert_allclose(AFFINE[:3, :3] @ anomaly.centre_index + AFFINE[:3, 3], anomaly.centre_mm)


@pytest.mark.parametrize("kind", LOCAL_KINDS)
@pytest.mark.parametrize("scale", [2.0**-14, 2.0**14])
def test_scaling_the_scan_scales_the_anomaly(kind: str, scale: float) -> None:
    voxels = structured_scan()
    plain, label, _ = put(kind, voxels)
    scaled, scaled_label, _ = put(kind, voxels * np.float32(scale))
    np.testing.assert_array_equal(label, scaled_label)
    np.testing.assert_allclose(scaled / scale, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_same_seed_same_anomaly(kind: str) -> None:
    first, second, other = (
        put(kind, structured_scan()),
        put(kind, structured_scan()),
        put(kind, structured_scan(), seed=4),
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert first[2] == second[2] != other[2]


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_kinds_are_pure_and_change_only_where_the_weight_is(kind: str) -> None:
    voxels, weight = structured_scan(), blob()
    before = voxels.copy()
    first, second = (
        LOCAL_KINDS[kind](voxels, weight, rng=np.random.default_rng(5), reference=measured(voxels)) for _ in range(2)
    )
    np.testing.assert_array_equal(voxels, before)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[weight == 0], voxels[weight == 0])
    assert first.dtype == np.float32
    assert (first[weight > 0] != voxels[weight > 0]).any()


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_kinds_work_on_a_scan_around_zero(kind: str) -> None:
    voxels = structured_scan(background=False) - np.float32(150.0)
    altered, label, anomaly = put(kind, voxels)
    assert np.isfinite(altered).all()
    assert altered[label].min() >= voxels.min() - 3.0 * np.ptp(voxels)
    assert anomaly.strength > 0.0


def gradient(voxels: np.ndarray) -> np.ndarray:
    return np.sqrt(sum(g**2 for g in np.gradient(voxels.astype(np.float64))))


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_a_soft_edge_shows_less_than_a_hard_one(kind: str) -> None:
    if kind == "deformation":
        pytest.skip("it fades out on its own, with a hard edge too")
    voxels, soft = structured_scan(background=False), blob(spacing_mm=CUBIC_MM)
    steps = []
    for weight in (soft, (soft > 0.5).astype(np.float32)):
        rngs = (np.random.default_rng(seed) for seed in range(3))
        changes = [LOCAL_KINDS[kind](voxels, weight, rng=rng, reference=measured(voxels)) - voxels for rng in rngs]
        crossing = np.diff(soft > 0.5, axis=0)
        steps.append(sum(np.abs(np.diff(change, axis=0))[crossing].mean() for change in changes))
    assert steps[0] < (0.5 if kind in ("bright", "dark", "uniform") else 0.85) * steps[1]


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [("texture", 1.1), ("blur", 1.1), ("missing", 1.1), ("deformation", 1.1), ("faded", 1.1), ("mirror", 1.3)],
)
def test_the_rim_is_hardly_steeper_than_what_lies_on_both_sides(kind: str, allowed: float) -> None:
    voxels, weight = structured_scan(background=False), blob(spacing_mm=CUBIC_MM)
    edge, core = (weight > 0.1) & (weight < 0.9), weight >= 0.9
    outside = ndimage.binary_dilation(weight > 0, iterations=4) & (weight == 0)
    for seed in range(3):
        altered = LOCAL_KINDS[kind](voxels, weight, rng=np.random.default_rng(seed), reference=measured(voxels))
        steep = gradient(altered)
        assert steep[edge].mean() < allowed * max(steep[core].mean(), steep[outside].mean())


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
    reference = measured(voxels)
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
    reference = with_donor(measured(voxels), donor)
    here, there = voxels[foreground_of(voxels)], reference.donor_XYZ[foreground_of(donor)]
    np.testing.assert_allclose(np.median(there), np.median(here), rtol=1e-3)
    np.testing.assert_allclose(np.subtract(*np.quantile(there, [0.75, 0.25])) / 1.349, reference.spread, rtol=1e-3)
    assert reference.donor_XYZ.min() == voxels.min()
    altered, label, _ = put("foreign-other", voxels, donor=donor)
    assert 60 < altered[label].mean() < 140


def cube(shape: tuple[int, int, int] = (40, 44, 36)) -> np.ndarray:
    weight = np.zeros(shape, dtype=np.float32)
    weight[18:23, 20:25, 16:21] = 1.0
    return weight


@pytest.mark.parametrize(("kind", "seed"), [(transplant, 7), (transplant_other, 8)])
def test_foreign_patch_is_found_elsewhere_in_its_source(kind: object, seed: int) -> None:
    voxels, other = structured_scan(background=False), structured_scan(9, background=False, shape=(36, 40, 44))
    reference = with_donor(measured(voxels), other)
    source = voxels if kind is transplant else reference.donor_XYZ
    altered = kind(voxels, cube(), rng=np.random.default_rng(seed), reference=reference)  # type: ignore[operator]
    x, y, z = np.unravel_index(np.argmin(np.abs(source - altered[20, 22, 18])), source.shape)
    patch = source[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3]
    np.testing.assert_allclose(altered[18:23, 20:25, 16:21], patch, rtol=1e-5)
    if kind is transplant:
        assert max(abs(x - 20), abs(y - 22), abs(z - 18)) > 2


def test_without_another_scan_a_foreign_patch_is_the_scans_own() -> None:
    voxels = structured_scan(background=False)
    altered = transplant_other(voxels, cube(), rng=np.random.default_rng(0), reference=measured(voxels))
    assert np.abs(voxels - altered[20, 22, 18]).min() < 1e-4


def test_missing_closes_over_a_structure_on_a_slope() -> None:
    # A slope is harmonic: what closes over the hole must be the slope itself, whatever the structure was.
    x, y, z = (c.astype(np.float32) for c in np.ogrid[:40, :44, :36])
    slope = np.broadcast_to(100.0 + 1.0 * x - 0.5 * y + 0.25 * z, (40, 44, 36)).astype(np.float32)
    weight = blob()
    structure = np.where(weight == 1.0, np.float32(60.0), np.float32(0.0))
    reference = measured(slope)
    closed = remove(slope + structure, weight, rng=np.random.default_rng(0), reference=reference)
    core = weight == 1.0
    assert core.sum() > 100
    assert np.abs(closed - slope)[core].max() < 0.06 * 60.0


@pytest.mark.parametrize("seed", range(4))
def test_missing_keeps_the_grain_and_the_range_of_what_surrounds_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    voxels = (100.0 + 3.0 * rng.standard_normal((40, 44, 36))).astype(np.float32)
    voxels[18:23, 20:25, 16:21] = 160.0
    weight = blob(seed=seed, spacing_mm=CUBIC_MM)
    closed = remove(voxels, weight, rng=rng, reference=measured(voxels))
    fine = closed - ndimage.gaussian_filter(closed, 1.5)
    healthy = fine[weight == 0].std()
    for part in (weight >= 0.9, (weight > 0.3) & (weight < 0.7)):
        assert 0.8 < fine[part].std() / healthy < 1.25
    around = ndimage.binary_dilation(weight > 0, iterations=12) & (weight == 0)
    assert closed[weight > 0.99].max() <= voxels[around].max() < 160.0
    assert closed[weight > 0].min() >= voxels[around].min()


def test_missing_without_surroundings_is_still_a_scan() -> None:
    voxels = structured_scan(background=False)
    closed = remove(voxels, np.ones_like(voxels), rng=np.random.default_rng(0), reference=measured(voxels))
    np.testing.assert_allclose(closed.mean(), voxels.mean(), rtol=0.01)


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


def test_structure_is_changed_where_there_is_some() -> None:
    # Half of the scan is even tissue with noise: there, other content would be nothing but other noise.
    rng = np.random.default_rng(0)
    voxels = (100.0 + 4.0 * rng.standard_normal((40, 44, 36))).astype(np.float32)
    voxels[20:] += 20.0 * np.sign(np.sin(np.arange(44)[:, None] * 0.5) * np.cos(np.arange(36) * 0.4)).astype(np.float32)
    for kind in STRUCTURE_KINDS:
        places = [put(kind, voxels, seed=seed)[2].centre_index[0] for seed in range(3)]
        assert np.mean(places) > 18, kind


def test_no_room_and_nonsense_are_refused_in_words() -> None:
    voxels, rng = structured_scan(), np.random.default_rng(0)
    options = {"reference": measured(voxels), "rng": rng}
    with pytest.raises(ScanError, match="no room"):
        add_anomaly(voxels, AFFINE, kind="bright", radius_mm=(80.0, 90.0), **options)
    with pytest.raises(SettingsError, match=r"bright, dark.*rim, inverted"):
        add_anomaly(voxels, AFFINE, kind="britght", radius_mm=RADIUS_MM, **options)
    with pytest.raises(SettingsError, match="radius_mm"):
        add_anomaly(voxels, AFFINE, kind="bright", radius_mm=(5.0, 4.0), **options)
    with pytest.raises(IntensityError, match="constant"):
        reference_of(np.ones_like(voxels), np.ones(voxels.shape, dtype=bool))


# Strata


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_a_third_of_the_radii(size: str) -> None:
    smallest, largest = third_of(size, RADIUS_MM)
    for seed in range(3):
        _, _, anomaly = put("bright", structured_scan(), seed=seed, size=size)
        assert smallest <= anomaly.radius_mm <= largest
        assert anomaly.size == size == size_of(anomaly.radius_mm, RADIUS_MM)


def test_radii_follow_the_foreground_up_to_those_of_a_head() -> None:
    mask = np.zeros((60, 60, 60), dtype=bool)
    mask[10:50, 5:55, 3:57] = True
    assert radius_range_mm(mask, spacing_mm=(1.0, 1.0, 1.0)) == pytest.approx((3.4, 8.0))
    assert radius_range_mm(mask, spacing_mm=(4.0, 3.0, 3.0)) == (7.0, 16.0)


@pytest.mark.parametrize("strata", [SIZES, CONTRASTS])
def test_dealing_is_even_over_kinds_strata_and_pairs(strata: tuple[str, ...]) -> None:
    deck = deal(tuple(KINDS), strata, rng=np.random.default_rng(0))
    first, all_three = [next(deck) for _ in range(10)], [next(deck) for _ in range(20)]
    assert sorted(kind for kind, _ in first) == sorted(KINDS)
    counts = [sum(one == stratum for _, one in first) for stratum in strata]
    assert sorted(counts) == [3, 3, 4]
    assert sorted(first + all_three) == sorted((kind, stratum) for kind in KINDS for stratum in strata)


def test_severity_lies_in_the_third_of_its_contrast() -> None:
    rng = np.random.default_rng(0)
    for k, contrast in enumerate(CONTRASTS):
        drawn = [severity_of(contrast, rng=rng) for _ in range(50)]
        assert k / 3 <= min(drawn) < max(drawn) <= (k + 1) / 3

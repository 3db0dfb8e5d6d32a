"""The whole-scan family that settings are chosen on: nothing in common with the others, and each does what it says."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cohort.conftest import structured_scan, write_scan
from mendscan.cohort.anomalies import LOCAL_KINDS
from mendscan.cohort.anomaly_reference import Reference, reference_of
from mendscan.cohort.artefacts import ALL_ARTEFACTS, ARTEFACTS, apply_artefact
from mendscan.cohort.foreground import foreground_of
from mendscan.cohort.selection_artefacts import SELECTION_ARTEFACTS
from mendscan.cohort.suite import write_suite
from mendscan.errors import SettingsError

SHAPES = [(8, 8, 8), (40, 44, 6), (6, 40, 12), (64, 8, 8), (30, 30, 1), (2, 3, 2)]


def reference(voxels: np.ndarray) -> Reference:
    return reference_of(voxels, foreground_of(voxels))


def done(kind: str, voxels: np.ndarray, *, seed: int = 0, severity: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return apply_artefact(voxels, kind, rng=rng, reference=reference(voxels), severity=severity)[0]


def strength(kind: str, voxels: np.ndarray, *, seed: int, severity: float) -> float:
    rng = np.random.default_rng(seed)
    return apply_artefact(voxels, kind, rng=rng, reference=reference(voxels), severity=severity)[1]


def lines(voxels: np.ndarray, axis: int) -> np.ndarray:
    """One slice after another, each as a row."""
    return np.moveaxis(voxels, axis, 0).reshape(voxels.shape[axis], -1)


def test_the_families_share_no_name_and_no_function() -> None:
    assert not set(SELECTION_ARTEFACTS) & (set(ARTEFACTS) | set(LOCAL_KINDS))
    assert not set(SELECTION_ARTEFACTS.values()) & (set(ARTEFACTS.values()) | set(LOCAL_KINDS.values()))
    assert list(ALL_ARTEFACTS) == [*ARTEFACTS, *SELECTION_ARTEFACTS]


@pytest.mark.parametrize("kind", SELECTION_ARTEFACTS)
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0])
def test_artefacts_are_pure_seeded_and_finite(kind: str, background: bool, severity: float) -> None:
    voxels = structured_scan(background=background)
    before = voxels.copy()
    first, second, other = (done(kind, voxels, seed=seed, severity=severity) for seed in (1, 1, 2))
    np.testing.assert_array_equal(voxels, before)
    np.testing.assert_array_equal(first, second)
    assert first.shape == voxels.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert (first != voxels).any()
    assert (first != other).any() or kind == "quantised"


@pytest.mark.parametrize("kind", SELECTION_ARTEFACTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("severity", [0.0, 1.0])
def test_tiny_and_thin_scans_are_changed_too(kind: str, shape: tuple[int, int, int], severity: float) -> None:
    voxels = structured_scan(shape=shape, background=False)
    for seed in range(4):
        altered = done(kind, voxels, seed=seed, severity=severity)
        assert altered.shape == shape
        assert altered.dtype == np.float32
        assert np.isfinite(altered).all()
        assert (altered != voxels).any()


@pytest.mark.parametrize("kind", SELECTION_ARTEFACTS)
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("background", [True, False])
def test_a_scan_that_varies_along_one_axis_only_is_changed(kind: str, axis: int, background: bool) -> None:
    shape = (20, 24, 16)
    line = 100.0 + np.random.default_rng(0).standard_normal(shape[axis])
    voxels = np.broadcast_to(line.reshape([-1 if a == axis else 1 for a in range(3)]), shape).astype(np.float32)
    if background:
        voxels = np.pad(voxels, 4)
    for seed in range(4):
        altered = done(kind, voxels, seed=seed)
        assert np.isfinite(altered).all()
        assert np.abs(altered - voxels).max() > 0.1


@pytest.mark.parametrize("kind", SELECTION_ARTEFACTS)
@pytest.mark.parametrize("scale", [2.0**-14, 2.0**14])
def test_scaling_the_scan_scales_the_artefact(kind: str, scale: float) -> None:
    voxels = structured_scan()
    scaled = done(kind, voxels * np.float32(scale))
    np.testing.assert_allclose(scaled / scale, done(kind, voxels), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("kind", SELECTION_ARTEFACTS)
@pytest.mark.parametrize("background", [True, False])
def test_plainer_is_more(kind: str, background: bool) -> None:
    voxels = structured_scan(background=background)
    faint, medium, plain = (
        np.mean([strength(kind, voxels, seed=seed, severity=severity) for seed in range(8)])
        for severity in (1 / 6, 1 / 2, 5 / 6)
    )
    assert 0.05 < faint < medium < plain


@pytest.mark.parametrize("kind", sorted(set(SELECTION_ARTEFACTS) - {"aliased"}))
@pytest.mark.parametrize("seed", range(4))
def test_air_far_from_tissue_stays_and_nothing_falls_below_it(kind: str, seed: int) -> None:
    voxels = np.pad(structured_scan(), 8)
    altered = done(kind, voxels, seed=seed, severity=0.5)
    far = ndimage.distance_transform_edt(voxels == 0) > 16
    assert (altered[far] == 0).all()
    assert altered.min() == 0
    if kind in ("interleaved", "quantised", "salted"):
        assert (altered[voxels == 0] == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_coarse_keeps_the_mean_of_blocks_and_is_straight_between_them(seed: int) -> None:
    voxels = structured_scan(background=False)
    altered = done("coarse", voxels, seed=seed, severity=1.0)
    bends = [np.abs(np.diff(lines(altered, axis), n=2, axis=0)).max(axis=1) > 1e-2 for axis in range(3)]
    axis = int(np.argmin([one.mean() for one in bends]))
    assert bends[axis].mean() < 0.45  # at most two bends around the middle of each block of six
    assert altered.mean() == pytest.approx(voxels.mean(), rel=0.01)
    others = [a for a in range(3) if a != axis]
    assert all(bends[a].all() for a in others)


@pytest.mark.parametrize("seed", range(6))
def test_aliased_adds_one_end_to_the_other(seed: int) -> None:
    voxels = structured_scan(background=False)
    added = done("aliased", voxels, seed=seed, severity=1.0).astype(np.float64) - voxels
    touched = [np.abs(lines(added, axis)).max(axis=1) > 1e-3 for axis in range(3)]
    axis = int(np.argmin([one.mean() for one in touched]))
    step = 1 if touched[axis][0] else -1
    folded = round(0.4 * voxels.shape[axis])
    np.testing.assert_array_equal(touched[axis][::step], np.arange(voxels.shape[axis]) < folded)
    landed, far_end = lines(added, axis)[::step][:folded], lines(voxels - voxels.min(), axis)[::step][-folded:]
    share = 1.0 - np.arange(folded) / folded
    np.testing.assert_allclose(landed, share[:, None] * far_end, atol=1e-3)


def test_aliased_goes_on_into_the_air_before_the_foreground() -> None:
    voxels = np.pad(structured_scan(background=False), 10)
    seen = 0
    for seed in range(6):
        altered = done("aliased", voxels, seed=seed, severity=1.0)
        air = (altered != voxels) & (voxels == 0)
        seen += bool(air.any())
        assert air.mean() < 0.2
    assert seen == 6


@pytest.mark.parametrize("severity", [0.0, 1.0])
def test_interleaved_slices_are_brighter_and_darker_in_turn(severity: float) -> None:
    voxels = structured_scan()
    altered, inside = done("interleaved", voxels, severity=severity), foreground_of(voxels)
    ratio = np.divide(altered, voxels, out=np.ones_like(voxels), where=inside)
    found = [
        axis
        for axis in range(3)
        if all(np.ptp(np.moveaxis(ratio, axis, 0)[k][np.moveaxis(inside, axis, 0)[k]]) < 1e-4 for k in range(10, 25))
    ]
    assert len(found) == 1
    per_slice = np.median(np.moveaxis(ratio, found[0], 0)[10:25, 18:22, 16:20], axis=(1, 2))
    np.testing.assert_allclose(per_slice[::2], per_slice[0], rtol=1e-4)
    np.testing.assert_allclose(per_slice[:-1] + per_slice[1:], 2.0, rtol=1e-4)
    wanted = 0.08 if severity == 0.0 else 0.6
    assert strength("interleaved", voxels, seed=0, severity=severity) == pytest.approx(wanted, rel=1e-3)


def test_interleaved_never_turns_a_value_negative() -> None:
    # Half of the foreground near 0: the spread is as large as it gets beside the values.
    voxels = np.zeros((20, 20, 20), dtype=np.float32)
    voxels[2:18, 2:18, 2:18] = np.where(np.indices((16, 16, 16)).sum(axis=0) % 2, 100.0, 0.1)
    assert done("interleaved", voxels, severity=1.0).min() >= 0


@pytest.mark.parametrize("seed", range(4))
def test_disordered_holds_the_same_slices_in_another_order(seed: int) -> None:
    voxels = structured_scan(background=False)
    moved = []
    for severity in (0.0, 0.5, 1.0):
        altered = done("disordered", voxels, seed=seed, severity=severity)
        orders = []
        for axis in range(3):
            before, after = lines(voxels, axis), lines(altered, axis)
            order = [int(np.argmin(np.abs(before - one).sum(axis=1))) for one in after]
            if np.array_equal(before[order], after):
                orders.append(order)
        (order,) = orders
        assert sorted(order) == list(range(len(order)))
        moved.append(np.abs(np.array(order) - np.arange(len(order))).mean())
    assert 0 < moved[0] < moved[1] < moved[2]
    assert moved[0] < 0.7


def test_disordered_leaves_slices_of_air_where_they_are() -> None:
    voxels = np.pad(structured_scan(background=False), 10)
    for seed in range(4):
        assert ((done("disordered", voxels, seed=seed, severity=1.0) > 0) == (voxels > 0)).all()


@pytest.mark.parametrize(("severity", "step"), [(0.0, 0.4), (1.0, 1.6)])
def test_quantised_rounds_to_even_steps(severity: float, step: float) -> None:
    voxels = structured_scan()
    altered = done("quantised", voxels, severity=severity)
    step *= reference(voxels).spread
    np.testing.assert_allclose(altered / step, np.rint(altered / step), atol=1e-3)
    assert np.abs(altered - voxels).max() <= step / 2 * 1.001
    assert len(np.unique(altered)) < 25


@pytest.mark.parametrize(("severity", "share"), [(0.0, 0.002), (1.0, 0.06)])
def test_salted_is_a_share_of_the_foreground_half_bright_half_dark(severity: float, share: float) -> None:
    voxels = structured_scan()
    altered, inside = done("salted", voxels, severity=severity), foreground_of(voxels)
    changed = altered != voxels
    assert not changed[~inside].any()
    assert changed[inside].mean() == pytest.approx(share, rel=0.03)
    dark, bright = sorted(Counter(altered[changed].tolist()).items())
    assert abs(dark[1] - bright[1]) <= 2
    facts = reference(voxels)
    assert facts.lowest <= dark[0] < facts.centre < bright[0] <= facts.highest


@pytest.mark.parametrize(("severity", "degrees"), [(0.0, 8.0), (1.0, 40.0)])
def test_rotated_is_a_rotation_in_one_plane(severity: float, degrees: float) -> None:
    voxels = ndimage.gaussian_filter(structured_scan(background=False), 1.5)
    altered = done("rotated", voxels, severity=severity)
    middle = (slice(13, 27), slice(15, 29), slice(11, 25))
    errors = [
        np.abs(ndimage.rotate(altered, sign * degrees, plane, reshape=False, order=3) - voxels)[middle].max()
        for plane in combinations(range(3), 2)
        for sign in (-1, 1)
    ]
    assert min(errors) < 0.1 * voxels.std() < np.median(errors)


@pytest.mark.parametrize("kind", ["rotated", "slanted"])
def test_what_enters_is_background_or_the_value_of_the_edge(kind: str) -> None:
    framed = np.pad(structured_scan(background=False), 3)
    for seed in range(6):
        whole = structured_scan(background=False)
        altered = done(kind, whole, seed=seed, severity=1.0)
        assert whole.min() <= altered.min() < altered.max() <= whole.max()
        assert np.mean(altered == whole.min()) < 0.01
        assert np.mean(done(kind, framed, seed=seed, severity=1.0) == 0) > 0.3


def test_a_thin_scan_is_rotated_in_its_plane() -> None:
    flat = structured_scan(shape=(48, 48, 1), background=False)
    voxels = flat + np.float32(1000.0) * np.arange(5, dtype=np.float32)
    for seed in range(4):
        altered = done("rotated", voxels, seed=seed, severity=1.0)
        np.testing.assert_allclose(np.diff(altered[8:-8, 8:-8], axis=2), 1000.0, atol=0.1)
        assert (altered != voxels).mean() > 0.9


@pytest.mark.parametrize(("severity", "share"), [(0.0, 0.05), (1.0, 0.3)])
@pytest.mark.parametrize("seed", range(4))
def test_slanted_displaces_slices_evenly(severity: float, share: float, seed: int) -> None:
    # The scan is the place along one axis, so its change is the displacement along that axis.
    shape = (32, 36, 40)
    displacements = []
    for axis, places in enumerate(np.indices(shape, dtype=np.float32)):
        change = done("slanted", 100.0 + places, seed=seed, severity=severity) - 100.0 - places
        seen = np.moveaxis(change, axis, 0)[shape[axis] // 2]  # the middle, where nothing enters
        other = int(np.argmax([np.ptp(seen, axis=k).max() for k in range(2)]))
        displacements.append((share * shape[axis], np.moveaxis(seen, other, 0)))
    for ends, seen in displacements:
        np.testing.assert_allclose(seen, seen[:, :1] + np.zeros_like(seen), atol=0.02)
        np.testing.assert_allclose(np.diff(seen[:, 0], n=2)[2:-2], 0.0, atol=0.02)
        np.testing.assert_allclose(np.abs(seen[[2, -3], 0]), ends * (1.0 - 4.0 / (len(seen) - 1)), rtol=0.1)


def test_settings_are_chosen_on_the_other_family_of_artefacts(tmp_path: Path) -> None:
    sources = [write_scan(tmp_path / f"s{k}.nii.gz", structured_scan(k, background=k % 2 == 0)) for k in range(8)]
    chosen = write_suite(
        sources, tmp_path / "new", seed=0, local=0, healthy=1, artefact_kinds=tuple(SELECTION_ARTEFACTS), workers=0
    )
    added = [one for anomalies in chosen.anomalies.values() for one in anomalies]
    assert sorted(one.kind for one in added) == sorted(SELECTION_ARTEFACTS)
    assert {one.scope for one in added} == {"scan"}
    assert set(Counter(one.contrast for one in added).values()) == {2, 3}


def test_nonsense_is_refused_and_both_families_are_named(tmp_path: Path) -> None:
    expected = r"noise, ghosting.*for choosing settings coarse, aliased"
    with pytest.raises(SettingsError, match=expected):
        done("coars", structured_scan())
    for kinds in (("noise", "coars"), ()):
        with pytest.raises(SettingsError, match=expected):
            write_suite([tmp_path / "a.nii.gz"], tmp_path / "new", seed=0, artefact_kinds=kinds)
    with pytest.raises(ValueError, match="severity"):
        done("coarse", structured_scan(), severity=-0.1)

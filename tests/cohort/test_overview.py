"""Overviews: where one fits another, and how scans are seen to be turned or cut."""

from __future__ import annotations

import numpy as np
import pytest

from cohort.anatomy import anatomy, scan
from mendscan.cohort.overview import ORIENTATIONS, Overview, Picture, overview
from mendscan.cohort.template import SIDES, Template


def box(values_XYZ: np.ndarray) -> Overview:
    everywhere = np.ones(values_XYZ.shape, bool)
    return Overview(values_XYZ.astype(np.float32), everywhere, everywhere)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_the_48_orientations_are_all_different_and_the_first_is_as_read() -> None:
    picture = box(np.random.default_rng(0).normal(size=(3, 3, 3)))
    turned = {picture.turned(each).values_XYZ.tobytes() for each in ORIENTATIONS}
    assert len(turned) == 48
    np.testing.assert_array_equal(picture.turned(ORIENTATIONS[0]).values_XYZ, picture.values_XYZ)


def test_the_best_match_is_that_of_trying_every_shift() -> None:
    generator = np.random.default_rng(1)
    fixed, moved = generator.normal(size=(6, 5, 4)), generator.normal(size=(4, 5, 3))
    found = {}
    for shift in np.ndindex(9, 9, 6):
        a, b, c = (at - n + 1 for at, n in zip(shift, moved.shape, strict=True))
        to = tuple(slice(max(0, s), min(n, s + m)) for s, n, m in zip((a, b, c), fixed.shape, moved.shape, strict=True))
        of = tuple(slice(t.start - s, t.stop - s) for t, s in zip(to, (a, b, c), strict=True))
        if fixed[to].size >= moved.size / 2:
            found[a, b, c] = correlation(fixed[to], moved[of])
    match = Picture(fixed, np.ones(fixed.shape, bool)).best_match(box(moved))
    assert match.shift == max(found, key=lambda at: found[at])
    assert match.agreement == pytest.approx(max(found.values()), abs=1e-5)
    assert match.lowest == pytest.approx(min(found.values()), abs=1e-5)


def test_what_overviews_of_one_shape_share_changes_no_match() -> None:
    """Whole ones and one with a hole, in turn, on one picture and on a new one each."""
    generator = np.random.default_rng(5)
    covered = generator.random((6, 6, 5)) > 0.2
    values = generator.normal(size=covered.shape)
    shared = Picture(values, covered)
    holed = np.ones((4, 4, 4), bool)
    holed[0, 1:3] = False
    for own_XYZ in (holed | True, holed, holed | True, holed):
        moving = Overview(generator.normal(size=own_XYZ.shape).astype(np.float32), own_XYZ, own_XYZ)
        assert shared.best_match(moving) == Picture(values, covered).best_match(moving)


def test_cells_that_are_not_covered_say_nothing() -> None:
    fixed = np.random.default_rng(2).normal(size=(6, 6, 6))
    covered = np.ones(fixed.shape, bool)
    covered[:2] = False
    garbage = np.where(covered, fixed, 100.0)
    match = Picture(garbage, covered).best_match(box(fixed[1:5, 1:, 2:]))
    assert match.shift == (1, 1, 2)
    assert match.agreement == pytest.approx(1.0, abs=1e-6)


def test_an_overview_is_the_same_for_any_voxel_size() -> None:
    fine = scan(0, spacing_mm=1.0)
    coarse = scan(0, spacing_mm=2.0)
    one, other = (overview(each, cell_mm=6.0).values_XYZ for each in (fine, coarse))
    assert one.shape == other.shape
    assert correlation(one, other) > 0.98


def test_a_cell_is_the_mean_of_its_voxels() -> None:
    volume = scan(0, spacing_mm=1.0)
    picture = overview(volume, cell_mm=10.0)
    middle = tuple(n // 2 for n in picture.values_XYZ.shape)
    at = tuple(slice(round((m + 0.5) * volume.shape[a] / n) - 5, round((m + 0.5) * volume.shape[a] / n) + 5)
               for a, (m, n) in enumerate(zip(middle, picture.values_XYZ.shape, strict=True)))  # fmt: skip
    assert picture.values_XYZ[middle] == pytest.approx(float(volume.voxels_XYZ[at].mean()), rel=0.1)


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.learn([overview(scan(seed), cell_mm=6.0) for seed in range(6)])[0]


@pytest.mark.parametrize("way", range(0, 48, 5))
def test_turning_back_gains_what_turning_cost(template: Template, way: int) -> None:
    """A scan stored in any of the 48 ways fits best in the one that undoes it."""
    axes, signs = ORIENTATIONS[way]
    turned = overview(scan(9), cell_mm=6.0).turned((axes, signs))
    gain = template.fit(turned).gain
    back = np.argsort(axes)
    undone = (tuple(int(a) for a in back), tuple(signs[a] for a in back))
    assert ORIENTATIONS[int(np.argmax(gain))] == undone


def test_each_scan_is_held_against_the_others() -> None:
    """The same scan among others and among copies of itself: its own part in the mean does not count."""
    pictures = [overview(scan(seed), cell_mm=6.0) for seed in range(5)]
    _, fits = Template.learn(pictures)
    others, _ = Template.learn(pictures[1:])
    assert fits[0].agreement == pytest.approx(others.fit(pictures[0]).agreement, abs=0.15)
    assert fits[0].agreement < template_of(pictures).fit(pictures[0]).agreement


def template_of(pictures: list[Overview]) -> Template:
    return Template.learn(pictures)[0]


@pytest.mark.parametrize("side", range(6))
def test_what_is_cut_off_is_missing_at_its_side(template: Template, side: int) -> None:
    axis, end = divmod(side, 2)
    voxels_XYZ = anatomy(9)
    third = voxels_XYZ.shape[axis] // 3
    kept = [slice(None)] * 3
    kept[axis] = slice(None, -third) if end else slice(third, None)
    fit = template.fit(overview(scan(9, voxels_XYZ=voxels_XYZ[tuple(kept)]), cell_mm=6.0))
    assert SIDES[int(np.argmax(fit.missing))] == SIDES[side]
    assert 0.1 < fit.missing[side] < 0.5
    assert np.delete(fit.missing, side).max() < 0.08


def test_exchanging_bright_and_dark_shows(template: Template) -> None:
    voxels_XYZ = anatomy(9)
    fit = template.fit(overview(scan(9, voxels_XYZ=voxels_XYZ.max() - voxels_XYZ), cell_mm=6.0))
    assert fit.inverted > 1.0 > fit.agreement


def test_an_overview_without_contrast_fits_nowhere(template: Template) -> None:
    """Such as that of a mask of a few voxels, which is clipped at its 1st and 99th percentile."""
    flat = box(np.zeros((5, 6, 7)))
    match = template.picture.best_match(flat)
    assert (match.agreement, match.lowest) == (0, 0)
    fit = template.fit(flat)
    assert fit.agreement == 0
    np.testing.assert_array_equal(fit.gain, 0)

import numpy as np
import pytest
from scipy.stats import norm

from baselines.conftest import blob_SHW, prepared_array
from mendscan.baselines.intensity import IntensityBaseline, fit_intensity

HEALTHY = np.random.default_rng(0).normal(size=200_000).astype(np.float32)


def test_it_is_the_two_sided_tail_of_the_healthy_distribution():
    table = IntensityBaseline.fit(HEALTHY)
    x = np.array([-2.5, -1.0, -0.2, 0.0, 0.5, 1.5, 2.5])
    expected = -np.log(2 * norm.sf(np.abs(x)))
    np.testing.assert_allclose(table.rarity(x), expected, atol=0.1)


def test_rarer_is_higher_on_both_sides_and_beyond_all_healthy_values():
    table = IntensityBaseline.fit(HEALTHY)
    away = np.linspace(0.05, 8, 100)
    for side in (away, -away):
        assert (np.diff(table.rarity(side)) > 0).all()


def test_both_sides_follow_their_own_tail():
    table = IntensityBaseline.fit(np.random.default_rng(0).exponential(size=100_000))
    assert table.rarity(np.array([-0.5]))[0] > table.rarity(np.array([np.log(2)]))[0]
    assert table.rarity(np.array([3.0]))[0] == pytest.approx(3.0 - np.log(2), abs=0.1)  # P(v ≥ 3) = e⁻³


def test_a_value_that_most_voxels_share_is_usual_and_all_else_rare():
    shared = np.concatenate([np.zeros(900), np.linspace(1, 2, 100)])
    at_shared, below, above = IntensityBaseline.fit(shared).rarity(np.array([0.0, -1.0, 1.9]))
    assert at_shared == 0
    assert below > 0.4
    assert above > 3


def test_values_that_do_not_differ_are_an_error():
    for same in (np.zeros(5), np.zeros(0)):
        with pytest.raises(ValueError, match="are the same"):
            IntensityBaseline.fit(same)


def test_it_knows_no_position():
    scan_SHW = np.random.default_rng(1).normal(size=(3, 5, 7)).astype(np.float32)
    table = IntensityBaseline.fit(HEALTHY)
    np.testing.assert_array_equal(
        table.residual(prepared_array(scan_SHW[::-1, ::-1])), table.residual(prepared_array(scan_SHW))[::-1, ::-1]
    )


def test_it_learns_from_the_foreground_of_the_training_scans(cohort):
    rows = cohort.store.rows(cohort.split.train)
    assert 0.2 < cohort.foreground_NSHW[rows].mean() < 0.9
    inside = np.concatenate([cohort.store.slices_NSHW[row][cohort.foreground_NSHW[row]] for row in rows])
    expected, found = IntensityBaseline.fit(inside), fit_intensity(cohort)
    np.testing.assert_array_equal(found.values_n, expected.values_n)
    background = np.median(cohort.store.slices_NSHW[rows][~cohort.foreground_NSHW[rows]].astype(float))
    assert found.rarity(np.array([background]))[0] > 2


def test_a_bright_and_a_dark_blob_stand_out(cohort, new_scan):
    bright_SHW = fit_intensity(cohort).residual(new_scan(blob=3.0))
    assert bright_SHW[blob_SHW()].mean() > 3 * fit_intensity(cohort).residual(new_scan())[blob_SHW()].mean()
    dark_SHW = fit_intensity(cohort).residual(new_scan(blob=-5.0))
    assert dark_SHW[blob_SHW()].mean() > 3 * fit_intensity(cohort).residual(new_scan())[blob_SHW()].mean()

import math

import numpy as np
import pytest
from scipy import stats

from mendscan.evaluation.bootstrap import intervals, jackknife_weights, paired_difference, resampled_weights


def names(n):
    return [f"{i:04}" for i in range(n)]


def mean_of(values):
    return lambda weights: {"mean": (weights * values).sum(axis=1) / weights.sum(axis=1)}


def ratio_of(above, below):
    return lambda weights: {"ratio": (weights * above).sum(axis=1) / (weights * below).sum(axis=1)}


def skewed(n, seed):
    return np.random.default_rng(seed).gamma(1.0, size=n)


# --- weights ---------------------------------------------------------------------------------------------------------


def test_each_resample_draws_as_many_subjects_as_there_are():
    weights = resampled_weights(names(30), resamples=500, seed=0)
    assert weights.shape == (500, 30)
    assert (weights == np.round(weights)).all()
    assert (weights >= 0).all()
    assert (weights.sum(axis=1) == 30).all()


def test_draws_are_multinomial():
    weights = resampled_weights(names(5), resamples=40_000, seed=1)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(np.cov(weights.T), np.eye(5) - 1 / 5, atol=0.03)


def test_cases_of_one_subject_are_drawn_together():
    subjects = ["b", "a", "b", "c", "b", "a"]
    weights = resampled_weights(subjects, resamples=300, seed=2)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 4])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 5])
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_draws_depend_on_seed_and_subjects_not_on_their_order():
    subjects = ["d", "a", "c", "b", "a"]
    order = [4, 2, 0, 1, 3]
    weights = resampled_weights(subjects, resamples=50, seed=3)
    np.testing.assert_array_equal(weights, resampled_weights(subjects, resamples=50, seed=3))
    reordered = resampled_weights([subjects[i] for i in order], resamples=50, seed=3)
    np.testing.assert_array_equal(weights[:, order], reordered)
    assert (weights != resampled_weights(subjects, resamples=50, seed=4)).any()


def test_jackknife_leaves_out_one_subject_per_row():
    weights = jackknife_weights(["b", "a", "b", "c"])
    np.testing.assert_array_equal(weights, [[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]])


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="no case"):
        resampled_weights([], resamples=5, seed=0)
    with pytest.raises(ValueError, match="resamples=0"):
        resampled_weights(["a"], resamples=0, seed=0)
    with pytest.raises(ValueError, match=r"level=95\.0"):
        intervals(mean_of(np.ones(3)), names(3), level=95.0)
    with pytest.raises(ValueError, match="rows_at_once=0"):
        intervals(mean_of(np.ones(3)), names(3), rows_at_once=0)
    with pytest.raises(ValueError, match="one value per row"):
        intervals(lambda weights: {"mean": weights.mean()}, names(3))


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 40, 41])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bca_equals_scipy_on_the_same_resamples(n, level):
    values = skewed(n, seed=n)
    found = intervals(mean_of(values), names(n), resamples=999, level=level, seed=7)["mean"]
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=999, confidence_level=level, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    assert found.method == "bca"
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-9)
    assert found.estimate == pytest.approx(values.mean())


def test_bca_equals_scipy_where_resamples_tie_with_the_estimate():
    values = np.array([0.0] * 14 + [1.0] * 6)
    found = intervals(mean_of(values), names(20), resamples=999, seed=3)["mean"]
    assert np.mean(resampled_weights(names(20), resamples=999, seed=3) @ values == 6) > 0.1
    expected = stats.bootstrap((values,), np.mean, n_resamples=999, method="BCa", rng=np.random.default_rng(3))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)


@pytest.mark.parametrize("n", [12, 60])
def test_bca_equals_scipy_within_monte_carlo_error(n):
    values = skewed(n, seed=n)
    found = intervals(mean_of(values), names(n), resamples=20_000, seed=1)["mean"]
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    tolerance = 0.05 * (expected.high - expected.low)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=tolerance)
    percentile = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=3).confidence_interval
    assert abs(percentile.high - expected.high) > tolerance  # the two differ by more than that


def test_few_subjects_get_the_percentile_interval():
    values = skewed(9, seed=0)
    found = intervals(mean_of(values), names(9), resamples=999, seed=5)["mean"]
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=999, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.method == "percentile"
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-9)


def test_percentile_where_bca_has_no_answer():
    constant = intervals(mean_of(np.full(20, 0.1)), names(20))["mean"]
    assert constant.method == "percentile"
    assert (constant.low, constant.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("values", [skewed(20, seed=0), 9 - skewed(20, seed=0)], ids=["right", "left"])
def test_percentile_where_all_resamples_lie_on_one_side(sign, values):
    """A sum over the distinct cases: no resample has as many of them as there are."""
    values = sign * values
    found = intervals(lambda weights: {"sum": (weights > 0) @ values}, names(20), resamples=500)["sum"]
    resampled = (resampled_weights(names(20), resamples=500, seed=0) > 0) @ values
    assert (sign * resampled < sign * values.sum()).all()
    assert found.method == "percentile"
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))


def test_coverage_over_cases_and_not_over_voxels():
    """Twenty voxels per case that share their case's error: only an interval over cases holds what it promises."""
    generator = np.random.default_rng(0)
    n_cases, n_voxels, rounds = 40, 20, 150
    over_cases = over_voxels = 0
    for seed in range(rounds):
        values = 1 + generator.normal(size=(n_cases, 1)) + 0.3 * generator.normal(size=(n_cases, n_voxels))
        sizes = generator.integers(1, 4, n_cases).astype(float)
        figure = ratio_of((values.mean(axis=1)) * sizes, sizes)
        found = intervals(figure, names(n_cases), resamples=400, seed=seed)["ratio"]
        over_cases += found.low <= 1 <= found.high
        if seed < 50:
            pooled = np.repeat(sizes, n_voxels)
            figure = ratio_of(values.ravel() * pooled, pooled)
            found = intervals(figure, names(n_cases * n_voxels), resamples=150, seed=seed)["ratio"]
            over_voxels += found.low <= 1 <= found.high
    assert 0.88 <= over_cases / rounds <= 0.99
    assert over_voxels / 50 < 0.6


def test_cases_of_one_subject_count_as_one():
    """Every case five times over: the interval stays as it is if, and only if, copies belong to one subject."""
    values = skewed(20, seed=3)
    once = intervals(mean_of(values), names(20))["mean"]
    copies = intervals(mean_of(np.tile(values, 5)), names(20) * 5)["mean"]
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))
    apart = intervals(mean_of(np.tile(values, 5)), names(100))["mean"]
    assert apart.high - apart.low < 0.6 * (once.high - once.low)


def test_several_figures_from_one_call():
    first, second = skewed(15, seed=0), skewed(15, seed=1)
    calls = []

    def both(weights):
        calls.append(len(weights))
        return mean_of(first)(weights) | {"ratio": ratio_of(first, second)(weights)["ratio"]}

    found = intervals(both, names(15), resamples=100)
    assert sum(calls) == 1 + 100 + 15
    assert found["mean"] == intervals(mean_of(first), names(15), resamples=100)["mean"]
    assert found["ratio"] == intervals(ratio_of(first, second), names(15), resamples=100)["ratio"]


def test_chunks_decide_memory_only():
    figure = mean_of(skewed(15, seed=0))
    most = []

    def watched(weights):
        most.append(len(weights))
        return figure(weights)

    whole = intervals(figure, names(15), resamples=200, rows_at_once=1000)
    assert intervals(watched, names(15), resamples=200, rows_at_once=7) == whole
    assert max(most) == 7
    assert intervals(figure, names(15), resamples=200, seed=1) != whole


def undefined_without(case, values):
    def figure(weights):
        mean = mean_of(values)(weights)["mean"]
        return {"mean": np.where(weights[:, case] > 0, mean, np.nan)}

    return figure


def test_undefined_resamples_are_left_out_and_reported():
    values = skewed(20, seed=0)
    found = intervals(undefined_without(3, values), names(20), resamples=4000, seed=0)["mean"]
    weights = resampled_weights(names(20), resamples=4000, seed=0)
    kept = weights[weights[:, 3] > 0] @ values / 20
    assert found.undefined_share == pytest.approx(np.mean(weights[:, 3] == 0))
    assert found.undefined_share == pytest.approx((1 - 1 / 20) ** 20, abs=0.03)
    # Without subject 3 the figure is undefined, and with it the acceleration.
    assert found.method == "percentile"
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(kept, [0.025, 0.975])))


def test_no_interval_if_mostly_undefined():
    values = skewed(20, seed=0)

    def figure(weights):
        defined = (weights[:, 0] > 0) & (weights[:, 1] > 0)
        return {"mean": np.where(defined, mean_of(values)(weights)["mean"], np.nan)}

    found = intervals(figure, names(20))["mean"]
    assert found.undefined_share > 0.5
    assert found.method == "none"
    assert found.estimate == pytest.approx(values.mean())
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_interval_of_one_subject_or_of_an_undefined_figure():
    one = intervals(mean_of(np.array([0.2, 0.4])), ["a", "a"])["mean"]
    assert one.estimate == pytest.approx(0.3)
    assert math.isnan(one.low)
    never = intervals(lambda weights: {"x": np.full(len(weights), np.nan)}, names(20))["x"]
    assert math.isnan(never.estimate)
    assert math.isnan(never.high)
    assert never.undefined_share == 1


# --- pairs -----------------------------------------------------------------------------------------------------------


def hard_and_easy(n=40, gap=0.05):
    generator = np.random.default_rng(5)
    difficulty = generator.random(n)
    return difficulty + gap + 0.03 * generator.normal(size=n), difficulty


def test_pairing_narrows_the_interval_on_correlated_data():
    ours, theirs = hard_and_easy()
    paired = paired_difference(mean_of(ours), mean_of(theirs), names(40))["mean"]
    first, second = (intervals(mean_of(values), names(40))["mean"] for values in (ours, theirs))
    unpaired = math.hypot(first.high - first.low, second.high - second.low)
    assert paired.high - paired.low < 0.2 * unpaired
    assert paired.low > 0
    assert paired.estimate == pytest.approx(np.mean(ours - theirs))
    assert paired.method == "bca"


def test_paired_difference_is_the_interval_of_the_differences():
    ours, theirs = hard_and_easy()
    paired = paired_difference(mean_of(ours), mean_of(theirs), names(40), seed=2)["mean"]
    direct = intervals(mean_of(ours - theirs), names(40), seed=2)["mean"]
    assert (paired.low, paired.high) == pytest.approx((direct.low, direct.high))
    swapped = paired_difference(mean_of(theirs), mean_of(ours), names(40), seed=2)["mean"]
    assert swapped.estimate == pytest.approx(-paired.estimate)
    assert swapped.p_value == paired.p_value


def test_p_value_counts_resamples_on_the_other_side():
    ours, theirs = hard_and_easy(n=15, gap=0.008)
    found = paired_difference(mean_of(ours), mean_of(theirs), names(15), resamples=500, seed=4)["mean"]
    differences = resampled_weights(names(15), resamples=500, seed=4) @ (ours - theirs)
    smaller = min((differences <= 0).sum(), (differences >= 0).sum())
    assert smaller > 0
    assert found.p_value == pytest.approx(2 * (1 + smaller) / 501)
    clear = paired_difference(mean_of(theirs + 9), mean_of(theirs), names(15), resamples=500)["mean"]
    assert clear.p_value == pytest.approx(2 / 501)


def test_equal_methods_do_not_differ_even_if_rounded_otherwise():
    values = skewed(20, seed=0)
    same = paired_difference(mean_of(values), mean_of(values), names(20))["mean"]
    assert (same.estimate, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    rounded = paired_difference(mean_of(values * (1 + 4e-16)), mean_of(values), names(20))["mean"]
    assert rounded.p_value == 1


def test_p_values_are_about_uniform_without_a_difference():
    generator = np.random.default_rng(1)
    small = 0
    for seed in range(200):
        ours, theirs = generator.normal(size=(2, 40))
        small += (
            paired_difference(mean_of(ours), mean_of(theirs), names(40), resamples=300, seed=seed)["mean"].p_value
            <= 0.1
        )
    assert 8 <= small <= 40  # 20 expected


def test_undefined_in_either_is_left_out_of_the_pair():
    ours, theirs = hard_and_easy(n=20)
    found = paired_difference(undefined_without(0, ours), undefined_without(1, theirs), names(20), seed=0)["mean"]
    weights = resampled_weights(names(20), resamples=2000, seed=0)
    assert found.undefined_share == pytest.approx(np.mean((weights[:, 0] == 0) | (weights[:, 1] == 0)))
    assert found.method == "none"
    assert math.isnan(found.p_value)


def test_unlike_figures_are_refused():
    with pytest.raises(ValueError, match="expected the same"):
        paired_difference(mean_of(np.ones(3)), ratio_of(np.ones(3), np.ones(3)), names(3))

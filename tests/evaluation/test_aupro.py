import numpy as np
import pytest

from mendscan.evaluation.aupro import LIMIT, STRICT_LIMIT, PooledRegions, aupro
from mendscan.evaluation.histograms import ScoreHistogram
from mendscan.evaluation.sparse import N_VALUES, SparseCounts

LIMITS = (0.01, STRICT_LIMIT, LIMIT, 1.0)


def random_case(seed, n_lesions, decimals=None, size=400):
    """Scores and lesion numbers of one scan, as flat arrays."""
    generator = np.random.default_rng(seed)
    numbers = np.where(generator.random(size) < 0.2, generator.integers(1, n_lesions + 1, size) if n_lesions else 0, 0)
    numbers[:n_lesions] = np.arange(1, n_lesions + 1)
    scores = np.clip(generator.random(size) ** 2 + 0.2 * (numbers > 0), 0, 1)
    return (scores if decimals is None else np.round(scores, decimals)).astype(np.float32), numbers


def counted(cases):
    healthy = [SparseCounts.of(scores[numbers == 0]) for scores, numbers in cases]
    lesions = [
        [SparseCounts.of(scores[numbers == n]) for n in np.unique(numbers[numbers > 0])] for scores, numbers in cases
    ]
    return healthy, lesions


def naive_curve(cases):
    """Every distinct float16 score of all cases as a threshold, each lesion and each voxel looked at."""
    rounded = [(scores.astype(np.float16).astype(float), numbers) for scores, numbers in cases]
    healthy = np.concatenate([scores[numbers == 0] for scores, numbers in rounded])
    lesions = [scores[numbers == n] for scores, numbers in rounded for n in np.unique(numbers[numbers > 0])]
    thresholds = np.unique(np.concatenate([healthy, *lesions]))[::-1]
    rates = [0.0] + [np.mean(healthy >= t) for t in thresholds]
    overlaps = [0.0] + [np.mean([np.mean(lesion >= t) for lesion in lesions]) for t in thresholds]
    return np.array(rates), np.array(overlaps)


def naive_aupro(cases, limit):
    rates, overlaps = naive_curve(cases)
    last = np.flatnonzero(rates <= limit)[-1]
    rates_inside, overlaps_inside = rates[: last + 1], overlaps[: last + 1]
    if rates[last] < limit:
        share = (limit - rates[last]) / (rates[last + 1] - rates[last])
        rates_inside = np.append(rates_inside, limit)
        overlaps_inside = np.append(overlaps_inside, overlaps[last] + share * (overlaps[last + 1] - overlaps[last]))
    return np.trapezoid(overlaps_inside, rates_inside) / limit


CASES = [random_case(0, 2), random_case(1, 0), random_case(2, 5), random_case(3, 1)]
TIED = [random_case(seed, n, decimals=1) for seed, n in ((4, 3), (5, 0), (6, 1), (7, 2))]


@pytest.mark.parametrize("cases", [CASES, TIED, CASES[:1], TIED[2:]], ids=["all", "tied", "one", "tied two"])
@pytest.mark.parametrize("limit", LIMITS)
def test_equals_a_sweep_over_all_thresholds(cases, limit):
    value = aupro(*counted(cases), np.ones((1, len(cases))), limit=limit)
    assert value[0] == pytest.approx(naive_aupro(cases, limit), rel=1e-12)


@pytest.mark.parametrize("cases", [CASES, TIED], ids=["all", "tied"])
def test_the_curve_is_the_sweep(cases):
    regions = PooledRegions.of(*counted(cases))
    rate_BT, overlap_BT = regions.curve(np.ones((1, 4)))
    rates, overlaps = naive_curve(cases)
    np.testing.assert_allclose(rate_BT[0], rates, rtol=1e-12)
    np.testing.assert_allclose(overlap_BT[0], overlaps, rtol=1e-12)
    assert (np.diff(regions.scores) < 0).all()
    assert regions.scores.size == rates.size - 1


@pytest.mark.parametrize("cases", [CASES, TIED], ids=["all", "tied"])
def test_weights_repeat_cases(cases):
    times_BN = np.array([[1, 1, 1, 1], [2, 0, 1, 3], [0, 4, 0, 1], [1, 0, 0, 0]])
    values_BL = PooledRegions.of(*counted(cases)).aupro(times_BN.astype(float), limits=LIMITS)
    for row, times in zip(values_BL, times_BN, strict=True):
        repeated = [case for case, n in zip(cases, times, strict=True) for _ in range(n)]
        assert row == pytest.approx([naive_aupro(repeated, limit) for limit in LIMITS], rel=1e-10)


def test_every_lesion_counts_as_much_whatever_its_size():
    healthy = SparseCounts.of(np.linspace(0.1, 0.5, 50))
    large, small = SparseCounts.of(np.full(1000, 0.9)), SparseCounts.of(np.zeros(1))
    assert aupro([healthy], [[large, small]], np.ones((1, 1))) == pytest.approx(0.5)
    assert aupro(
        [healthy],
        [
            [large],
        ],
        np.ones((1, 1)),
    ) == pytest.approx(1)
    assert aupro([healthy], [[small]], np.ones((1, 1))) == pytest.approx(0)


@pytest.mark.parametrize("limit", LIMITS)
def test_one_value_everywhere_is_chance(limit):
    case = SparseCounts.of(np.full(20, 0.3))
    assert aupro([case], [[case, case]], np.ones((1, 1)), limit=limit) == pytest.approx(limit / 2)


def test_undefined_without_lesions_or_healthy_voxels():
    healthy, lesions = counted(CASES)
    weights_BN = np.array([[0.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    values = PooledRegions.of(healthy, lesions).aupro(weights_BN)
    assert np.isnan(values[:2]).all()
    assert np.isfinite(values[2]).all()
    covered = aupro([SparseCounts.empty()], [lesions[0]], np.ones((1, 1)))  # a lesion that covers everything
    assert np.isnan(covered).all()
    assert np.isnan(aupro([SparseCounts.empty()], [[]], np.ones((1, 1)))).all()


def test_rows_do_not_touch_one_another():
    regions = PooledRegions.of(*counted(CASES))
    weights_BN = np.random.default_rng(0).integers(0, 3, (20, 4)).astype(float)
    weights_BN[3] = [0, 2, 0, 0]
    together = regions.aupro(weights_BN)
    apart = np.concatenate([regions.aupro(row[None]) for row in weights_BN])
    np.testing.assert_allclose(together, apart, rtol=1e-12)


def test_bad_requests_are_refused():
    healthy, lesions = counted(CASES)
    with pytest.raises(ValueError, match="3 with lesions"):
        PooledRegions.of(healthy, lesions[1:])
    with pytest.raises(ValueError, match="without voxels"):
        PooledRegions.of(healthy[:1], [[SparseCounts.empty()]])
    for limit in (0.0, 1.1):
        with pytest.raises(ValueError, match="expected false-positive rates"):
            aupro(healthy, lesions, np.ones((1, 4)), limit=limit)


# --- counts ----------------------------------------------------------------------------------------------------------


def assert_same(first, second):
    assert first.patterns.tolist() == second.patterns.tolist()
    assert first.counts.tolist() == second.counts.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_the_rounded_values(seed):
    generator = np.random.default_rng(seed)
    values = np.round(generator.normal(0.3, 0.6, (7, 30, 11)), 1 + seed).astype(np.float32)
    values[0, 0, :4] = -0.0, np.inf, -np.inf, 3e-8
    counts = SparseCounts.of(values)
    expected, times = np.unique(np.clip(values, 0, 1).astype(np.float16) + np.float16(0), return_counts=True)
    assert counts.values.tolist() == expected.tolist()
    assert counts.counts.tolist() == times.tolist()
    assert counts.n_voxels == values.size
    for other in (np.asfortranarray(values), values[:, ::-1], values.astype(np.float64)):
        assert_same(SparseCounts.of(other), counts)
    dense = ScoreHistogram.of(values, np.zeros(values.shape, bool)).negatives
    np.testing.assert_array_equal(counts.dense(), dense)
    assert_same(SparseCounts.of_dense(dense), counts)


def test_counts_of_parts_add_up():
    values = np.random.default_rng(0).random(300_000).astype(np.float32)
    whole = SparseCounts.of(values)
    assert_same(SparseCounts.of(values[:1000]) + SparseCounts.of(values[1000:]), whole)
    assert_same(whole + SparseCounts.empty(), whole)
    assert_same(whole.times(3), whole + whole + whole)
    assert_same(whole.times(0), SparseCounts.empty())


def test_counts_of_no_voxel_of_integers_and_of_nan():
    assert_same(SparseCounts.of(np.zeros(0)), SparseCounts.empty())
    assert SparseCounts.empty().dense().tolist() == [0] * N_VALUES
    assert_same(SparseCounts.of(np.array([0, 1, 5, -2])), SparseCounts.of(np.array([0.0, 1, 1, 0])))
    with pytest.raises(ValueError, match="NaN"):
        SparseCounts.of(np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="-1 repetitions"):
        SparseCounts.empty().times(-1)

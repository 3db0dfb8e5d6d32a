import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from mendscan.errors import ResultsError
from mendscan.evaluation.histograms import ScoreHistogram

SMALLEST = 2.0**-24


def rounded(values):
    return np.clip(values, 0, 1).astype(np.float16) + np.float16(0)


def brute_force_dice(values, labels, threshold):
    predicted = rounded(values).astype(float) > threshold
    truth = labels > 0
    return 2 * np.sum(predicted & truth) / (predicted.sum() + truth.sum())


def assert_equals_scikit_learn(values, labels):
    histogram = ScoreHistogram.of(values, labels)
    assert histogram.average_precision == average_precision_score(labels, rounded(values))
    assert histogram.auroc == pytest.approx(roc_auc_score(labels, rounded(values)), abs=1e-12)


def random_case(n, seed, prevalence=0.1):
    generator = np.random.default_rng(seed)
    labels = generator.random(n) < prevalence
    labels[:2] = True, False
    values = (generator.random(n) ** 3 + 0.2 * labels).astype(np.float32)
    return values, labels


CASES = {
    "continuous": random_case(20_000, 0)[0],
    "ties": np.round(random_case(20_000, 1)[0], 1),
    "mostly zeros": np.where(random_case(20_000, 2)[0] < 0.5, 0, random_case(20_000, 2)[0]),
    "all zero": np.zeros(20_000, np.float32),
    "all equal": np.full(20_000, 0.3, np.float32),
    "all above one": np.full(20_000, 7, np.float32),
    "tiny": random_case(20_000, 3)[0] * np.float32(300 * SMALLEST),
    "below half the smallest": random_case(20_000, 3)[0] * np.float32(SMALLEST / 2),
    "outside the interval": random_case(20_000, 4)[0] * 3 - 1,
    "infinite": np.where(random_case(20_000, 5)[0] > 0.9, np.inf, -np.inf).astype(np.float32),
    "float16": random_case(20_000, 6)[0].astype(np.float16),
    "float64": np.random.default_rng(7).random(20_000),
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("prevalence", [0.0, 0.01, 0.5, 1.0])
def test_equals_scikit_learn_to_the_last_bit(values, prevalence):
    assert_equals_scikit_learn(values, random_case(20_000, 8, prevalence)[1])


@pytest.mark.parametrize("seed", range(40))
def test_equals_scikit_learn_on_random_scores(seed):
    generator = np.random.default_rng(seed)
    n = int(generator.integers(2, 60_000))
    assert_equals_scikit_learn(*random_case(n, seed, prevalence=float(generator.random())))


@st.composite
def scores_and_labels(draw):
    n = draw(st.integers(2, 60))
    numbers = st.one_of(
        st.sampled_from([0.0, -0.0, SMALLEST, 2 * SMALLEST, SMALLEST / 2, 1 - 2.0**-11, 1 - 2.0**-12, 1.0, 1.5, -1.0]),
        st.floats(-0.5, 1.5, width=32),
        st.floats(0, 2.0**-16, width=32),
    )
    values = draw(hnp.arrays(np.float32, n, elements=numbers))
    labels = draw(hnp.arrays(np.bool_, n))
    labels[0], labels[-1] = True, False
    return values, labels


@given(scores_and_labels())
@settings(max_examples=300, deadline=None)
def test_equals_scikit_learn_on_adverse_scores(case):
    assert_equals_scikit_learn(*case)


@given(scores_and_labels(), st.floats(-0.1, 1.1))
@settings(max_examples=200, deadline=None)
def test_dice_equals_brute_force(case, threshold):
    values, labels = case
    histogram = ScoreHistogram.of(values, labels)
    assert histogram.dice_at(threshold) == brute_force_dice(values, labels, threshold)

    thresholds = [-1.0, *np.unique(rounded(values)).astype(float)]
    best, best_threshold = histogram.best_dice
    assert best == max(brute_force_dice(values, labels, each) for each in thresholds)
    assert histogram.dice_at(best_threshold) == best == brute_force_dice(values, labels, best_threshold)


def test_threshold_is_strict_and_best_dice_prefers_the_highest():
    histogram = ScoreHistogram.of(np.array([0.25, 0.5]), np.array([1, 1]))
    assert histogram.dice_at(0.25) == 2 / 3
    assert histogram.dice_at(np.nextafter(0.25, 0)) == 1
    # Predicting {1.0} and predicting everything both give 2/3.
    dice, threshold = ScoreHistogram.of(np.array([1.0, 0.5, 0.25, 0.0]), np.array([1, 0, 0, 1])).best_dice
    assert dice == 2 / 3
    assert threshold > 0.99


def test_best_dice_may_predict_everything():
    histogram = ScoreHistogram.of(np.array([0.0, 0.5]), np.array([1, 1]))
    dice, threshold = histogram.best_dice
    assert dice == histogram.dice_at(threshold) == 1
    assert -1e-6 < threshold < 0


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_merging_equals_pooling(parts):
    values, labels = random_case(5_000, 9)
    pieces = zip(np.array_split(values, parts), np.array_split(labels, parts), strict=True)
    merged = sum((ScoreHistogram.of(*piece) for piece in pieces), start=ScoreHistogram.empty())
    pooled = ScoreHistogram.of(values, labels)
    np.testing.assert_array_equal(merged.negatives, pooled.negatives)
    np.testing.assert_array_equal(merged.positives, pooled.positives)
    assert merged.average_precision == pooled.average_precision


def test_merging_leaves_its_parts_alone():
    first = ScoreHistogram.of(*random_case(100, 10))
    before = first.negatives.copy()
    _ = first + first
    np.testing.assert_array_equal(first.negatives, before)
    with pytest.raises(ValueError, match="read-only"):
        first.negatives[0] = 1
    with pytest.raises(TypeError):
        _ = first + 1


@pytest.mark.parametrize("label", [0, 1])
def test_figures_of_one_class_are_none_and_silent(label):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        histogram = ScoreHistogram.of(np.array([0.1, 0.9]), np.array([label, label]))
        assert histogram.average_precision is None
        assert histogram.auroc is None
        assert histogram.prevalence == label
        assert histogram.best_dice == ((1.0, pytest.approx(0.1, abs=1e-3)) if label else (None, None))
        assert histogram.dice_at(0.5) == (2 / 3 if label else None)


def test_nothing_counted():
    histogram = ScoreHistogram.of(np.zeros((0, 3), np.float32), np.zeros((0, 3), bool))
    assert histogram.n_voxels == 0
    assert histogram.prevalence is histogram.average_precision is histogram.auroc is histogram.dice_at(0.5) is None
    assert histogram.best_dice == (None, None)


@pytest.mark.parametrize("values_order", ["C", "F"])
@pytest.mark.parametrize("labels_order", ["C", "F"])
def test_memory_layout_and_chunks_do_not_matter(values_order, labels_order):
    values, labels = random_case(60 * 70 * 80, 11)
    expected = ScoreHistogram.of(values, labels)
    values_XYZ, labels_XYZ = values.reshape(60, 70, 80), labels.reshape(60, 70, 80)
    found = ScoreHistogram.of(np.array(values_XYZ, order=values_order), np.array(labels_XYZ, order=labels_order))
    np.testing.assert_array_equal(found.positives, expected.positives)
    np.testing.assert_array_equal(found.negatives, expected.negatives)
    flipped = ScoreHistogram.of(values_XYZ[::-1, ::2], labels_XYZ[::-1, ::2])
    assert flipped.n_voxels == 60 * 35 * 80
    assert flipped.n_positives == labels_XYZ[:, ::2].sum()


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_labels_above_zero_are_anomalous_in_any_type(dtype):
    histogram = ScoreHistogram.of(np.array([0.1, 0.9]), np.array([0, 1], dtype))
    assert (histogram.n_negatives, histogram.n_positives) == (1, 1)


def test_inputs_are_left_alone():
    values, labels = random_case(1_000, 12)
    values = values * 2 - 0.5
    before = values.copy()
    ScoreHistogram.of(values, labels)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_an_error(dtype, sign):
    values = np.array([0.1, np.copysign(np.nan, sign), 0.3], dtype)
    with pytest.raises(ValueError, match="NaN"):
        ScoreHistogram.of(values, np.array([0, 1, 0]))


def test_other_bad_input_is_an_error():
    with pytest.raises(ValueError, match="shape"):
        ScoreHistogram.of(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="shape"):
        ScoreHistogram.of(np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="NaN"):
        ScoreHistogram.empty().dice_at(float("nan"))


def test_auroc_survives_counts_beyond_int64():
    counts = np.zeros(15361, np.int64)
    counts[[5, 9]] = 4 * 10**9
    assert ScoreHistogram(counts, counts.copy()).auroc == 0.5


def test_saved_parts_add_up_to_the_pooled_voxels(tmp_path):
    values, labels = random_case(5_000, 13)
    for part, voxels in enumerate((slice(0, 1_700), slice(1_700, None))):
        ScoreHistogram.of(values[voxels], labels[voxels]).save(tmp_path / f"{part}.npz")
    merged = ScoreHistogram.load(tmp_path / "0.npz") + ScoreHistogram.load(tmp_path / "1.npz")
    assert merged.average_precision == average_precision_score(labels, rounded(values))
    assert merged.n_voxels == 5_000


def test_what_is_no_histogram_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", scores=np.zeros(3))
    np.savez(tmp_path / "short.npz", negatives=np.zeros(3, np.int64), positives=np.zeros(3, np.int64))
    np.savez(tmp_path / "real.npz", negatives=np.zeros(15361), positives=np.zeros(15361))
    np.savez(tmp_path / "minus.npz", negatives=np.full(15361, -1), positives=np.zeros(15361, np.int64))
    np.savez(tmp_path / "object.npz", negatives=np.array([{}]), positives=np.array([{}]))
    for name in ("missing", "text", "other", "short", "real", "minus", "object"):
        with pytest.raises(ResultsError, match=f"{name}.npz"):
            ScoreHistogram.load(tmp_path / f"{name}.npz")

"""Weighted figures of ranked scores: scikit-learn's, with every item repeated as often as its case counts."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mendscan.evaluation.histograms import ScoreHistogram
from mendscan.evaluation.ranking import Ranking

CASES, VALUES = 4, 9


@pytest.fixture(params=range(4))
def counts(request):
    """Healthy and anomalous counts of some cases over ascending values, many tied, some values empty."""
    generator = np.random.default_rng(request.param)
    healthy, anomalous = (generator.integers(0, 6, (CASES, VALUES)).astype(float) for _ in range(2))
    healthy[:, generator.integers(VALUES)] = 0
    return healthy, anomalous


def items(weights, counts):
    """Scores and labels with every item written out."""
    scores, labels = [], []
    for label, per_case in enumerate(counts):
        for case, row in enumerate(per_case):
            for value, count in enumerate(row):
                repeats = int(weights[case] * count)
                scores += [value] * repeats
                labels += [label] * repeats
    return np.array(scores), np.array(labels)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (0, 3, 1, 0), (2, 0, 0, 2)])
def test_equal_to_scikit_learn_on_repeated_items(counts, weights):
    rows = [np.asarray(weights, float)[None] @ part for part in counts]
    scores, labels = items(weights, counts)
    assert Ranking(*rows).average_precision()[0] == pytest.approx(average_precision_score(labels, scores), rel=1e-12)
    assert Ranking(*rows).auroc()[0] == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)
    false_rates, true_rates, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert Ranking(*rows).fpr_at_tpr(0.95)[0] == pytest.approx(false_rates[np.argmax(true_rates >= 0.95)], rel=1e-12)
    dices = [dice_of(labels, scores >= value) for value in range(VALUES)]
    assert Ranking(*rows).best_dice()[0] == pytest.approx(max(dices), rel=1e-12)
    predicted = np.arange(VALUES) > 3
    assert Ranking(*rows).dice_where(predicted)[0] == pytest.approx(dice_of(labels, scores > 3), rel=1e-12)


def dice_of(labels, predicted):
    return 2 * np.sum(predicted & (labels == 1)) / (predicted.sum() + labels.sum())


def test_many_weightings_are_each_alone(counts):
    weights = np.random.default_rng(1).integers(0, 4, (7, CASES)).astype(float)
    together = Ranking(weights @ counts[0], weights @ counts[1]).average_precision()
    alone = [Ranking(row[None] @ counts[0], row[None] @ counts[1]).average_precision()[0] for row in weights]
    np.testing.assert_array_equal(together, alone)


def test_a_row_of_ones_is_the_exact_histogram_to_the_last_bit():
    generator = np.random.default_rng(0)
    scores, labels = generator.random(20_000).astype(np.float16), generator.random(20_000) < 0.1
    histogram = ScoreHistogram.of(scores, labels)
    occurring = (histogram.negatives + histogram.positives) > 0
    rows = [part[occurring][None].astype(float) for part in (histogram.negatives, histogram.positives)]
    assert Ranking(*rows).average_precision()[0] == histogram.average_precision
    assert Ranking(*rows).auroc()[0] == pytest.approx(histogram.auroc, rel=1e-15)
    assert Ranking(*rows).best_dice()[0] == histogram.best_dice[0]


@pytest.mark.parametrize("figure", [Ranking.average_precision, Ranking.auroc, Ranking.best_dice, Ranking.fpr_at_tpr])
def test_nothing_anomalous_is_undefined(figure):
    assert np.isnan(figure(Ranking(np.ones((1, 3)), np.zeros((1, 3)))))[0]


@pytest.mark.parametrize("figure", [Ranking.average_precision, Ranking.auroc, Ranking.fpr_at_tpr])
def test_nothing_healthy_is_undefined(figure):
    assert np.isnan(figure(Ranking(np.zeros((1, 3)), np.ones((1, 3)))))[0]

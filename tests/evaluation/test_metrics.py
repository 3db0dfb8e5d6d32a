import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mendscan.evaluation.histograms import ScoreHistogram
from mendscan.evaluation.metrics import CaseMetrics, Metrics, sample_auroc, sample_average_precision


def test_sample_figures_equal_scikit_learn_beyond_the_unit_interval():
    generator = np.random.default_rng(0)
    labels = generator.random(50) < 0.4
    scores = generator.normal(size=50) * 1000 + 500 * labels
    assert sample_average_precision(scores, labels) == average_precision_score(labels, scores)
    assert sample_auroc(scores, labels) == roc_auc_score(labels, scores)
    squeezed = 1 / (1 + np.exp(-scores / 1000))
    assert sample_average_precision(scores, labels) == sample_average_precision(squeezed, labels)


@pytest.mark.parametrize("figure", [sample_average_precision, sample_auroc])
def test_sample_figures_of_one_class_are_none(figure):
    assert figure(np.array([1.0, 2.0]), np.array([1, 1])) is None
    assert figure(np.array([1.0, 2.0]), np.array([0, 0])) is None
    assert figure(np.zeros(0), np.zeros(0)) is None


@pytest.mark.parametrize("figure", [sample_average_precision, sample_auroc])
def test_sample_figures_refuse_what_has_no_rank(figure):
    with pytest.raises(ValueError, match="finite"):
        figure(np.array([1.0, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match="shape"):
        figure(np.array([1.0, 2.0]), np.array([0]))
    with pytest.raises(ValueError, match="shape"):
        figure(np.ones((2, 2)), np.ones((2, 2)))


def test_metrics_count_the_cases_of_each_kind():
    cases = [
        CaseMetrics("b", n_voxels=4, voxel_prevalence=0.25, problems=("lost",)),
        CaseMetrics("a", n_voxels=4, voxel_prevalence=0.0, sample_anomalous=False, sample_score=-3.0),
        CaseMetrics("c", sample_anomalous=True, sample_score=40.0),
    ]
    pooled = ScoreHistogram.of(np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 0, 1]))
    metrics = Metrics.of(cases, pooled, healthy_threshold=0.5, n_unlabelled=2)
    assert (metrics.n_cases_pixel, metrics.n_anomalous_pixel) == (2, 1)
    assert (metrics.n_cases_sample, metrics.n_anomalous_sample) == (2, 1)
    assert (metrics.sample_ap, metrics.sample_auroc) == (1, 1)
    assert (metrics.n_unlabelled, metrics.n_counted_as_zeros) == (2, 1)
    assert metrics.best_dice == 1
    assert metrics.best_dice_threshold > 0.6
    assert metrics.dice_at_healthy_threshold == 2 / 3
    assert [case.name for case in metrics.cases] == ["a", "b", "c"]


def test_metrics_without_threshold_or_cases():
    metrics = Metrics.of([], ScoreHistogram.empty())
    assert metrics.voxel_ap is metrics.sample_ap is metrics.best_dice is metrics.dice_at_healthy_threshold is None
    assert metrics.cases == ()


def test_metrics_go_through_json():
    cases = [CaseMetrics("a", n_voxels=2, problems=("lost",))]
    metrics = Metrics.of(cases, ScoreHistogram.of(np.array([0.0, 1.0]), np.array([0, 1])))
    plain = metrics.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["cases"][0]["problems"] == ["lost"]

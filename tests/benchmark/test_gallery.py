"""What the gallery shows is decided by size, and by nothing that a map says."""

from dataclasses import replace

import numpy as np

from mendscan.benchmark.gallery import lesions_to_show
from mendscan.evaluation.counting import CountedCase, CountedLesion
from mendscan.evaluation.metrics import Evaluation
from mendscan.evaluation.sparse import SparseCounts


def lesion(number: int, kind: str, voxels: int, score: float) -> CountedLesion:
    return CountedLesion(number, SparseCounts.of(np.full(voxels, score)), kind)


def evaluation(score: float) -> Evaluation:
    cases = (
        CountedCase("one", "one", lesions=(lesion(1, "bright", 9, score), lesion(2, "bright", 2, 1 - score))),
        CountedCase("two", "two", lesions=(lesion(1, "blur", 4, score), lesion(2, "bright", 5, score))),
    )
    return Evaluation({}, (), cases, 0.5, 0.5, resamples=10, level=0.95, seed=0)


def test_the_lesion_of_median_size_of_each_kind() -> None:
    shown = [(one.kind, one.case, one.number) for one in lesions_to_show(evaluation(0.9))]
    assert shown == [("blur", "two", 1), ("bright", "two", 2)]


def test_no_map_decides() -> None:
    assert lesions_to_show(evaluation(0.9)) == lesions_to_show(evaluation(0.1))
    assert lesions_to_show(replace(evaluation(0.9), cases=())) == []

"""How well does a folder of maps and scores agree with a folder of labels?  The conductor of an evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mendscan.errors import ResultsError, SettingsError
from mendscan.evaluation.bootstrap import LEVEL, RESAMPLES, Difference, intervals, paired_difference
from mendscan.evaluation.counting import CaseFiles, CountedCase, count_voxels, with_lesions_matched
from mendscan.evaluation.layouts import Labels, Predictions, find_labels, find_predictions
from mendscan.evaluation.measures import Measure
from mendscan.evaluation.metrics import Evaluation
from mendscan.evaluation.strata import find_strata
from mendscan.parallel import available_cores, each_in_threads
from mendscan.progress import Progress, Silent

__all__ = ["compare", "evaluate_folder"]

_LOG = logging.getLogger(__name__)

IOU = 0.1
"""Intersection over union from which a component hits a lesion (nnDetection; Baumgartner et al., 2021)."""
FEW_SUBJECTS = 10
"""With fewer subjects an evaluation warns: a bootstrap knows of no subject that it has not seen."""
COMPONENT_SHARE = 0.005
"""Without a healthy threshold, components are of the highest 0.5 % of all voxels: no label decides it."""


def evaluate_folder(
    results: Path | str,
    labels: Path | str,
    *,
    threshold: float | None = None,
    iou: float = IOU,
    smallest_voxels: int = 1,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    strata: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the maps and scan scores of any method with labels.

    Needs no model and no torch.  A case is known by its file name without ``.nii`` or ``.nii.gz``; `layouts` says which
    folders are understood.  A case with only a voxel label or only a scan label enters only that label's figures;
    without any scan labels, a scan with an anomalous voxel is anomalous.  Where no label has a map there are no voxel
    figures, and where none has a scan score no scan figures.  Otherwise a map that is missing, unreadable, of another
    shape than the label, or not a number somewhere counts as zeros, as in the challenge; a missing or non-finite scan
    score counts as 0, or as the lowest score if that is negative.  Both are listed under the case's `problems`.

    Args:
        results: The folder of maps and scores.
        labels: The folder of labels.
        threshold: The voxel threshold learnt from healthy scans, in map units; None = the one that the results name.
            Never take it from these labels.
        iou: Overlap from which a component of the map hits a lesion.
        smallest_voxels: Smaller components are left out.
        resamples: Of the intervals over subjects.
        level: Of the intervals.
        seed: Of the intervals.
        strata: Whether to compute figures by kind, size and contrast.
        workers: Threads; None = one per core.
        progress: Told of every case.

    Returns:
        Figures with intervals, strata and counts per case.

    Raises:
        ResultsError: If a folder is missing or empty, no label has a prediction, a label or a table cannot be read, two
            files are of the same case, or a map lies elsewhere in space than its label.
        SettingsError: If a number is out of range.
    """
    progress = progress or Silent()
    truth = find_labels(Path(labels))
    for name, value, possible, expected in (
        ("threshold", threshold, threshold is None or 0 <= threshold <= 1, "0 to 1"),
        ("iou", iou, 0 <= iou <= 1, "0 to 1"),
        ("smallest_voxels", smallest_voxels, smallest_voxels >= 1, "at least 1"),
        ("resamples", resamples, resamples >= 1, "at least 1"),
        ("level", level, 0 < level < 1, "between 0 and 1"),
        ("seed", seed, seed >= 0, "at least 0"),
    ):
        if not possible:
            raise SettingsError("out of range", where=name, found=value, expected=expected)
    everything = find_predictions(Path(results)).named_as(truth)
    predicted = everything.of(truth)
    if not predicted.maps and predicted.scores is None:
        raise ResultsError(
            "nothing to compare: no label has a prediction of its name",
            where=results,
            found=", ".join(sorted(everything.names)[:3]),
            expected=", ".join(truth.cases[:3]),
            remedy="name predictions as labels are named",
        )
    threshold = predicted.map_threshold if threshold is None else threshold
    cases = _counted(truth, predicted, progress, workers)
    component_threshold = threshold if threshold is not None else _highest_share(cases)
    if component_threshold is not None:
        cases = _matched(truth, predicted, cases, component_threshold, iou, smallest_voxels, progress, workers)
    for case in cases:
        for problem in case.problems:
            _LOG.warning("%s: %s: %s", results, case.name, problem)
    unlabelled = len(everything.names - set(truth.cases))
    return _summarised(
        cases, threshold, component_threshold, truth, predicted, unlabelled,
        resamples=resamples, level=level, seed=seed, strata=strata, progress=progress,
    )  # fmt: skip


def compare(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """Compare two evaluations of the same labels, case by case: first minus second, with intervals over subjects.

    Raises:
        ResultsError: If they are not of the same cases.
    """
    if [case.name for case in first.cases] != [case.name for case in second.cases]:
        raise ResultsError("the two were not evaluated on the same cases", remedy="evaluate both with the same labels")
    common = first.figures.keys() & second.figures.keys()

    def only_common(measure: Measure):  # type: ignore[no-untyped-def]
        return lambda weights_BN: {name: one for name, one in measure(weights_BN).items() if name in common}

    return paired_difference(
        only_common(first.measure), only_common(second.measure), first.subjects,
        resamples=first.resamples, level=first.level, seed=first.seed,
    )  # fmt: skip


def _counted(truth: Labels, predicted: Predictions, progress: Progress, workers: int | None) -> tuple[CountedCase, ...]:
    progress.begin("count voxels", len(truth.cases))
    blank = _blank_cases(truth, predicted)

    def count(name: str) -> CountedCase:
        files = _files(truth, predicted, name)
        counted = blank[name] if files is None else count_voxels(files, blank[name])
        labelled = _with_derived_label(counted, truth)
        return labelled if predicted.maps else replace(blank[name], anomalous=labelled.anomalous)

    jobs, threads = [(name,) for name in truth.cases], workers or available_cores()
    return tuple(each_in_threads(count, jobs, workers=threads, after_each=progress.advance))


def _matched(
    truth: Labels,
    predicted: Predictions,
    cases: Sequence[CountedCase],
    threshold: float,
    iou: float,
    smallest_voxels: int,
    progress: Progress,
    workers: int | None,
) -> tuple[CountedCase, ...]:
    progress.begin("match lesions", len(cases))

    def match(case: CountedCase) -> CountedCase:
        files = _files(truth, predicted, case.name)
        if files is None or case.healthy is None:
            return case
        return with_lesions_matched(files, case, threshold=threshold, smallest_voxels=smallest_voxels, iou=iou)

    jobs, threads = [(case,) for case in cases], workers or available_cores()
    return tuple(each_in_threads(match, jobs, workers=threads, after_each=progress.advance))


def _summarised(
    cases: tuple[CountedCase, ...],
    threshold: float | None,
    component_threshold: float | None,
    truth: Labels,
    predicted: Predictions,
    unlabelled: int,
    *,
    resamples: int,
    level: float,
    seed: int,
    strata: bool,
    progress: Progress,
) -> Evaluation:
    measure, subjects = Measure(cases, threshold), [case.subject for case in cases]
    progress.begin("intervals", 1)
    figures = intervals(measure, subjects, resamples=resamples, level=level, seed=seed)
    progress.advance()
    found = find_strata(measure, subjects, resamples=resamples, level=level, seed=seed) if strata else ()
    return Evaluation(
        figures, tuple(found), cases, threshold, component_threshold, resamples, level, seed,
        n_unlabelled=unlabelled, remarks=_remarks(truth, predicted, cases, threshold),
    )  # fmt: skip


def _blank_cases(truth: Labels, predicted: Predictions) -> dict[str, CountedCase]:
    """Every case with its scan label and score, before any voxel is counted."""
    whole = {fact.case: fact for fact in truth.anomalies if fact.whole}
    scores = predicted.scores
    lowest = min([0.0, *(score for score in (scores or {}).values() if math.isfinite(score))])
    blank = {}
    for name in truth.cases:
        case = CountedCase(
            name,
            truth.subjects.get(name, name),
            anomalous=truth.sample.get(name),
            p_value=predicted.p_values.get(name),
            artefact=whole.get(name),
        )
        if scores is not None and (name in truth.sample or not truth.sample):
            case = _with_score(case, scores.get(name), lowest)
        blank[name] = case
    return blank


def _with_score(case: CountedCase, score: float | None, lowest: float) -> CountedCase:
    if score is not None and math.isfinite(score):
        return replace(case, score=score)
    problem = "the scan score is missing" if score is None else f"the scan score is {score}, not a finite number"
    return replace(case, score=lowest, problems=(*case.problems, f"{problem}: counted as {lowest:g}"))


def _with_derived_label(case: CountedCase, truth: Labels) -> CountedCase:
    return case if truth.sample else replace(case, anomalous=bool(case.lesions))


def _files(truth: Labels, predicted: Predictions, name: str) -> CaseFiles | None:
    read = predicted.maps or not truth.sample  # without maps, voxel labels only stand in for scan labels
    if name not in truth.pixel or not read:
        return None
    facts = tuple(fact for fact in truth.anomalies if fact.case == name)
    return CaseFiles(name, predicted.maps.get(name), truth.pixel[name], truth.lesions.get(name), facts)


def _highest_share(cases: Sequence[CountedCase]) -> float | None:
    """The score value above which the highest `COMPONENT_SHARE` of all voxels lie; None without voxels.

    More of them, where the highest value alone has more: a map of zeros and ones has components, too.
    """
    measure = Measure(cases, None)
    total_V = (measure.healthy_NV + measure.anomalous_NV()).sum(axis=0)
    if not total_V.sum():
        return None
    at_most = np.cumsum(total_V) >= (1 - COMPONENT_SHARE) * total_V.sum()
    return float(measure.values_V[min(int(np.argmax(at_most)), max(0, len(total_V) - 2))])


def _remarks(
    truth: Labels, predicted: Predictions, cases: Sequence[CountedCase], threshold: float | None
) -> tuple[str, ...]:
    remarks = []
    n_clipped = sum(case.n_clipped for case in cases)
    if n_clipped:
        remarks.append(
            f"{n_clipped} voxels of the maps lie outside [0, 1] and were clipped, as in the challenge: scale the maps "
            "into [0, 1] if their ranks matter"
        )
    if threshold is None and predicted.maps:
        remarks.append(
            f"no healthy threshold is known: components are of the highest {COMPONENT_SHARE:.1%} of all voxels, and no "
            "figure at a threshold is given"
        )
    if not predicted.maps:
        remarks.append("the method gave no maps: no figure of voxels or lesions")
    if predicted.scores is None:
        remarks.append("the method gave no scan scores")
    if not truth.sample:
        remarks.append("no scan labels: a scan with an anomalous voxel counts as anomalous")
    n_subjects = len({case.subject for case in cases})
    if n_subjects < FEW_SUBJECTS:
        remarks.append(
            f"few subjects ({n_subjects}): the intervals are too short, and a p-value of a difference means little"
        )
    return tuple(remarks)

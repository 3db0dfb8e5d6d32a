"""Pictures of an evaluation: curves, score distributions, calibration, strata."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mendscan.evaluation.lesions import FALSE_POSITIVES_PER_SCAN, froc
from mendscan.evaluation.metrics import Evaluation
from mendscan.results.planes import as_drawn
from mendscan.volumes.writing import write_bytes

__all__ = ["draw_evaluation", "save_evaluation_figure"]

_HEALTHY, _ANOMALOUS, _CHANCE = "#3b6ea5", "#c8553d", "#999999"
LARGEST_DRAWN = 1e30
"""Scan scores beyond it are drawn there."""
_STRATUM_FIGURES = ("voxel_auroc", "sample_auroc")


def save_evaluation_figure(evaluation: Evaluation, path: Path) -> None:
    """Draw an evaluation into a PNG file.

    Raises:
        WriteError: If it cannot be written.
    """
    from io import BytesIO

    picture = BytesIO()
    draw_evaluation(evaluation).savefig(picture, format="png", dpi=110)
    write_bytes(path, picture.getvalue())


def draw_evaluation(evaluation: Evaluation) -> Figure:
    """Draw precision-recall, ROC, FROC, scan scores, p-values of healthy scans, and what is found by stratum.

    A panel whose figures the labels or the predictions leave undefined says so.
    """
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    panels: Sequence[Callable[[Axes, Evaluation], bool]] = (
        _precision_recall,
        _roc,
        _froc,
        _scan_scores,
        _p_values,
        _strata,
    )
    for axes, panel in zip(figure.subplots(2, 3).flat, panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        if not panel(axes, evaluation):
            axes.text(0.5, 0.5, "not defined here", ha="center", va="center", color=_CHANCE, transform=axes.transAxes)
            axes.set_axis_off()
    figure.supxlabel(_caption(evaluation), fontsize=8, color="#555555")
    return figure


def _precision_recall(axes: Axes, evaluation: Evaluation) -> bool:
    axes.set_title("voxels: precision and recall", fontsize=10)
    if evaluation["voxel_ap"] is None:
        return False
    healthy, anomalous = _pooled(evaluation)
    true_positives, predicted = _sum_from(anomalous), _sum_from(healthy + anomalous)
    axes.plot(
        np.append(true_positives / true_positives[0], 0),
        np.append(true_positives / predicted, 1),
        color=_ANOMALOUS,
        drawstyle="steps-post",
        label=f"AP {_with_interval(evaluation, 'voxel_ap')}",
    )
    axes.axhline(evaluation.prevalence or 0, color=_CHANCE, ls=":", label=f"chance {evaluation.prevalence:.3f}")
    _finish(axes, "recall", "precision")
    return True


def _roc(axes: Axes, evaluation: Evaluation) -> bool:
    axes.set_title("voxels: ROC", fontsize=10)
    if evaluation["voxel_auroc"] is None:
        return False
    healthy, anomalous = _pooled(evaluation)
    false_rate, true_rate = _sum_from(healthy) / healthy.sum(), _sum_from(anomalous) / anomalous.sum()
    label = f"AUROC {_with_interval(evaluation, 'voxel_auroc')}"
    axes.plot(np.append(false_rate, 0), np.append(true_rate, 0), color=_ANOMALOUS, label=label)
    axes.plot([0, 1], [0, 1], color=_CHANCE, ls=":")
    _finish(axes, "share of healthy voxels above the threshold", "share of anomalous voxels above it")
    return True


def _froc(axes: Axes, evaluation: Evaluation) -> bool:
    axes.set_title("lesions: sensitivity and false positives", fontsize=10)
    if evaluation["lesion_froc"] is None:
        return False
    matches = [case.match for case in evaluation.cases if case.match is not None]
    found, false = [match.found_peaks for match in matches], [match.false_peaks for match in matches]
    curve = froc(found, false, np.ones(len(matches)))
    label = f"mean at 1/8 … 8: {_with_interval(evaluation, 'lesion_froc')}"
    rates = curve.false_positives_per_scan
    axes.plot(rates, curve.sensitivity, color=_ANOMALOUS, drawstyle="steps-post", label=label)
    axes.set_xscale("symlog", base=2, linthresh=1 / 8)
    axes.set_xticks([0, *FALSE_POSITIVES_PER_SCAN], ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set_xlim(0, max(8, float(rates.max(initial=0))))
    _finish(axes, "false positives per scan", "share of lesions found")
    return True


def _scan_scores(axes: Axes, evaluation: Evaluation) -> bool:
    axes.set_title("scan scores", fontsize=10)
    rated = [case for case in evaluation.cases if case.score is not None and case.anomalous is not None]
    if not rated:
        return False
    groups: list[tuple[str, str, Callable[..., bool]]] = [
        ("healthy", _HEALTHY, lambda case: not case.anomalous),
        ("local anomalies", _ANOMALOUS, lambda case: case.anomalous and case.artefact is None),
        ("whole-scan artefacts", "#8a5aa8", lambda case: case.anomalous and case.artefact is not None),
    ]
    scores = np.array([case.score for case in rated])
    lowest, highest = _span(scores)
    bins = np.linspace(lowest, highest, min(30, max(8, len(scores) // 4)) + 1)
    for name, colour, belongs in groups:
        chosen = np.clip([case.score for case in rated if case.score is not None and belongs(case)], lowest, highest)
        if chosen.size:
            axes.hist(chosen, bins=bins.tolist(), color=colour, alpha=0.6, label=f"{chosen.size} {name}")
    axes.set_xlabel(f"score (AUROC {_with_interval(evaluation, 'sample_auroc')})", fontsize=9)
    axes.set_ylabel("scans", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return True


def _span(scores: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """The lowest and highest score, apart enough to draw and to take the difference of."""
    lowest, highest = np.clip([scores.min(), scores.max()], -LARGEST_DRAWN, LARGEST_DRAWN).tolist()
    apart = max(1e-6, 1e-6 * abs(lowest))
    return (lowest, highest) if highest - lowest > apart else (lowest - apart, highest + apart)


def _p_values(axes: Axes, evaluation: Evaluation) -> bool:
    axes.set_title("calibration: p-values of healthy scans", fontsize=10)
    p_values = np.sort(
        [case.p_value for case in evaluation.cases if case.p_value is not None and case.anomalous is False]
    )
    if not p_values.size:
        return False
    share = np.arange(1, p_values.size + 1) / p_values.size
    axes.step([0, *p_values, 1], [0, *share, 1], where="post", color=_HEALTHY, label=f"{p_values.size} healthy scans")
    axes.plot([0, 1], [0, 1], color=_CHANCE, ls=":", label="uniform: as it should be, or below")
    _finish(axes, "p", "share of healthy scans with at most this p")
    return True


def _strata(axes: Axes, evaluation: Evaluation) -> bool:
    axes.set_title("AUROC by stratum (red: voxels, violet: scans)", fontsize=10)
    rows = [
        (f"{as_drawn(stratum.name)} ({stratum.anomalies})", stratum.figures[name], stratum.family)
        for stratum in evaluation.strata
        for name in _STRATUM_FIGURES
        if name in stratum.figures and math.isfinite(stratum.figures[name].estimate)
    ]
    if not rows:
        return False
    for place, (_, interval, family) in enumerate(reversed(rows)):
        colour = "#8a5aa8" if family == "artefact" else _ANOMALOUS
        axes.plot([interval.low, interval.high], [place, place], color=colour, lw=1.5, alpha=0.6)
        axes.plot(interval.estimate, place, "o", color=colour, ms=4)
    axes.axvline(0.5, color=_CHANCE, ls=":")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)], fontsize=max(5, 8 - len(rows) // 12))
    axes.set_xlim(0, 1.02)
    return True


def _pooled(evaluation: Evaluation) -> tuple[Float[np.ndarray, " V"], Float[np.ndarray, " V"]]:
    measure = evaluation.measure
    return measure.healthy_NV.sum(axis=0), measure.anomalous_NV().sum(axis=0)


def _sum_from(counts_V: Float[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    return np.cumsum(counts_V[::-1])[::-1]


def _with_interval(evaluation: Evaluation, name: str) -> str:
    found = evaluation.figures.get(name)
    if found is None or not math.isfinite(found.estimate):
        return "undefined"
    ends = f" [{found.low:.3f}, {found.high:.3f}]" if math.isfinite(found.low) else ""
    return f"{found.estimate:.3f}{ends}"


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8, frameon=False)


def _caption(evaluation: Evaluation) -> str:
    counts = evaluation.counts
    return (
        f"{counts['cases']} scans of {counts['subjects']} subjects, {counts['lesions']} lesions; intervals: "
        f"{evaluation.level:.0%}, bootstrap over subjects. Research use only; not a medical device."
    )

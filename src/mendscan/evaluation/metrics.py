"""What an evaluation says: figures with intervals, strata, one row per case, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mendscan.evaluation.bootstrap import Difference, Interval
from mendscan.evaluation.counting import CountedCase
from mendscan.evaluation.histograms import ScoreHistogram
from mendscan.evaluation.measures import Measure
from mendscan.evaluation.sparse import N_VALUES
from mendscan.evaluation.strata import Stratum

__all__ = ["CASE_COLUMNS", "LESION_COLUMNS", "Evaluation", "case_rows", "differences_as_dict", "lesion_rows"]

CASE_COLUMNS = (
    "case",
    "subject",
    "voxels",
    "anomalous_voxels",
    "lesions",
    "lesions_found",
    "false_positives",
    "ap",
    "auroc",
    "best_dice",
    "dice",
    "anomalous",
    "score",
    "p_value",
    "problems",
)
LESION_COLUMNS = ("case", "lesion", "kind", "size", "contrast", "voxels", "found", "peak", "share_above_threshold")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The agreement of maps and scores with labels.

    Attributes:
        figures: By name, see `measures.FIGURES`; only those that the labels and predictions define.
        strata: The same by kind, size and contrast of the anomalies, where known.
        cases: The counts of every labelled case, by name: everything else was computed from them.
        threshold: The healthy voxel threshold, in map units; None if there is none.
        component_threshold: Above it the components of the maps were counted.
        resamples: Of the intervals.
        level: Of the intervals.
        seed: Of the intervals.
        n_unlabelled: Predicted cases without any label; they enter no figure.
        remarks: What a reader must know about the figures.
    """

    figures: Mapping[str, Interval]
    strata: tuple[Stratum, ...]
    cases: tuple[CountedCase, ...]
    threshold: float | None
    component_threshold: float | None
    resamples: int
    level: float
    seed: int
    n_unlabelled: int = 0
    remarks: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float | None:
        """Return a figure's value; None if it is undefined."""
        found = self.figures.get(name)
        return None if found is None or not math.isfinite(found.estimate) else found.estimate

    @property
    def measure(self) -> Measure:
        """The figures as functions of case weights."""
        return Measure(self.cases, self.threshold)

    @property
    def histogram(self) -> ScoreHistogram:
        """The pooled voxels; histograms of other cases, evaluated elsewhere, can be added to it."""
        negatives, positives = np.zeros((2, N_VALUES), np.int64)
        for case in self.cases:
            if case.healthy is not None:
                negatives[case.healthy.patterns] += case.healthy.counts
            for lesion in case.lesions:
                positives[lesion.scores.patterns] += lesion.scores.counts
        return ScoreHistogram(negatives, positives)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject of each case."""
        return tuple(case.subject for case in self.cases)

    @property
    def counts(self) -> dict[str, int]:
        """How much the figures rest on."""
        mapped = [case for case in self.cases if case.healthy is not None]
        rated = [case for case in self.cases if case.anomalous is not None]
        anomalous = sum(case.n_anomalous_voxels for case in mapped)
        return {
            "cases": len(self.cases),
            "subjects": len(set(self.subjects)),
            "cases_with_voxel_label": len(mapped),
            "cases_with_lesions": sum(bool(case.lesions) for case in mapped),
            "cases_with_scan_label": len(rated),
            "anomalous_scans": sum(bool(case.anomalous) for case in rated),
            "lesions": sum(len(case.lesions) for case in mapped),
            "voxels": anomalous + sum(int(case.healthy.counts.sum()) for case in mapped if case.healthy is not None),
            "anomalous_voxels": anomalous,
            "counted_as_zeros": sum(bool(case.problems) for case in self.cases),
            "without_label": self.n_unlabelled,
        }

    @property
    def prevalence(self) -> float | None:
        """The share of anomalous voxels: the average precision of chance."""
        counts = self.counts
        return counts["anomalous_voxels"] / counts["voxels"] if counts["voxels"] else None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, text, lists and None, ready for JSON."""
        return {
            "figures": {name: _plain(asdict(figure)) for name, figure in self.figures.items()},
            "strata": [
                asdict(stratum) | {"figures": {name: _plain(asdict(one)) for name, one in stratum.figures.items()}}
                for stratum in self.strata
            ],
            "counts": self.counts,
            "voxel_prevalence": self.prevalence,
            "threshold": self.threshold,
            "component_threshold": self.component_threshold,
            "intervals": {"level": self.level, "resamples": self.resamples, "seed": self.seed, "over": "subjects"},
            "cases": case_rows(self),
            "remarks": list(self.remarks),
        }


def case_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row per case: `CASE_COLUMNS`; what its labels leave undefined is None."""
    of_each = evaluation.measure.of_each_case
    names = {"ap": "voxel_ap", "auroc": "voxel_auroc", "best_dice": "best_dice", "dice": "dice"}
    per_case = {column: of_each[name] for column, name in names.items() if name in of_each}
    rows = []
    for row, case in enumerate(evaluation.cases):
        mapped = case.healthy is not None
        match = case.match
        rows.append(
            {
                "case": case.name,
                "subject": case.subject,
                "voxels": None if case.healthy is None else case.healthy.n_voxels + case.n_anomalous_voxels,
                "anomalous_voxels": case.n_anomalous_voxels if mapped else None,
                "lesions": len(case.lesions) if mapped else None,
                "lesions_found": None if match is None else int(match.found.sum()),
                "false_positives": None if match is None else int(match.false_peaks.size),
                **_plain({name: values[row] for name, values in per_case.items()}),
                "anomalous": case.anomalous,
                "score": case.score,
                "p_value": case.p_value,
                "problems": "; ".join(case.problems),
            }
        )
    return rows


def lesion_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row per lesion: `LESION_COLUMNS`."""
    rows = []
    for case in evaluation.cases:
        if case.match is None:
            continue
        match = case.match
        for place, lesion in enumerate(case.lesions):
            found = bool(match.found[place])
            rows.append(
                {
                    "case": case.name,
                    "lesion": lesion.number,
                    "kind": lesion.kind,
                    "size": lesion.size,
                    "contrast": lesion.contrast,
                    "voxels": lesion.voxels,
                    "found": int(found),
                    "peak": float(match.found_peaks[place]) if found else None,
                    "share_above_threshold": float(match.covered_shares[place]),
                }
            )
    return rows


def differences_as_dict(differences: Mapping[str, Difference]) -> dict[str, Any]:
    """Return a paired comparison as plain numbers, ready for JSON."""
    return {name: _plain(asdict(one)) for name, one in differences.items()}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as Python's own, and None for what is not finite: JSON has no NaN."""
    return {
        name: (float(value) if math.isfinite(value) else None) if isinstance(value, float | np.floating) else value
        for name, value in values.items()
    }

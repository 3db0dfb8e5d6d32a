"""What a report says, before it says it as a page, as JSON or as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mendscan.errors import ResultsError
from mendscan.results import Details, Finding, ResultCase, Results

__all__ = ["NOTICE", "PARTS", "CaseFacts", "CohortFacts", "PartFacts", "cohort_facts", "healthy_as_high"]

NOTICE = (
    "Research use only; not a medical device. A score says how unlikely a scan is under the healthy training scans: "
    "it names no disease, and a low score does not mean healthy."
)
PARTS = {
    "local": ("Something is in the scan", "the highest voxels of the evidence"),
    "acquisition": ("It was taken in another way", "statistics of the whole scan"),
}
"""The parts of a score, in plain words, and what each looks at."""
_STATISTICS_SHOWN = 6


@dataclass(frozen=True)
class PartFacts:
    """One part of a scan's score.

    Attributes:
        name: ``local`` or ``acquisition``.
        says: What it means, in plain words.
        looks_at: What it is computed from.
        score: In healthy standard deviations.
        p_value: Its conformal p-value alone.
        decided: Whether the scan's score is this part's.
    """

    name: str
    says: str
    looks_at: str
    score: float
    p_value: float | None
    decided: bool


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What is said of one scan.

    Attributes:
        rank: 1 for the least likely; failed scans come last.
        case: The scan in its folder.
        status: ``flagged``, ``not flagged``, ``undecided`` or ``failed``.
        parts: What the score is made of; empty if it is the paper's.
        warnings: Why the scan does not look like the training scans, in words.
        statistics: The whole-scan statistics that depart most, in healthy standard deviations.
        details: Slices, codes, statistics; None if the folder has none.
        details_problem: Why it has none; empty if it has.
        reason: Why the scan failed.
        remedy: What can be done about it.
    """

    rank: int
    case: ResultCase
    status: str
    parts: tuple[PartFacts, ...]
    warnings: tuple[str, ...]
    statistics: tuple[tuple[str, float], ...]
    details: Details | None
    details_problem: str = ""
    reason: str = ""
    remedy: str = ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Its findings, most anomalous first."""
        return self.case.findings

    @property
    def findings_mm3(self) -> float:
        """Volume of all its findings."""
        return sum((finding.volume_mm3 for finding in self.findings), 0.0)

    @property
    def decided_by(self) -> str:
        """Which part decided the score, in plain words."""
        named = [part.says for part in self.parts if part.decided]
        return named[0] if named else "the paper's score" if not self.case.failed else ""


@dataclass(frozen=True, eq=False)
class CohortFacts:
    """What is said of all scans.

    Attributes:
        results: The folder.
        cases: Every scan, ranked.
        calibration_scans: How many healthy scans the p-values rest on.
        smallest_p_value: The smallest that so many can give.
        rate: The share of healthy scans that may be flagged.
        score_threshold: A scan is flagged if its score is above it; None if no p-value can be small enough.
        healthy_scores: Scores of the healthy calibration scans; none if the folder does not hold them.
    """

    results: Results
    cases: tuple[CaseFacts, ...]
    calibration_scans: int
    smallest_p_value: float
    rate: float
    score_threshold: float | None
    healthy_scores: tuple[float, ...]

    @property
    def scored(self) -> tuple[CaseFacts, ...]:
        """Scans that did not fail."""
        return tuple(facts for facts in self.cases if not facts.case.failed)

    @property
    def failed(self) -> tuple[CaseFacts, ...]:
        """Scans that failed."""
        return tuple(facts for facts in self.cases if facts.case.failed)

    @property
    def flagged(self) -> tuple[CaseFacts, ...]:
        """Scans that are flagged."""
        return tuple(facts for facts in self.cases if facts.status == "flagged")

    @property
    def flagged_by_chance(self) -> float:
        """How many scans would be flagged at most, on average, were all of them healthy."""
        return self.rate * len(self.scored)

    @property
    def score_unit(self) -> str:
        """The unit of the scores."""
        return "healthy SD" if any(facts.parts for facts in self.cases) else "nats"


def cohort_facts(results: Results) -> CohortFacts:
    """Gather what the tables of a results folder say.

    Raises:
        ResultsError: If ``results.json`` lacks a figure or a cell is no number.
    """
    run = results.run
    try:
        scans, rate = int(run["calibration_scans"]), float(run["false_positive_rate"])
        smallest, _ = float(run["smallest_p_value"]), float(run["map_threshold"])
        healthy = tuple(float(score) for score in run.get("healthy_scores", ()))
        limit = None if run.get("score_threshold") is None else float(run["score_threshold"])
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            "a figure is missing or no number",
            where=results.folder / "results.json",
            found=error,
            remedy="run mendscan detect again: the folder is of an earlier version",
        ) from None
    cases = tuple(_case_facts(rank, case) for rank, case in enumerate(results.cases, start=1))
    return CohortFacts(results, cases, scans, smallest, rate, limit, healthy)


def healthy_as_high(p_value: float, calibration_scans: int) -> int:
    """Return how many healthy calibration scans scored at least as high, from the conformal p-value.

    Example:
        >>> healthy_as_high(0.15, 19)
        2
    """
    return round(p_value * (calibration_scans + 1)) - 1


def _case_facts(rank: int, case: ResultCase) -> CaseFacts:
    if case.failed:
        reason, remedy = _reason_and_remedy(case.row)
        return CaseFacts(rank, case, "failed", (), (), (), None, reason=reason, remedy=remedy)
    details, problem = _details(case)
    statistics = sorted(details.statistics.items(), key=lambda pair: -abs(pair[1])) if details else []
    status = {True: "flagged", False: "not flagged", None: "undecided"}[case.flagged]
    return CaseFacts(
        rank=rank,
        case=case,
        status=status,
        parts=_parts(case),
        warnings=_warnings(case, details),
        statistics=tuple(statistics[:_STATISTICS_SHOWN]),
        details=details,
        details_problem=problem,
    )


def _details(case: ResultCase) -> tuple[Details | None, str]:
    """Return the details of a scan, or None and the reason."""
    try:
        details = case.details()
    except ResultsError as error:
        return None, str(error.at(""))
    if details is None:
        return None, "the folder has no details of this scan: it is of an earlier version"
    nll, scores = details.code_nll, details.slice_scores
    finite = bool(np.isfinite(scores).all() and np.isfinite(details.positions).all())
    if not scores.size or not finite:
        return None, "its slices make no sense; run mendscan detect again"
    if nll is not None and (nll.nats_Sab.ndim != 3 or len(nll.nats_Sab) != len(scores)):
        return None, "its codes are not those of its slices; run mendscan detect again"
    return details, ""


def _parts(case: ResultCase) -> tuple[PartFacts, ...]:
    found = []
    for name, (says, looks_at) in PARTS.items():
        score = case.number(name)
        if score is not None:
            p_value, decided = case.number(f"{name}_p_value"), case.row["part"] == name
            found.append(PartFacts(name, says, looks_at, score, p_value, decided))
    return tuple(found)


def _warnings(case: ResultCase, details: Details | None) -> tuple[str, ...]:
    if details is not None and details.warnings:
        return tuple(warning.message for warning in details.warnings)
    return (case.row["warnings"],) if case.row["warnings"] else ()


def _reason_and_remedy(row: Mapping[str, Any]) -> tuple[str, str]:
    """Part the one line of an error, ``where: problem (found ..., expected ...); remedy``.

    Example:
        >>> _reason_and_remedy({"message": "a.nii: too small (found 3, expected 8); check it", "case": "a"})
        ('too small (found 3, expected 8)', 'check it')
    """
    message = str(row["message"])
    if message.startswith(row["case"]):
        message = re.sub(r"^\S*: ", "", message[len(row["case"]) :], count=1)
    parted = re.match(r"(.*?\)); (.*)|(.*?); (.*)|(.*)", message, flags=re.DOTALL)
    groups = [group for group in (parted.groups() if parted else ()) if group is not None]
    return (groups[0], groups[1]) if len(groups) == 2 else (message, "")

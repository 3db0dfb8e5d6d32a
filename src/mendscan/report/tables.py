"""The content of a report for programs: one JSON file and two tables, with what the page says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mendscan.report.content import NOTICE, CaseFacts, CohortFacts, healthy_as_high
from mendscan.report.pictures import CasePictures, ShownView
from mendscan.results import FINDING_COLUMNS as OF_RESULTS
from mendscan.results import Finding

__all__ = ["FINDING_COLUMNS", "SCAN_COLUMNS", "as_json", "finding_rows", "scan_rows"]

SCAN_COLUMNS = (
    "rank",
    "case",
    "status",
    "score",
    "p_value",
    "healthy_as_high",
    "decided_by",
    "local",
    "local_p_value",
    "acquisition",
    "acquisition_p_value",
    "findings",
    "findings_mm3",
    "expected_false_of_strongest",
    "warnings",
    "strangest",
    "pictured_findings",
    "no_pictures_because",
    "code",
    "reason",
    "remedy",
)
FINDING_COLUMNS = ("rank", *OF_RESULTS, "pictured")


def scan_rows(cohort: CohortFacts, pictures: Mapping[str, CasePictures]) -> list[dict[str, Any]]:
    """Return a row for each scan, ranked, failed ones last."""
    return [_scan_row(facts, cohort, pictures.get(facts.case.name)) for facts in cohort.cases]


def finding_rows(cohort: CohortFacts, pictures: Mapping[str, CasePictures]) -> list[dict[str, Any]]:
    """Return a row for each finding, in the order of the scans."""
    return [
        {"rank": facts.rank, "case": facts.case.name} | _finding_row(number, finding, pictures.get(facts.case.name))
        for facts in cohort.cases
        for number, finding in enumerate(facts.findings, start=1)
    ]


def as_json(cohort: CohortFacts, pictures: Mapping[str, CasePictures], *, left_out: str) -> dict[str, Any]:
    """Return everything that the page says, but its pictures."""
    run = cohort.results.run
    return {
        "format": 1,
        "notice": NOTICE,
        "not_pictured": left_out,
        "cohort": {
            "scored": len(cohort.scored),
            "failed": len(cohort.failed),
            "flagged": len(cohort.flagged) if cohort.score_threshold is not None else None,
            "flagged_by_chance": round(cohort.flagged_by_chance, 6),
            "calibration_scans": cohort.calibration_scans,
            "smallest_p_value": cohort.smallest_p_value,
        },
        "run": dict(run),
        "model_card": cohort.results.model_card,
        "scans": [_scan(facts, cohort, pictures.get(facts.case.name)) for facts in cohort.cases],
    }


def _scan(facts: CaseFacts, cohort: CohortFacts, pictures: CasePictures | None) -> dict[str, Any]:
    details = facts.details
    return _scan_row(facts, cohort, pictures) | {
        "findings": [_finding_row(number, each, pictures) for number, each in enumerate(facts.findings, start=1)],
        "warnings": list(facts.warnings),
        "statistics": dict(facts.statistics),
        "slice_axis": details.slice_axis if details else None,
        "slices": [
            {"position": position, "score": score}
            for position, score in zip(details.positions.tolist(), details.slice_scores.tolist(), strict=True)
        ]
        if details
        else [],
        "no_details_because": facts.details_problem or None,
        "views": [_view(shown) for shown in pictures.views] if pictures else [],
    }


def _scan_row(facts: CaseFacts, cohort: CohortFacts, pictures: CasePictures | None) -> dict[str, Any]:
    case, parts = facts.case, {part.name: part for part in facts.parts}
    p_value = case.p_value
    local, acquisition = parts.get("local"), parts.get("acquisition")
    return {
        "rank": facts.rank,
        "case": case.name,
        "status": facts.status,
        "score": case.score,
        "p_value": p_value,
        "healthy_as_high": None if p_value is None else healthy_as_high(p_value, cohort.calibration_scans),
        "decided_by": facts.decided_by or None,
        "local": local.score if local else None,
        "local_p_value": local.p_value if local else None,
        "acquisition": acquisition.score if acquisition else None,
        "acquisition_p_value": acquisition.p_value if acquisition else None,
        "findings": None if case.failed else len(facts.findings),
        "findings_mm3": None if case.failed else round(facts.findings_mm3, 2),
        "expected_false_of_strongest": facts.findings[0].expected_false if facts.findings else None,
        "warnings": "; ".join(facts.warnings) or None,
        "strangest": case.row["strangest"] or None,
        "pictured_findings": _pictured(pictures) if pictures else None,
        "no_pictures_because": (pictures.problem or None) if pictures else None,
        "code": case.row["code"] or None,
        "reason": facts.reason or None,
        "remedy": facts.remedy or None,
    }


def _finding_row(number: int, finding: Finding, pictures: CasePictures | None) -> dict[str, Any]:
    oriented = pictures is None or pictures.oriented
    mm: Sequence[float | None] = finding.centre_mm if oriented else (None, None, None)
    return {
        "finding": number,
        "volume_mm3": finding.volume_mm3,
        "voxels": finding.voxels,
        "peak": finding.peak,
        "mean": finding.mean,
        "expected_false_per_scan": finding.expected_false,
        **{f"centre_{axis}_mm": value for axis, value in zip("xyz", mm, strict=True)},
        **{f"centre_{axis}": value for axis, value in zip("ijk", finding.centre_voxel, strict=True)},
        "pictured": int(pictures is not None and number <= _pictured(pictures)),
    }


def _view(shown: ShownView) -> dict[str, Any]:
    return {
        "finding": shown.view.finding,
        "voxel_RAS": list(shown.view.index_XYZ),
        "map": round(shown.view.peak, 6),
        "planes": [{"plane": plane.title, "where": plane.where} for plane in shown.planes],
    }


def _pictured(pictures: CasePictures) -> int:
    return sum(shown.view.finding is not None for shown in pictures.views)

"""A results folder becomes one HTML file, with the same content for programs beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mendscan.errors import SettingsError, WriteError
from mendscan.progress import Progress, Silent
from mendscan.report.budget import Quality, qualities, with_quality
from mendscan.report.content import CaseFacts, CohortFacts, cohort_facts
from mendscan.report.pages import case_page, render_page
from mendscan.report.pictures import CasePictures, picture_case
from mendscan.report.tables import FINDING_COLUMNS, SCAN_COLUMNS, as_json, finding_rows, scan_rows
from mendscan.results import Details, read_results
from mendscan.results.layout import RUN_FILE
from mendscan.volumes.tables import write_csv
from mendscan.volumes.writing import make_folder, write_bytes, write_json

__all__ = ["FINDINGS", "MEGABYTE", "MEGABYTES", "Report", "worst_position", "write_report"]

MEGABYTE = 1_000_000
MEGABYTES = 25.0
"""A report of this size can still be sent by mail."""
FINDINGS = 5
"""Findings pictured of each scan."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: The page.
        files: All files, the page first.
        size: Of the page, in bytes.
        scans: How many scans it tells of, failed ones too.
        pictured: How many of them it pictures.
        left_out: What it does not picture, in words; empty if it pictures everything.
        problems: Name of each scan that could not be pictured, and why.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    scans: int
    pictured: int
    left_out: str
    problems: tuple[tuple[str, str], ...]


def write_report(
    results: str | Path,
    path: str | Path,
    *,
    findings: int = FINDINGS,
    scans: int | None = None,
    max_megabytes: float = MEGABYTES,
    progress: Progress | None = None,
) -> Report:
    """Write a page that needs nothing but itself, and the same content as JSON and CSV.

    Beside ``report.html`` these are ``report.json``, ``report-scans.csv`` and ``report-findings.csv``.  The same
    results give the same bytes.

    Args:
        results: A results folder.
        path: The page, ``.html``; its folder is made.
        findings: How many findings of each scan to picture.
        scans: How many scans to picture, the least likely first; None for all.  The others are in the tables.
        max_megabytes: What the page may weigh.  To stay below, pictures are stored with losses, then fewer are shown,
            and the page says so.
        progress: Told of each scan.

    Raises:
        ResultsError: If it is no results folder or a table is damaged.
        SettingsError: If `findings` is below 1 or `scans` below 0.
        WriteError: If the name does not end in ``.html``, its data would overwrite the results (E_EXISTS), or
            something cannot be written.
    """
    progress, path = progress or Silent(), Path(path)
    if findings < 1 or (scans is not None and scans < 0):
        found = f"findings={findings}, scans={scans}"
        expected = "findings from 1 on, scans from 0 on"
        raise SettingsError("nothing to picture", where="report", found=found, expected=expected)
    if path.suffix.lower() not in (".html", ".htm"):
        raise WriteError("the report is an HTML file", where=path, found=path.suffix or "no ending", expected=".html")
    if path.with_suffix(".json").resolve() == (Path(results) / RUN_FILE).resolve():
        raise WriteError(
            "its data would overwrite the results", where=path, code="E_EXISTS", remedy="name the report otherwise"
        )
    cohort = cohort_facts(read_results(results))
    wanted = Quality(len(cohort.scored) if scans is None else min(scans, len(cohort.scored)), findings)
    pictures = _picture_all(cohort, wanted, progress)
    page, shown, left_out = _within(cohort, pictures, wanted, len(cohort.scored), max_megabytes, progress)
    make_folder(path.parent)
    write_bytes(path, page)
    files = _write_tables(cohort, shown, left_out, path)
    problems = tuple((name, each.problem) for name, each in pictures.items() if each.problem)
    pictured = sum(bool(each.views) for each in shown.values())
    return Report(path, (path, *files), len(page), len(cohort.cases), pictured, left_out, problems)


def _picture_all(cohort: CohortFacts, wanted: Quality, progress: Progress) -> dict[str, CasePictures]:
    progress.begin("draw", wanted.scans)
    pictures = {}
    for facts in cohort.scored[: wanted.scans]:
        pictures[facts.case.name] = _picture(facts, cohort, wanted.findings)
        progress.advance()
    return pictures


def _picture(facts: CaseFacts, cohort: CohortFacts, findings: int) -> CasePictures:
    details, threshold = facts.details, cohort.results.map_threshold
    if details is None:
        return picture_case(facts.case, threshold=threshold, findings=findings)
    axis, worst = details.slice_axis, worst_position(details)
    return picture_case(facts.case, threshold=threshold, findings=findings, slice_axis=axis, worst=worst)


def worst_position(details: Details) -> float | None:
    """Return where the slice with the largest score lies along the slice axis; None if its codes are not known."""
    return float(details.positions[int(np.argmax(details.slice_scores))]) if details.code_nll else None


def _within(
    cohort: CohortFacts,
    pictures: dict[str, CasePictures],
    wanted: Quality,
    available: int,
    max_megabytes: float,
    progress: Progress,
) -> tuple[bytes, dict[str, CasePictures], str]:
    """Render with the best quality that stays below the limit."""
    limit = max_megabytes * MEGABYTE
    page, shown, left_out = b"", pictures, ""
    for quality in qualities(wanted):
        shown = _shown(cohort, pictures, quality)
        left_out = _left_out(quality, wanted, available, max_megabytes)
        text = render_page(cohort, [case_page(f, shown[f.case.name]) for f in cohort.scored], left_out=left_out)
        page = text.encode("utf-8", errors="backslashreplace")
        if len(page) <= limit:
            return page, shown, left_out
    progress.say(f"the tables alone take {len(page) / MEGABYTE:.1f} MB, more than the {max_megabytes:g} MB wanted")
    return page, shown, left_out


def _shown(cohort: CohortFacts, pictures: dict[str, CasePictures], quality: Quality) -> dict[str, CasePictures]:
    beyond = CasePictures(problem=f"only the {quality.scans} least likely scans are pictured in this report")
    names = [facts.case.name for facts in cohort.scored]
    pictured = {name: with_quality(pictures[name], quality) for name in names[: quality.scans]}
    return pictured | dict.fromkeys(names[quality.scans :], beyond)


def _left_out(quality: Quality, wanted: Quality, available: int, max_megabytes: float) -> str:
    said = []
    if wanted.scans < available:
        said.append(f"the {wanted.scans} least likely of {available} scans were asked for (--scans)")
    lacks = quality.lacks(wanted)
    if lacks:
        said.append(f"to stay below {max_megabytes:g} MB (--max-megabytes), {lacks}")
    return "; ".join(said)


def _write_tables(
    cohort: CohortFacts, pictures: dict[str, CasePictures], left_out: str, path: Path
) -> tuple[Path, Path, Path]:
    data = path.with_suffix(".json")
    scans, findings = (path.with_name(f"{path.stem}-{kind}.csv") for kind in ("scans", "findings"))
    write_json(data, as_json(cohort, pictures, left_out=left_out))
    write_csv(scans, scan_rows(cohort, pictures), SCAN_COLUMNS)
    write_csv(findings, finding_rows(cohort, pictures), FINDING_COLUMNS)
    return data, scans, findings

"""What was found in scans, and the folder that holds it: the contract between computing and showing."""

from __future__ import annotations

from mendscan.results.components import Finding, Place, find_components, locate_findings
from mendscan.results.detection import CodeNLL, Detection, GateWarning
from mendscan.results.layout import (
    FIGURES,
    FINDING_COLUMNS,
    SCORE_COLUMNS,
    forget_case,
    read_run,
    read_scores,
    write_results,
)
from mendscan.results.reading import Details, ResultCase, Results, read_results

__all__ = [
    "FIGURES",
    "FINDING_COLUMNS",
    "SCORE_COLUMNS",
    "CodeNLL",
    "Details",
    "Detection",
    "Finding",
    "GateWarning",
    "Place",
    "ResultCase",
    "Results",
    "find_components",
    "forget_case",
    "locate_findings",
    "read_results",
    "read_run",
    "read_scores",
    "write_results",
]

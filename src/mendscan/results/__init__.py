"""What was found in scans, and the folder that holds it: the contract between computing and showing."""

from __future__ import annotations

from mendscan.results.components import Finding, find_components, labelled_components
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
    "ResultCase",
    "Results",
    "find_components",
    "forget_case",
    "labelled_components",
    "read_results",
    "read_run",
    "read_scores",
    "write_results",
]

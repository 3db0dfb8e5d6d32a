"""Showing results: one page that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import reports_errors

__all__ = ["FINDINGS", "MEGABYTES", "report"]

FINDINGS = 5
MEGABYTES = 25.0
"""Both as in mendscan.report.report, which the help must not wait for."""


@app.command()
@reports_errors
def report(
    results: Annotated[Path, typer.Option("--input", "-i", help="Results folder that mendscan detect wrote.")],
    path: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write; JSON and CSV go beside it.")] = Path(
        "report.html"
    ),
    findings: Annotated[int, typer.Option(min=1, help="Findings to picture of each scan.")] = FINDINGS,
    scans: Annotated[
        int | None, typer.Option(min=0, help="Scans to picture, the least likely first; all by default.")
    ] = None,
    max_megabytes: Annotated[
        float, typer.Option(min=0.1, help="Picture less, and say so, to keep the page below this size.")
    ] = MEGABYTES,
) -> None:
    """Show results as one HTML file that opens from the disk, needs no network and prints well.

    Example: mendscan report -i results -o report.html
    """
    from mendscan.console_progress import ConsoleProgress
    from mendscan.console_report import show_report
    from mendscan.report.report import write_report

    with ConsoleProgress() as progress:
        written = write_report(
            results, path, findings=findings, scans=scans, max_megabytes=max_megabytes, progress=progress
        )
    show_report(written)

"""What the command that checks scans prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from mendscan.console_progress import console
from mendscan.errors import one_line

if TYPE_CHECKING:
    from mendscan.volumes.checking import CheckedScan, CheckReport

__all__ = ["show_checked", "told_on_stderr"]


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """Send what the console is told to the standard error, where the output is for programs."""
    console.stderr = True
    try:
        yield
    finally:
        console.stderr = False


def show_checked(report: CheckReport) -> None:
    """Print every scan, then what is wrong or odd, a line for each."""
    table = Table(title=_summary(report), title_justify="left")
    for name in ("scan", "status", "shape", "spacing (mm)", "axes"):
        table.add_column(name, overflow="fold" if name == "scan" else "ellipsis")
    for scan in report.scans:
        table.add_row(*_cells(scan))
    console.print(table)
    for scan in report.scans:
        if scan.code:
            console.print(f"{scan.code}  {scan.message}", style="red", markup=False, soft_wrap=True)
        for each in scan.warnings:
            line = f"{each.code}  {one_line(scan.path)}: {one_line(each.message)}"
            console.print(line, style="yellow", markup=False, soft_wrap=True)
    for path, note in report.notes:
        console.print(f"note: {one_line(path)}: {note}", style="yellow", markup=False, soft_wrap=True)
    if report.passed_over:
        console.print(f"passed over, for they are no scans: {len(report.passed_over)} files (--json lists them)")


def _summary(report: CheckReport) -> str:
    count = len(report.scans)
    warned = sum(bool(scan.warnings) for scan in report.scans if not scan.code)
    more = f", {warned} of them with a warning" if warned else ""
    return f"{count - report.failed} of {count} scans can be used{more}"


def _cells(scan: CheckedScan) -> tuple[str, ...]:
    status = f"[red]{scan.code}[/]" if scan.code else "[yellow]warning[/]" if scan.warnings else "[green]ok[/]"
    return (
        escape(one_line(scan.path)),
        status,
        " x ".join(map(str, scan.shape or ())),
        " x ".join(f"{side:.3g}" for side in scan.spacing_mm or ()),
        escape(scan.orientation or ""),
    )

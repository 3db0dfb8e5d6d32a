"""Which scans can be used: asked before training or detection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import EXIT_ALL_FAILED, EXIT_SOME_FAILED, reports_errors
from mendscan.options import MaxMemoryOption, Nan, NanOption, scan_reader

__all__ = ["check"]


@app.command()
@reports_errors
def check(
    paths: Annotated[list[Path], typer.Argument(help="Scans, and folders of scans at any depth.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    max_memory: MaxMemoryOption = 4.0,
    nan: NanOption = Nan.refuse,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse scans whose place in the world is not certain.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Cores to use; all by default.")] = None,
) -> None:
    """Read every scan and say what is wrong or odd, all at once; nothing is written.

    Example: mendscan check new_scans --json
    """
    import json
    from contextlib import nullcontext

    from mendscan.console_check import show_checked, told_on_stderr
    from mendscan.console_progress import ConsoleProgress
    from mendscan.volumes.checking import check_scans

    reader = scan_reader(max_memory, nan, strict=strict)
    with told_on_stderr() if as_json else nullcontext(), ConsoleProgress() as progress:
        report = check_scans(paths, reader=reader, workers=workers, progress=progress)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2, sort_keys=True))
    else:
        show_checked(report)
    if report.failed:
        raise typer.Exit(EXIT_ALL_FAILED if report.failed == len(report.scans) else EXIT_SOME_FAILED)

"""The Medical Out-of-Distribution challenge (MOOD)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import reports_errors
from mendscan.options import SeedOption

__all__ = ["import_mood"]


@app.command("import-mood")
@reports_errors
def import_mood(
    archive: Annotated[Path, typer.Argument(help="brain_train.zip, abdom_train.zip, brain_toy.zip or abdom_toy.zip.")],
    folder: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder to write: train, holdout, toy. An interrupted import goes on."),
    ],
    holdout: Annotated[int, typer.Option(min=0, help="Training scans to keep apart, in the folder holdout.")] = 0,
    seed: SeedOption = 0,
) -> None:
    """Take scans and labels out of an archive of the MOOD challenge, each verified, ready to train and evaluate.

    Example: mendscan import-mood brain_train.zip -o mood/brain --holdout 20
    """
    from mendscan.cohort.mood import import_mood as run_import
    from mendscan.console import show_import
    from mendscan.console_progress import ConsoleProgress

    with ConsoleProgress() as progress:
        done = run_import(archive, folder, holdout=holdout, seed=seed, progress=progress)
    show_import(done)

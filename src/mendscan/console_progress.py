"""The terminal: progress bars, and nothing that moves, hides or colours what others wrote."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mendscan.texts import printable

__all__ = ["ConsoleProgress", "console"]


class _PrintableConsole(Console):
    """A terminal to which nothing is sent as it is that moves, colours, hides or turns what is shown.

    Names of scans and folders are others' words, and may hold escapes.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = _PrintableConsole(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 130)


@dataclass
class _Stage:
    """What is known of a stage that runs."""

    name: str
    total: int
    task: TaskID
    done: int
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def quarter(self) -> int:
        """How many quarters of it are done."""
        return 4 * self.done // max(1, self.total)


class ConsoleProgress:
    """Progress bars on a terminal; elsewhere, such as in a log file, a line for each quarter of a stage.

    Stages may run at once, each in a thread of its own.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("[bold]{task.description:<22}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[facts]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._of_thread = threading.local()

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        """Add a bar."""
        task = self._bars.add_task(stage, total=total, completed=done, rate="", facts="")
        self._of_thread.stage = _Stage(stage, total, task, done)

    def advance(self, units: int = 1, **facts: float) -> None:
        """Move the bar, and show the latest of each figure."""
        stage: _Stage | None = getattr(self._of_thread, "stage", None)
        if stage is None:
            return
        stage.facts |= facts
        quarter = stage.quarter
        stage.done += units
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in stage.facts.items())
        if self._bars.disable and stage.quarter > quarter:
            console.print(f"{stage.name:<22} {stage.done}/{stage.total}  {shown}", markup=False, soft_wrap=True)
        speed = next(task.speed for task in self._bars.tasks if task.id == stage.task)
        self._bars.update(stage.task, advance=units, facts=shown, rate=f"{speed:.1f}/s" if speed else "")

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(message, style="yellow", markup=False, soft_wrap=True)

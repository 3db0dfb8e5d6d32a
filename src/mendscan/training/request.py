"""What training is asked for: contradictions are refused before the work begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mendscan.config import PRESETS, assigned
from mendscan.errors import ModelError, SettingsError
from mendscan.training.workplace import is_started

__all__ = ["Budget", "check_request"]


class Budget(NamedTuple):
    """How long training was asked to go on: by time, by steps or by epochs, or by none of them."""

    minutes: float | None = None
    steps: int | None = None
    epochs: int | None = None


def check_request(folder: Path, preset: str, budget: Budget, assignments: Sequence[str], *, resume: bool) -> None:
    """Refuse what cannot be done.

    Args:
        folder: The model folder to write.
        preset: Where the settings come from.
        budget: How long to train.
        assignments: Settings as ``section.key=value``.
        resume: Whether a stopped training goes on.

    Raises:
        SettingsError: If the preset is unknown or the budget contradicts itself.
        ModelError: If the folder holds something else than expected.
    """
    if preset != "auto" and preset not in PRESETS:
        raise SettingsError("unknown preset", where=f"--preset {preset}", expected=f"auto, {', '.join(PRESETS)}")
    _check_budget(budget)
    if budget != Budget():
        _refuse_twice(assignments)
    if budget.epochs is not None:
        _check_epochs(budget.epochs, preset, resume=resume)
    _check_folder(folder, resume=resume)


def _check_budget(budget: Budget) -> None:
    minutes, steps, epochs = budget
    if minutes is not None and steps is not None:
        raise SettingsError("give either --minutes or --steps, not both", where="train")
    if epochs is not None and (minutes is not None or steps is not None):
        raise SettingsError("give --epochs, --minutes or --steps, not two of them", where="train")
    if (minutes is not None and not 0 < minutes < 1e6) or (steps is not None and steps < 2):
        found, expected = (minutes, "a positive number") if steps is None else (steps, "at least 2")
        raise SettingsError("no time to train", where="train", found=found, expected=expected)


def _refuse_twice(assignments: Sequence[str]) -> None:
    for key in assigned(assignments).keys() & {"training.steps", "training.epochs"}:
        raise SettingsError(
            "how long to train is given twice",
            where=f"--set {key}",
            remedy="give either the setting, or --minutes, --steps or --epochs",
        )


def _check_epochs(epochs: int, preset: str, *, resume: bool) -> None:
    if epochs < 1:
        raise SettingsError("no time to train", where=f"--epochs {epochs}", expected="a positive number")
    if preset == "auto" and not resume:
        raise SettingsError(
            "auto knows no epochs", where=f"--epochs {epochs}", remedy="give --minutes, or --preset brain or abdomen"
        )


def _check_folder(folder: Path, *, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ModelError("the model folder is a file", where=folder, remedy="name another folder")
    started = is_started(folder)
    if resume and (folder / "manifest.json").exists() and not (folder / "work").is_dir():
        raise ModelError("the training is complete", where=folder, code="E_EXISTS", remedy="there is nothing to resume")
    if resume and not (folder / "work").is_dir():
        raise ModelError("nothing to resume", where=folder, code="E_RESUME", remedy="train without --resume")
    if not resume and (folder / "manifest.json").exists():
        raise ModelError("there is a model already", where=folder, code="E_EXISTS", remedy="name another folder")
    if not resume and started:
        raise ModelError(
            "a stopped training is here", where=folder, code="E_EXISTS", remedy="add --resume, or name another folder"
        )

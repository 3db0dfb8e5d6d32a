"""The model folder while a training is at work in it: held by one, swept before, and left so that it can go on.

While a training goes on, ``work/`` in the model folder holds the plan, the prepared slices and the checkpoints.  It
leaves its name in one step when the model is complete, so that no half of it is ever taken for a stopped training.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from mendscan.cohort.held_folder import held_folder
from mendscan.errors import Interrupted, MendscanError, ModelError
from mendscan.strict_json import read_json
from mendscan.training.interrupts import StopRequest, stop_requests
from mendscan.volumes.locking import LOCK_NAME, locked
from mendscan.volumes.writing import make_folder, remove_leftovers, write_json

__all__ = [
    "Workplace",
    "clear_work",
    "close_work",
    "is_started",
    "new_model_folder",
    "read_plan",
    "sweep_finished",
    "workplace",
    "write_plan",
]

_PLAN = "plan.json"
_FINISHED = ".work-finished"


class Workplace(NamedTuple):
    """A held model folder.

    Attributes:
        work: Its folder for plan, prepared slices and checkpoints.
        stop: Whether someone asked to stop.
    """

    work: Path
    stop: StopRequest


def is_started(folder: Path) -> bool:
    """Return whether a training in this model folder has a plan to go on with."""
    return (folder / "work" / _PLAN).is_file()


@contextmanager
def workplace(folder: Path) -> Iterator[Workplace]:
    """Hold a model folder, made if need be, for as long as the block lasts.

    Args:
        folder: The model folder.

    Raises:
        WriteError: If another training is at work there (E_LOCKED), or it cannot be written to.
        Interrupted: In place of a `KeyboardInterrupt`; what was saved stays, and can be resumed.
    """
    new = [path for path in (folder / "work", folder) if not path.exists()]
    try:
        with stop_requests(prompt=True) as stop:
            make_folder(folder)
            with locked(folder, "training"):
                work = make_folder(folder / "work")
                for place in (folder, work):
                    remove_leftovers(place)
                yield Workplace(work, stop)
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped; what was saved before is intact",
            where=folder,
            remedy="go on with the same command and --resume",
        ) from None
    except MendscanError as error:
        if not isinstance(error, Interrupted):
            _remove_empty(new)
        raise


@contextmanager
def new_model_folder(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder that a model is written into in one go, made if need be, for as long as the block lasts.

    Args:
        folder: The model folder.
        work: What is done there, for the message to others.

    Raises:
        ModelError: If it is a file, or holds a model or a training (E_EXISTS).
        WriteError: If another run is at work there (E_LOCKED), or it cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ModelError("the model folder is a file", where=folder, remedy="name another folder")
    with held_folder(folder, work):
        if (folder / "manifest.json").exists() or (folder / "work").exists():
            raise ModelError("there is a model already", where=folder, code="E_EXISTS", remedy="name another folder")
        yield


def write_plan(work: Path, plan: dict[str, Any]) -> None:
    """Write what a resumed training goes by, with a digest.

    Raises:
        WriteError: If it cannot be written.
    """
    write_json(work / _PLAN, {"plan": plan, "sha256": _digest(plan)})


def read_plan(work: Path) -> dict[str, Any]:
    """Read what `write_plan` wrote.

    Raises:
        ModelError: If it is damaged.
    """
    path = work / _PLAN
    try:
        saved = read_json(path)
        plan = dict(saved["plan"])
        if saved["sha256"] != _digest(plan):
            raise ValueError("its digest is another")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "the plan of the stopped training is damaged",
            where=path,
            code="E_RESUME",
            found=error,
            remedy="train anew, in another folder",
        ) from None
    return plan


def clear_work(work: Path) -> None:
    """Remove what another training left behind, but for prepared slices, which know what they belong to."""
    for path in (*work.glob("*.safetensors"), work / _PLAN):
        path.unlink(missing_ok=True)
    (work.parent / "metrics.jsonl").unlink(missing_ok=True)


def close_work(folder: Path) -> None:
    """Remove the work folder of a finished training, and what a killed process left of one."""
    with suppress(OSError):
        (folder / "work").rename(folder / _FINISHED)
    shutil.rmtree(folder / _FINISHED, ignore_errors=True)


def sweep_finished(folder: Path) -> None:
    """Remove what a training that was killed at its very end left beside the complete model.

    Raises:
        WriteError: If it is not over yet (E_LOCKED), or the folder cannot be written to.
    """
    complete = (folder / "manifest.json").is_file() and not (folder / "work").exists()
    if complete and any((folder / name).exists() for name in (_FINISHED, LOCK_NAME)):
        with locked(folder, "training"):
            close_work(folder)


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()

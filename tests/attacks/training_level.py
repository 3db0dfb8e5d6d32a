# ruff: noqa: E501 - a row of the table is a line
"""Rows 70, 74 and 75: settings of another model, a training that goes on with other scans or settings, and its split."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np

import mendscan
from attacks.attack import Attack, Outcome, commanded
from attacks.model_level import honest, used
from mendscan.errors import Interrupted
from models.forging import with_config
from training.conftest import SMALL, write_phantoms
from training.test_trainer import StopAt


def settings_of(row: int, name: str, expected: str, change: Callable[[dict[str, Any]], Any]) -> Attack:
    """A model with other settings, given for detection."""

    def make(folder: Path) -> Path:
        with_config(honest(folder), lambda config: change(config["settings"]))
        return folder / "model"

    return Attack(row, name, expected, make, "", used)


def train(folder: Path, **options: Any) -> None:
    """Train on the scans of a folder, in this process."""
    with mock.patch("mendscan.parallel.available_cores", return_value=0):
        mendscan.train(folder / "scans", folder / "model", device="cpu", **options)


@functools.cache
def stopped_training() -> dict[str, bytes]:
    """The files of scans and of a training on them that was stopped at its second step."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_phantoms(folder / "scans", 8, seed=1)
        with suppress(Interrupted):
            train(folder, assignments=SMALL, steps=40, progress=StopAt("vqvae", 1))
        assert (folder / "model" / "work" / "plan.json").is_file()
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resumed(name: str, expected: str, change: Callable[[Path], object], **options: Any) -> Attack:
    """A stopped training that goes on after a change."""

    def make(folder: Path) -> Path:
        for path, content in stopped_training().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        change(folder)
        return folder

    return Attack(74, name, expected, make, "", lambda folder: train(folder, **({"resume": True} | options)))


def one_voxel(folder: Path) -> None:
    path = folder / "scans" / "scan03.nii.gz"
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[9, 9, 5] += 1
    nib.save(nib.Nifti1Image(voxels, image.affine), path)


def other_plan(folder: Path) -> None:
    path = folder / "model" / "work" / "plan.json"
    saved = json.loads(path.read_text())
    saved["plan"]["settings"]["seed"] += 1
    path.write_text(json.dumps(saved))


def same_scans(folder: Path) -> Path:
    """Six scans, each under three names."""
    paths = write_phantoms(folder / "scans", 6, seed=1)
    for path in paths:
        for copy in ("copy", "again"):
            path.with_name(f"{copy}-{path.name}").write_bytes(path.read_bytes())
    return folder


def trained_by_command(folder: Path) -> Outcome:
    with mock.patch("mendscan.parallel.available_cores", return_value=0):
        return commanded(["train", "-i", folder / "scans", "-o", folder / "model", "--steps", 40])


SETTINGS_LEVEL = (
    settings_of(70, "model with a setting of a later version", "E_SETTINGS", lambda settings: settings["prior"].update(heads=8)),
    settings_of(70, "model without a setting", "E_SETTINGS", lambda settings: settings.pop("vqvae")),
    settings_of(70, "model whose prior is for another number of codes", "E_MODEL_SHAPE", lambda settings: settings["vqvae"].update(codes=16)),
    settings_of(70, "model whose weights are of another preset", "E_MODEL_SHAPE", lambda settings: settings["prior"].update(channels=16)),
    settings_of(70, "model whose settings contradict each other", "E_SETTINGS", lambda settings: settings["preparation"].update(training_margin_slices=4)),
)  # fmt: skip
RESUME_LEVEL = (
    resumed("training resumed with a scan of which one voxel has changed", "E_RESUME_COHORT", one_voxel),
    resumed("training resumed with a scan missing", "E_RESUME_COHORT", lambda folder: (folder / "scans" / "scan03.nii.gz").unlink()),
    resumed("training resumed with a scan more", "E_RESUME_COHORT", lambda folder: write_phantoms(folder / "scans", 1, seed=9, prefix="more")),
    resumed("training resumed with another setting", "E_RESUME_SETTINGS", lambda _: None, assignments=("training.batch_slices=8",)),
    resumed("training resumed with another number of steps", "E_RESUME_SETTINGS", lambda _: None, steps=80),
    resumed("training resumed with another preset", "E_RESUME_SETTINGS", lambda _: None, preset="brain"),
    resumed("training resumed with another seed", "E_RESUME_SETTINGS", lambda _: None, seed=5),
    resumed("training resumed with a damaged plan", "E_RESUME", other_plan),
    resumed("training begun anew where a stopped one is", "E_EXISTS", lambda _: None, resume=False, steps=40),
    Attack(74, "training resumed where there is none", "E_RESUME", same_scans, "", lambda folder: train(folder, resume=True)),
)  # fmt: skip
SPLIT_LEVEL = (
    Attack(75, "training on six scans, each under three names", "exit 4", same_scans, "", trained_by_command),
)

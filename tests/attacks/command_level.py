# ruff: noqa: E501 - a row of the table is a line
"""Rows 69 to 76: settings and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from attacks.attack import Attack, Outcome, commanded
from attacks.file_level import below
from attacks.training_level import RESUME_LEVEL, SETTINGS_LEVEL, SPLIT_LEVEL
from mendscan.config import PRESETS
from mendscan.config.parsing import override, parse_settings


def setting(row: int, name: str, expected: str, assignment: str) -> Attack:
    return Attack(row, name, expected, lambda _: assignment, "", lambda text: override(PRESETS["brain"], [text]))


def parsed(section: str, key: str, value: object) -> object:
    values = PRESETS["brain"].model_dump(mode="json")
    values[section][key] = value
    return parse_settings(values, where="config.json")


def training(*options: object, scans: int = 1) -> Callable[[Path], list[object]]:
    """Arguments of a training on some scans."""

    def make(folder: Path) -> list[object]:
        below(folder / "scans", *(f"{k}.nii" for k in range(scans)))
        return ["train", "-i", folder / "scans", "-o", folder / "model", *options]

    return make


def onto_a_file(folder: Path) -> list[object]:
    (folder / "model").write_bytes(b"mine")
    return training("--steps", 90, scans=12)(folder)


def without_an_accelerator(arguments: list[object]) -> Outcome:
    with mock.patch("torch.cuda.is_available", return_value=False):
        return commanded(arguments)


def checking(*options: object) -> Callable[[Path], list[object]]:
    return lambda folder: ["check", below(folder, "scan.nii"), *options]


def in_another_locale(folder: Path) -> Outcome:
    """Run the command as a bare system does: no HOME, no language, a name in Cyrillic."""
    environment = {name: value for name, value in os.environ.items() if name not in {"HOME", "LANGUAGE"}}
    environment |= {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Tokyo"}
    program = [sys.executable, "-m", "mendscan", "check", folder / "скан.nii"]
    done = subprocess.run(program, env=environment, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    return Outcome(f"exit {done.returncode}" if done.returncode else "", done.stderr.decode("ascii", "replace"))


COMMAND_LEVEL = (
    setting(69, "setting misspelt", "E_SETTINGS", "training.learing_rate_vqvae=1e-4"),
    setting(69, "setting out of range", "E_SETTINGS", "training.batch_slices=0"),
    setting(69, "setting negative", "E_SETTINGS", "training.learning_rate_vqvae=-1"),
    setting(69, "setting NaN", "E_SETTINGS", "training.learning_rate_vqvae=nan"),
    setting(69, "setting in words", "E_SETTINGS", "training.batch_slices=many"),
    setting(69, "no assignment", "E_SETTINGS", "training.batch_slices"),
    Attack(69, "file: text for a number", "E_SETTINGS", lambda _: "1e-4", "", lambda v: parsed("training", "learning_rate_vqvae", v)),
    Attack(69, "file: true for a number", "E_SETTINGS", lambda _: True, "", lambda v: parsed("training", "batch_slices", v)),
    Attack(69, "file: unknown setting", "E_SETTINGS", lambda _: 1, "", lambda v: parsed("training", "learing_rate", v)),
    *SETTINGS_LEVEL,
    setting(70, "grid that the network cannot halve", "E_SETTINGS", "preparation.shape_XYZ=162,160,256"),
    setting(70, "margin as large as the scan", "E_SETTINGS", "preparation.training_margin_slices=128"),
    setting(70, "range of intensities that is none", "E_SETTINGS", "preparation.intensity_range=5,-5"),
    setting(70, "no scan left to train on", "E_SETTINGS", "training.validation_fraction=0.95"),
    Attack(71, "model to be written onto a file", "exit 2", onto_a_file, "", commanded),
    Attack(72, "--device cuda without one", "exit 2", training("--steps", 90, "--device", "cuda", scans=12), "", without_an_accelerator),
    Attack(72, "--device of no kind", "exit 2", training("--device", "quantum"), "", commanded),
    Attack(73, "--workers -1", "exit 2", checking("--workers", -1), "", commanded),
    Attack(73, "--workers 999", "", checking("--workers", 999), "no more are started than there is work and cores", commanded),
    *RESUME_LEVEL,
    Attack(75, "training on one scan", "exit 4", training("--steps", 90), "", commanded),
    *SPLIT_LEVEL,
    Attack(76, "no HOME, LANG=C, a name in Cyrillic", "", lambda folder: below(folder, "скан.nii"), "names are bytes; what a terminal cannot show is escaped", in_another_locale),
)  # fmt: skip

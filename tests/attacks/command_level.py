# ruff: noqa: E501 - a row of the table is a line
"""Rows 69 to 76: settings and the command line; models and the viewer have tests of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from attacks.attack import Attack, Elsewhere, Outcome, commanded
from attacks.file_level import below
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


MODELS = "models/test_bundle.py"
SERVER, SERVING = "viewer/test_server.py", "viewer/test_serving.py"

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
    Elsewhere(70, "settings of another model or that contradict each other", "E_SETTINGS", "test_config.py", "test_settings_that_contradict_each_other_are_refused"),
    Attack(71, "model to be written onto a file", "exit 2", onto_a_file, "", commanded),
    Attack(72, "--device cuda without one", "exit 2", training("--steps", 90, "--device", "cuda", scans=12), "", without_an_accelerator),
    Attack(72, "--device of no kind", "exit 2", training("--device", "quantum"), "", commanded),
    Attack(73, "--workers -1", "exit 2", checking("--workers", -1), "", commanded),
    Attack(73, "--workers 999", "", checking("--workers", 999), "no more are started than there is work and cores", commanded),
    Elsewhere(74, "training resumed with other scans", "E_SETTINGS", "training/test_trainer.py", "test_resuming_with_other_scans_is_refused"),
    Attack(75, "training on one scan", "exit 4", training("--steps", 90), "", commanded),
    Elsewhere(75, "a scan on both sides of the split", "never", "training/test_trainer.py", "test_the_split_shares_no_scan"),
    Attack(76, "no HOME, LANG=C, a name in Cyrillic", "", lambda folder: below(folder, "скан.nii"), "names are bytes; what a terminal cannot show is escaped", in_another_locale),
    Elsewhere(77, "model altered, cut, incomplete, mixed or of another version", "an error", MODELS, "test_an_altered_byte_is_refused"),
    Elsewhere(77, "pickle in place of weights, weights not finite or of another shape", "an error", MODELS, "test_a_pickle_in_place_of_the_weights_is_refused"),
    Elsewhere(78, "viewer: paths that lead out of the folder", "404", SERVER, "test_no_path_leads_out_of_what_is_served"),
    Elsewhere(79, "viewer: another host (DNS rebinding)", "403", SERVER, "test_another_host_is_refused"),
    Elsewhere(80, "viewer: another origin", "403", SERVER, "test_another_origin_is_refused_and_no_answer_can_be_shared"),
    Elsewhere(81, "viewer: silent or too many connections", "bounded", SERVER, "test_many_connections_are_bounded_and_do_not_stay"),
    Elsewhere(82, "viewer: numbers that are none", "an error", SERVER, "test_a_number_that_is_none_is_told_without_repeating_it"),
    Elsewhere(83, "viewer: scripts in names, line breaks in headers", "harmless", SERVER, "test_a_header_of_another_answer_cannot_be_made"),
    Elsewhere(84, "viewer: port taken", "exit 2", SERVING, "test_a_taken_port_is_told_and_the_default_gives_way"),
    Elsewhere(85, "viewer: other machines", "a token and a warning", SERVING, "test_another_address_prints_a_token_and_a_warning"),
    Elsewhere(86, "viewer: other methods, garbage", "an error", SERVER, "test_what_is_no_request_is_refused"),
    Elsewhere(87, "viewer: a request with a body", "an error", SERVER, "test_a_body_is_refused"),
)  # fmt: skip

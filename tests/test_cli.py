import logging
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from mendscan.cli import app, reporting, trials
from mendscan.console import show_detection
from mendscan.console_progress import console
from mendscan.evaluation import bootstrap
from mendscan.report.report import FINDINGS, MEGABYTES
from mendscan.workers import WorkerDied
from result_folders import detection, results_of

OPTIONS = {
    "train": {
        "input",
        "output",
        "preset",
        "minutes",
        "steps",
        "epochs",
        "seed",
        "device",
        "resume",
        "max-memory",
        "nan",
        "strict",
        "set",
        "debug",
        "help",
    },
    "detect": {
        "model",
        "input",
        "output",
        "restorations",
        "seed",
        "device",
        "maps",
        "no-maps",
        "workers",
        "timeout",
        "resume",
        "pseudonymise",
        "schedule",
        "scores",
        "precision",
        "false-positive-rate",
        "false-positives-per-scan",
        "strict",
        "max-memory",
        "nan",
        "dicom-out",
        "dicom-patient",
        "debug",
        "help",
    },
    "check": {"json", "max-memory", "nan", "strict", "workers", "debug", "help"},
    "report": {"input", "output", "findings", "scans", "max-megabytes", "debug", "help"},
    "import-original": {
        "prior",
        "vqvae",
        "output",
        "preset",
        "stem-padding",
        "no-stem-padding",
        "healthy",
        "device",
        "set",
        "debug",
        "help",
    },
    "verify": {"trusted", "json", "debug", "help"},
    "sign": {"key", "new-key", "debug", "help"},
    "view": {"input", "port", "host", "token", "open", "debug", "help"},
    "sample": {"model", "output", "number", "position", "seed", "temperature", "device", "debug", "help"},
    "evaluate": {
        "input",
        "labels",
        "output",
        "compare",
        "threshold",
        "resamples",
        "seed",
        "official",
        "debug",
        "help",
    },
    "simulate": {
        "input",
        "output",
        "local",
        "healthy",
        "artefacts",
        "per-scan",
        "radius-mm",
        "kind",
        "artefact",
        "seed",
        "workers",
        "debug",
        "help",
    },
    "benchmark": {
        "input",
        "output",
        "minutes",
        "steps",
        "baseline",
        "radius-mm",
        "set",
        "seed",
        "device",
        "debug",
        "help",
    },
    "demo": {"output", "minutes", "debug", "help"},
    "import-mood": {"output", "holdout", "seed", "debug", "help"},
    "mood-submission": {"model", "brain", "abdomen", "output", "debug", "help"},
    "mood-check": {"input", "output", "minutes-per-case", "debug", "help"},
    "mood-predict": {"mode", "model", "input", "output", "seed", "device", "workers", "debug", "help"},
}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands_are_these() -> None:
    assert set(get_command(app).commands) == set(OPTIONS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", OPTIONS)
def test_the_options_are_these(command: str) -> None:
    parameters = get_command(app).commands[command].params  # type: ignore[attr-defined]
    names = {n.removeprefix("--") for p in parameters for n in (*p.opts, *p.secondary_opts) if n.startswith("--")}
    assert names | {"help"} == OPTIONS[command]


@pytest.mark.parametrize("command", OPTIONS)
def test_help_has_an_example(command: str) -> None:
    shown = run(command, "-h")
    assert shown.exit_code == 0
    assert f"Example: mendscan {command}" in re.sub(r"\s+", " ", shown.output)


def test_version_says_research_use_only() -> None:
    assert "research use only" in run("--version").output


@pytest.mark.parametrize("command", ["train", "detect", "simulate", "benchmark"])
def test_an_output_among_the_inputs_is_refused(tmp_path, command) -> None:
    (tmp_path / "scan.nii").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path)
    model = ["-m", tmp_path] if command == "detect" else []
    for output in (tmp_path, tmp_path / "deep" / "er", tmp_path / "link" / "out"):
        shown = run(command, "-i", tmp_path, "-o", output, *model)
        assert shown.exit_code == 2
        assert "would lie among the inputs" in re.sub(r"\s+", " ", shown.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "scan.nii"]


@pytest.mark.parametrize("command", ["detect", "simulate"])
def test_inputs_that_the_output_would_overwrite_are_refused(tmp_path, command) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "scan.nii").write_bytes(b"x")
    model = ["-m", tmp_path] if command == "detect" else []
    for scans in (tmp_path / "scans", tmp_path / "scans" / "scan.nii"):
        shown = run(command, "-i", scans, "-o", tmp_path, *model)
        assert shown.exit_code == 2
        assert "would overwrite the inputs" in re.sub(r"\s+", " ", shown.output)
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_no_scans_is_one_line_and_exit_4(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    shown = run("train", "-i", tmp_path / "empty", "-o", tmp_path / "model")
    assert shown.exit_code == 4
    assert "error:" in shown.output
    assert "Traceback" not in shown.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--minutes", "1", "--steps", "5"], "either --minutes or --steps"),
        (["--epochs", "5"], "auto knows no epochs"),
        (["--preset", "brain", "--epochs", "5", "--steps", "5"], "--epochs, --minutes or --steps"),
        (["--preset", "brain", "--epochs", "5", "--minutes", "5"], "--epochs, --minutes or --steps"),
        (["--preset", "brain", "--epochs", "0"], "no time to train"),
        (["--preset", "brain", "--epochs", "5", "--set", "training.steps=5"], "given twice"),
        (["--minutes", "0"], "no time to train"),
        (["--steps", "0"], "no time to train"),
        (["--steps", "5", "--set", "training.epochs=5"], "given twice"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_contradictions_are_told_before_any_work(tmp_path, arguments, words) -> None:
    (tmp_path / "scans").mkdir()
    shown = run("train", "-i", tmp_path / "scans", "-o", tmp_path / "model", *arguments)
    assert shown.exit_code == 2
    assert words in re.sub(r"\s+", " ", shown.output)


def test_a_folder_that_is_no_model_is_refused(tmp_path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"x")
    shown = run("detect", "-m", tmp_path, "-i", tmp_path / "scan.nii", "-o", tmp_path / "results")
    assert shown.exit_code == 2
    assert "not a complete model" in re.sub(r"\s+", " ", shown.output)


def test_evaluating_a_folder_without_results_is_refused(tmp_path) -> None:
    (tmp_path / "labels" / "sample").mkdir(parents=True)
    (tmp_path / "labels" / "sample" / "a.nii.gz.txt").write_text("1")
    shown = run("evaluate", "-i", tmp_path, "-l", tmp_path / "labels")
    assert shown.exit_code == 2
    assert "no maps and no scores" in re.sub(r"\s+", " ", shown.output)


def test_the_command_resamples_as_the_library_does() -> None:
    assert trials.RESAMPLES == bootstrap.RESAMPLES  # the command cannot import it: its help would wait for numpy


def test_the_command_reports_as_the_library_does() -> None:
    assert (reporting.FINDINGS, reporting.MEGABYTES) == (FINDINGS, MEGABYTES)


def test_detection_says_how_its_results_can_be_seen() -> None:
    with console.capture() as shown:
        show_detection([], Path("my results"))
    assert "see it: mendscan report -i 'my results'" in shown.get()


def test_the_report_says_what_it_wrote_and_what_it_does_not_picture(tmp_path) -> None:
    (tmp_path / "results").mkdir()
    results_of(tmp_path / "results", detection("a", p_value=0.05), detection("b", p_value=0.5), failed=("c",))
    (tmp_path / "results" / "maps" / "a.nii.gz").unlink()
    shown = run("report", "-i", tmp_path / "results", "-o", tmp_path / "page.html", "--scans", "1")
    assert shown.exit_code == 0, shown.output
    words = re.sub(r"\s+", " ", shown.output)
    assert "not pictured: a: no map in the folder" in words
    assert "not everything is pictured: the 1 least likely of 2 scans" in words
    assert "0 of 3 scans pictured" in words
    assert {path.name for path in tmp_path.iterdir()} - {"results"} == {
        "page.html",
        "page.json",
        "page-scans.csv",
        "page-findings.csv",
    }


@pytest.mark.parametrize("option", [["-o", "out"], ["--compare", "x"], ["--threshold", "0.5"], ["--seed", "3"]])
def test_official_figures_take_no_other_option(tmp_path, option) -> None:
    shown = run("evaluate", "-i", tmp_path, "-l", tmp_path, "--official", *option)
    assert shown.exit_code == 2
    assert "rules of its own" in re.sub(r"[\s│]+", " ", shown.output)


def test_names_are_printed_as_they_are(tmp_path) -> None:
    folder = tmp_path / "a [/b] [red]"
    for place in (folder, tmp_path / "labels", tmp_path / "other"):
        place.mkdir(parents=True)
        for case in range(2):
            values = np.full((4, 4, 4), case, np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), place / f"c{case}.nii.gz")
    rows = "case,kind,lesion\nc1,[/x] $a$,1\n"
    (tmp_path / "labels" / "anomalies.csv").write_text(rows)
    out = tmp_path / "out"
    shown = run(
        "evaluate", "-i", tmp_path / "other", "-l", tmp_path / "labels", "--compare", folder, "-o", out,
        "--resamples", "5",
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert "[/x] $a$" in shown.output
    assert (out / "evaluation.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\x9b31mb", "a\u202egnp", "a\rb", "a\x07:smile:", "caf\udcff"])
def test_no_name_moves_colours_hides_or_turns_what_is_shown(tmp_path, monkeypatch, name) -> None:
    """Neither what commands print, nor their log."""
    folder = tmp_path / name
    results_of(folder, detection(f"{name} one", p_value=0.05), failed=(f"{name} two",))
    (folder / "maps" / f"{name} one.nii.gz").write_bytes(b"no map")
    report = run("report", "-i", folder, "-o", folder / "page.html")
    (folder / "scans" / "other.hdr").write_bytes(b"a format that is not read")
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr("mendscan.parallel.available_cores", lambda: 0)
    training = run("train", "-i", folder / "scans", "-o", tmp_path / "model")
    with console.capture() as shown:
        show_detection([detection(name, p_value=0.1).score_row()], folder)
    assert (report.exit_code, training.exit_code) == (0, 4)
    assert "not pictured" in report.output
    assert "WARNING: " in training.output
    for output in (report.output, training.output, shown.get()):
        assert "smile" in output or "smile" not in name
        assert all(character.isprintable() or character == "\n" for character in output), ascii(output)


@pytest.mark.parametrize("amount", ["inf", "nan"])
def test_an_amount_of_memory_is_a_number(tmp_path, amount) -> None:
    shown = run("check", tmp_path, "--max-memory", amount)
    assert shown.exit_code == 2
    assert "Traceback" not in shown.output


@pytest.mark.parametrize("error", [MemoryError(), WorkerDied("ended by signal 9")])
def test_a_machine_that_is_too_small_is_no_traceback(tmp_path, monkeypatch, error) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mendscan.training.trainer.train", fails)
    monkeypatch.setattr("mendscan.train", fails, raising=False)
    shown = run("train", "-i", tmp_path / "scans", "-o", tmp_path / "model")
    assert shown.exit_code == 4
    assert "machine with more memory" in re.sub(r"\s+", " ", shown.output)

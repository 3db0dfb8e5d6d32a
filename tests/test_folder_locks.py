"""No two commands fill one folder at the same time: the second is refused, exit 2, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cohort.conftest import structured_scan, write_scan
from detection.conftest import calibration, detector, model_folder, networks  # noqa: F401
from mendscan.cli import app
from mendscan.cohort.held_folder import held_folder
from mendscan.cohort.simulation import simulate_cohort
from mendscan.errors import ModelError, WriteError
from mendscan.training.calibrating import recalibrate
from mendscan.volumes.locking import LOCK_NAME, locked
from mood_archives import training_members, write_zip
from submission.conftest import models, submission, toys, write_model  # noqa: F401

ARGUMENTS = {
    "train": "-i {scans}",
    "detect": "-m {model} -i {scans} --device cpu",
    "import-original": "--prior {anything}",
    "evaluate": "-i {maps} -l {maps}",
    "simulate": "-i {scans}",
    "benchmark": "-i {scans}",
    "demo": "",
    "import-mood": "{archive}",
    "mood-submission": "--brain {brain}",
    "mood-check": "{submission} -i {toys}",
}
"""How each command that fills a folder is called, but for ``-o FOLDER``."""
ONE_FILE = {"sample", "report"}
"""A picture; a page with three tables, made in memory and written at the end, beside which other reports may lie."""
NEVER_REFUSED = {"mood-predict"}
"""What the challenge's container runs: a scan without a prediction counts as zeros, so no lock may come in its way."""


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory,
    model_folder: Path,  # noqa: F811
    models: dict[str, Path],  # noqa: F811
    submission: Path,  # noqa: F811
    toys: Path,  # noqa: F811
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("scans", "maps"):
        (folder / name).mkdir()
    for seed in range(8):
        write_scan(folder / "scans" / f"s{seed}.nii.gz", structured_scan(seed))
    write_scan(folder / "maps" / "a.nii.gz", structured_scan(0))
    archive = write_zip(folder / "brain_train.zip", training_members({"00000": np.ones((4, 4, 4), np.float32)}))
    names = {"scans": folder / "scans", "maps": folder / "maps", "anything": archive, "archive": archive}
    return names | {"model": model_folder, "brain": models["brain"], "submission": submission, "toys": toys}


def test_every_command_that_writes_is_known() -> None:
    commands = get_command(app).commands.items()
    writing = {name for name, command in commands if any("--output" in each.opts for each in command.params)}
    assert writing == set(ARGUMENTS) | ONE_FILE | NEVER_REFUSED


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_folder_in_which_another_run_is_at_work_is_refused(
    command: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [word.format(**inputs) for word in ARGUMENTS[command].split()]
    with locked(tmp_path, "something else"):
        result = CliRunner().invoke(app, [command, *arguments, "-o", str(tmp_path)])
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
    said = re.sub(r"\s+", " ", result.output)
    assert result.exit_code == 2, said
    assert "another run is at work in this folder (found process" in said
    assert "something else" in said


@pytest.mark.parametrize("fill", [partial(simulate_cohort, n=1, seed=0), partial(recalibrate, "model", "healthy")])
def test_so_it_is_in_python(fill: Callable[[Path], object], tmp_path: Path) -> None:
    with locked(tmp_path, "mine"), pytest.raises(WriteError) as caught:
        fill(tmp_path)
    assert caught.value.code == "E_LOCKED"


def test_no_model_is_made_where_a_training_was_stopped(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(ModelError) as caught:
        recalibrate("model", "healthy", tmp_path)
    assert caught.value.code == "E_EXISTS"


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), held_folder(tmp_path / "new" / "deep", "mine"):
        raise ValueError("refused")
    with held_folder(tmp_path / "used", "mine"):
        (tmp_path / "used" / "file").write_text("")
    (tmp_path / "old").mkdir()
    with held_folder(tmp_path / "old", "mine"):
        pass
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["old", "used", "used/file"]

"""A training as a whole: other runs in its folder, full disks, damage to what it left; on scans of a few voxels."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import mendscan
from mendscan import parallel
from mendscan.errors import Interrupted, MendscanError, ModelError, WriteError
from mendscan.training import run as run_module
from mendscan.volumes.locking import LOCK_NAME, locked
from training.conftest import write_phantoms

SETTINGS = (
    "vqvae.channels=8,8",
    "vqvae.codes=8",
    "prior.channels=8",
    "prior.value_channels=8",
    "prior.blocks=1",
    "discriminator.channels=4,8",
    "discriminator.batch_scans=1",
    "discriminator.members=1",
    "training.batch_slices=8",
    "training.prior_views=1",
    "training.choose_detection=false",
    "training.precision=float32",
    "detection.calibration_restorations=1",
)


class StopIn:
    """Asks to stop when a stage begins."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        if stage == self.stage:
            os.kill(os.getpid(), 15)

    def advance(self, units: int = 1, **facts: float) -> None:
        pass

    def say(self, message: str) -> None:
        pass


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in this process, and save every step."""
    monkeypatch.setattr(parallel, "available_cores", lambda: 0)
    monkeypatch.setattr(run_module, "_SAVE_EVERY_SECONDS", -1.0)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    write_phantoms(folder, 8, seed=0)
    return folder


def train(scans: Path, model: Path, **options: object) -> None:
    mendscan.train(scans, model, **{"steps": 9, "device": "cpu", "assignments": SETTINGS} | options)


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def whole(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models") / "whole"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parallel, "available_cores", lambda: 0)
        train(scans, folder)
    return contents(folder)


def test_two_trainings_in_one_folder_are_refused(scans: Path, tmp_path: Path) -> None:
    with locked(tmp_path, "training"), pytest.raises(WriteError, match=f"process {os.getpid()}") as caught:
        train(scans, tmp_path)
    assert caught.value.code == "E_LOCKED"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def fail_to_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the disk be full for files whose names begin so."""
    replace = os.replace

    def fail(name: str) -> None:
        def replace_or_fail(source: Path, target: Path) -> None:
            if Path(target).name.startswith(name):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(source, target)

        monkeypatch.setattr(os, "replace", replace_or_fail)

    return fail


def test_stopped_in_any_stage_and_failing_at_any_write_it_goes_on(
    scans: Path, tmp_path: Path, whole: dict[str, str], fail_to_write: Callable[[str], None]
) -> None:
    model = tmp_path / "model"

    def attempt(**options: object) -> None:
        train(scans, model, resume=(model / "work").exists(), **options)

    for stage, write in (
        ("measure", "slices-"),
        ("prepare", "plan.json"),
        ("encode", "prior-"),
        ("score healthy scans", "manifest.json"),
    ):
        fail_to_write("nothing")
        with pytest.raises(Interrupted, match="--resume"):
            attempt(progress=StopIn(stage))
        fail_to_write(write)
        with pytest.raises(WriteError, match=f"{write}.*MB free"):
            attempt()
        assert not [path for path in model.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
    fail_to_write("nothing")
    attempt()
    assert contents(model) == whole


def test_a_damaged_plan_is_not_followed(scans: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    with pytest.raises(Interrupted):
        train(scans, model, progress=StopIn("vqvae"))
    plan = model / "work" / "plan.json"
    plan.write_text(plan.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ModelError, match="plan of the stopped training is damaged") as caught:
        train(scans, model, resume=True)
    assert caught.value.code == "E_RESUME"


def test_what_a_kill_at_the_very_end_leaves_is_swept(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / LOCK_NAME).write_text("{}")
    (tmp_path / ".work-finished").mkdir()
    (tmp_path / ".work-finished" / "plan.json").write_text("{}")
    with pytest.raises(ModelError, match="the training is complete"):
        train(scans, tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_failure_before_any_work_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MendscanError):
        train(tmp_path / "empty", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_said_before_any_work(scans: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied"):
        train(scans, tmp_path / "model")
    tmp_path.chmod(0o700)

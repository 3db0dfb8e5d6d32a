import hashlib
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import mendscan
from mendscan.errors import CohortError, Interrupted, ModelError, SettingsError
from mendscan.training.interrupts import StopRequest
from training.conftest import SMALL, write_phantoms


class StopAt(threading.local):
    """Progress that asks to stop when a stage has taken so many steps; stages side by side count for themselves."""

    def __init__(self, stage: str, step: int) -> None:
        self.wanted, self.step = stage, step
        self.stage, self.done, self.said = "", 0, []

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        self.stage, self.done = stage, done

    def advance(self, units: int = 1, **facts: float) -> None:
        self.done += units
        if self.stage == self.wanted and self.done == self.step:
            os.kill(os.getpid(), 15)
            # The signal is another thread's; small networks would be through before it wakes.
            time.sleep(0.5)

    def say(self, message: str) -> None:
        self.said.append(message)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def train(healthy: Path, model: Path, **options):
    arguments = {"steps": 40, "device": "cpu"} | options
    return mendscan.train(healthy, model, **arguments)


@pytest.fixture(scope="module")
def model(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    train(healthy, folder, assignments=SMALL)
    return folder


def test_the_model_folder_holds_what_it_should(model: Path) -> None:
    assert set(digests(model)) == {
        "README.md",
        "calibration.json",
        "config.json",
        "curves.png",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
        "plan.json",
        "split.json",
    }
    assert not (model / "work").exists()
    assert "Research use only" in (model / "README.md").read_text()


def test_nothing_in_the_model_names_a_scan_or_a_folder(model: Path, healthy: Path) -> None:
    for path in model.iterdir():
        content = path.read_bytes()
        assert str(healthy).encode() not in content
        assert b"scan0" not in content


def test_the_same_seed_gives_the_same_bytes(model: Path, healthy: Path, tmp_path: Path) -> None:
    train(healthy, tmp_path / "again", assignments=SMALL)
    assert digests(tmp_path / "again") == digests(model)


@pytest.mark.slow
def test_another_seed_gives_another_model(model: Path, healthy: Path, tmp_path: Path) -> None:
    train(healthy, tmp_path / "other", assignments=SMALL, seed=1)
    assert digests(tmp_path / "other")["model.safetensors"] != digests(model)["model.safetensors"]


@pytest.mark.slow  # test_faults.py stops a training in every stage, too
@pytest.mark.parametrize(("stage", "step"), [("vqvae", 1), ("vqvae", 4), ("prior", 5), ("discriminator-2", 7)])
def test_stopped_and_resumed_equals_uninterrupted(
    model: Path, healthy: Path, tmp_path: Path, stage: str, step: int
) -> None:
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="resume"):
        train(healthy, folder, assignments=SMALL, progress=StopAt(stage, step))
    assert not (folder / "manifest.json").exists()
    with pytest.raises(SettingsError, match="keeps its settings"):
        train(healthy, folder, steps=41, resume=True)
    train(healthy, folder, assignments=SMALL, resume=True)
    assert digests(folder) == digests(model)


def test_a_time_is_turned_into_steps_that_repeat_the_run(healthy: Path, tmp_path: Path) -> None:
    timed = train(healthy, tmp_path / "timed", assignments=SMALL, steps=None, minutes=0.02)
    steps = json.loads((tmp_path / "timed" / "config.json").read_text())["settings"]["training"]["steps"]
    assert steps == timed.figures["steps"]
    train(healthy, tmp_path / "repeated", assignments=SMALL, steps=steps)
    assert digests(tmp_path / "repeated") == digests(tmp_path / "timed")


def test_the_split_shares_no_scan(model: Path) -> None:
    split = json.loads((model / "split.json").read_text())
    parts = [set(split[name]) for name in ("train", "validation", "calibration")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 16


def test_a_model_is_not_overwritten(model: Path, healthy: Path) -> None:
    with pytest.raises(ModelError, match="there is a model already"):
        train(healthy, model)


def test_resuming_with_other_scans_is_refused(healthy: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(healthy, tmp_path / "model", assignments=SMALL, progress=StopAt("vqvae", 2))
    write_phantoms(tmp_path / "others", 10, seed=9)
    with pytest.raises(CohortError, match="not the scans"):
        train(tmp_path / "others", tmp_path / "model", steps=None, resume=True)


def test_too_few_scans_are_refused(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "few", 3, seed=0)
    with pytest.raises(CohortError, match="too few"):
        train(tmp_path / "few", tmp_path / "model")


def test_unusable_scans_are_left_out_and_named(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "scans", 9, seed=0)
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no")
    progress = StopAt("never", 0)
    train(tmp_path / "scans", tmp_path / "model", assignments=SMALL, steps=10, progress=progress)
    assert any("broken.nii.gz" in line for line in progress.said)


def test_a_second_request_stops_at_once() -> None:
    request = StopRequest()
    request(2, None)
    with pytest.raises(KeyboardInterrupt):
        request(2, None)


@pytest.mark.slow
def test_presets_train_at_the_papers_shapes(healthy: Path, tmp_path: Path) -> None:
    """One step of each network at the paper's 160×160 pixels; few slices and codes' worth of scans keep it short."""
    settings = (
        "preparation.shape_XYZ=160,160,8",
        "preparation.training_margin_slices=1",
        "preparation.scored_slices=2",
        "training.batch_slices=1",
        "training.prior_views=1",
        "detection.calibration_restorations=1",
    )
    train(healthy, tmp_path / "brain", preset="brain", assignments=settings, steps=2)
    detection = mendscan.Detector.load(tmp_path / "brain").detect(
        (np.random.default_rng(0).random((20, 20, 12), dtype=np.float32), np.eye(4)), restorations=1
    )
    assert detection.anomaly_map is not None
    assert detection.anomaly_map.shape == (20, 20, 12)

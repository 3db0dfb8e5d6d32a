"""From the challenge's archives to a checked submission, by the commands that an entrant types."""

import json
import re
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from mendscan.cli import app
from mood_archives import ToyCase, toy_archive, training_archive
from training.conftest import SMALL, phantom


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return re.sub(r"\s+", " ", done.output)


def challenge_scan(seed: int) -> np.ndarray:
    """A phantom with values in [0, 1], as the challenge's scans have."""
    voxels = phantom(np.random.default_rng([9, seed]))
    low, high = voxels.min(), voxels.max()
    return ((voxels - low) / (high - low)).astype(np.float32)


def test_from_the_archives_to_a_checked_submission(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    scans = {f"{number:05d}": challenge_scan(number) for number in range(12)}
    toys = {}
    for number in range(3):
        voxels, label = challenge_scan(100 + number), np.zeros((20, 24, 12), np.uint8)
        if number < 2:
            label[8:12, 9:14, 4:8] = 1
            voxels[label > 0] = 1.0 - voxels[label > 0]
        toys[f"toy_{number}"] = ToyCase(voxels, label)
    training_archive(tmp_path / "brain_train.zip", scans, affine=affine)
    toy_archive(tmp_path / "brain_toy.zip", toys, affine=affine)

    brain = tmp_path / "mood" / "brain"
    run("import-mood", tmp_path / "brain_train.zip", "-o", brain, "--holdout", 2)
    run("import-mood", tmp_path / "brain_toy.zip", "-o", brain)
    settings = [word for setting in SMALL for word in ("--set", setting)]
    run("train", "-i", brain / "train", "-o", tmp_path / "model", "--steps", 40, "--device", "cpu", *settings)
    run("mood-submission", "--brain", tmp_path / "model", "-o", tmp_path / "submission")
    said = run("mood-check", tmp_path / "submission", "-i", tmp_path / "mood", "-o", tmp_path / "kept")

    assert "PASS" in said
    assert "FAIL" not in said
    split = json.loads((tmp_path / "model" / "split.json").read_text())
    assert sum(map(len, split.values())) == 10, "the hold-out was trained on"
    kept = {path.relative_to(tmp_path / "kept").as_posix() for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert kept == {
        *(f"brain/pixel/toy_{number}.nii.gz" for number in range(3)),
        *(f"brain/sample/toy_{number}.nii.gz.txt" for number in range(3)),
    }
    # The same predictions by the same rules, outside of the check.
    figures = run("evaluate", "--official", "-i", tmp_path / "kept" / "brain" / "pixel", "-l", brain / "toy" / "labels")
    assert re.findall(r"\b0\.\d{3,}", figures)[0] in said

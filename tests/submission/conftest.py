"""Tiny models that say which anatomy they are for, toy cases as the challenge lays them out, and a submission."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from detection.conftest import calibration, detector, model_folder, networks, write_scan  # noqa: F401
from mendscan.detection.calibration import Calibration
from mendscan.detection.networks import Networks
from mendscan.submission.building import write_submission
from mendscan.submission.challenge import Anatomy
from tiny_model import OBLIQUE, head, save_model

SHAPES = {"brain": (18, 14, 11), "abdom": (16, 15, 12)}
N_CASES = 3

WriteModel = Callable[[str], Path]


def write_toy(base: Path, shape: tuple[int, int, int], *, seed: int) -> None:
    """Three cases, the first two with a blob."""
    for name in ("toy", "toy_label/pixel", "toy_label/sample"):
        (base / name).mkdir(parents=True)
    for number in range(N_CASES):
        voxels, label = head(seed + number, shape).astype(np.float32), np.zeros(shape, np.uint8)
        if number < 2:
            voxels[5:9, 5:9, 4:8] = 3000
            label[5:9, 5:9, 4:8] = 1
        name = f"toy_{number}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, OBLIQUE), base / "toy" / name)
        nib.save(nib.Nifti1Image(label, OBLIQUE), base / "toy_label" / "pixel" / name)
        (base / "toy_label" / "sample" / f"{name}.txt").write_text(str(int(number < 2)))


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toys")
    for seed, (anatomy, shape) in enumerate(SHAPES.items()):
        write_toy(root / anatomy, shape, seed=10 * seed)
    return root


@pytest.fixture(scope="session")
def write_model(
    tmp_path_factory: pytest.TempPathFactory,
    networks: Networks,  # noqa: F811
    calibration: Calibration,  # noqa: F811
) -> WriteModel:
    """Write the tiny model as if it were trained with a preset."""

    def write(preset: str) -> Path:
        folder = tmp_path_factory.mktemp(f"model-{preset}")
        settings = networks.settings.model_copy(update={"preset": preset})
        save_model(folder, replace(networks, settings=settings), calibration)
        return folder

    return write


@pytest.fixture(scope="session")
def models(write_model: WriteModel) -> dict[Anatomy, Path]:
    return {"brain": write_model("brain"), "abdom": write_model("abdomen")}


@pytest.fixture(scope="session")
def submission(tmp_path_factory: pytest.TempPathFactory, models: dict[Anatomy, Path]) -> Path:
    """Not to be changed; `copied_submission` may be."""
    return write_submission(models, tmp_path_factory.mktemp("submission") / "both").folder


@pytest.fixture
def copied_submission(submission: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(submission, tmp_path / "submission"))

"""A tiny model, and scans for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.config import Settings
from mendscan.detection.calibration import Calibration
from mendscan.detection.detector import Detector
from mendscan.detection.networks import Networks
from tiny_model import OBLIQUE, calibration_of, head, random_networks, save_model

WriteScan = Callable[..., Path]


@pytest.fixture(scope="session")
def write_scan() -> WriteScan:
    def write(
        folder: Path, name: str, *, seed: int = 0, affine: np.ndarray = OBLIQUE, voxels: np.ndarray | None = None
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(head(seed) if voxels is None else voxels, affine), path)
        return path

    return write


@pytest.fixture(scope="session")
def networks(tiny_settings: Settings) -> Networks:
    return random_networks(tiny_settings)


@pytest.fixture(scope="session")
def calibration(networks: Networks) -> Calibration:
    return calibration_of(networks)


@pytest.fixture(scope="session")
def detector(networks: Networks, calibration: Calibration) -> Detector:
    return Detector(networks, calibration, model_hash="0" * 64)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, networks: Networks, calibration: Calibration) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, networks, calibration)
    return folder

"""A small cohort of healthy phantoms, split and prepared, and its settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.baselines.healthy import HealthyCohort
from mendscan.cohort.preparing import Prepared, prepare
from mendscan.cohort.store import split_by_content
from mendscan.config import Settings, parse_settings
from mendscan.volumes.grid import resized_grid
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import volume_from_array
from staying_here import no_worker_processes  # noqa: F401
from training.conftest import phantom, write_phantoms

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
BLOB = (slice(8, 12), slice(6, 10), slice(4, 8))
"""Where `with_blob` plants a bright cube, in voxels of a phantom."""

SETTINGS = {
    "preset": "tiny",
    "preparation": {"shape_XYZ": (20, 24, 12), "fit": "resize", "intensity": "robust", "background_below": 0.15},
    "augmentation": {"flip": False, "clip_sigma": 8.0},
    "vqvae": {
        "channels": (16, 16),
        "stem_kernel": 4,
        "stem_stride": 2,
        "down_kernel": 4,
        "up_kernel": 4,
        "blocks_per_level": 1,
        "norm": "group",
        "codes": 16,
    },
    "codebook": {"update": "ema", "commitment": 0.25, "revive_below": 0.03, "unquantised_fraction": 0.12},
    "prior": {"channels": 8, "blocks": 1, "layers_per_block": 1, "attention_downsampling": 1},
    "training": {
        "batch_slices": 16,
        "optimiser": "adamw",
        "learning_rate_vqvae": 2e-3,
        "schedule": "one-cycle",
        "clip": "norm",
        "validation_fraction": 0.125,
        "calibration_fraction": 0.25,
    },
}
"""As `auto` would plan it, only smaller: two levels down to a 5×6 grid of 16 codes."""


@pytest.fixture(scope="session")
def settings() -> Settings:
    return parse_settings(SETTINGS, where="test")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sixteen scans by content hash."""
    paths = write_phantoms(tmp_path_factory.mktemp("baselines") / "healthy", 16, seed=0)
    return {read_volume(path).content_hash: path for path in paths}


@pytest.fixture(scope="session")
def cohort(files: dict[str, Path], settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> HealthyCohort:
    split = split_by_content(list(files), settings)
    work = tmp_path_factory.mktemp("prepared")
    return HealthyCohort.of_files(files, settings, split, work, device="cpu")


@pytest.fixture
def new_scan(settings: Settings) -> Callable[..., Prepared]:
    """Prepare a phantom that is not in the cohort, with a bright cube of so many healthy spreads or without."""

    def prepared(*, blob: float = 0.0) -> Prepared:
        voxels = phantom(np.random.default_rng(99)).astype(np.float32)
        voxels[BLOB] += np.float32(blob * voxels.std())
        return prepare(volume_from_array(voxels, AFFINE, name="new"), settings.preparation)

    return prepared


def blob_SHW() -> tuple[slice, slice, slice]:
    """Return `BLOB` on the model grid of `SETTINGS`, which is the phantom's own, slices first."""
    return BLOB[2], BLOB[0], BLOB[1]


def prepared_array(slices_SHW: np.ndarray, foreground_SHW: np.ndarray | None = None) -> Prepared:
    """Return an array as if it were a prepared scan."""
    slices, height, width = slices_SHW.shape
    inside = np.ones(slices_SHW.shape, bool) if foreground_SHW is None else foreground_SHW
    grid = resized_grid((height, width, slices), (height, width, slices))
    return Prepared(np.ascontiguousarray(slices_SHW, dtype=np.float32), inside, grid, "Z", 1.0)


def save_scan(path: Path, voxels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), AFFINE), path)
    return path

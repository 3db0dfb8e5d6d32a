"""A cohort of phantoms: an ellipsoid with a bright core, differently placed, scaled and stored."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from staying_here import no_worker_processes  # noqa: F401


def phantom(rng: np.random.Generator, shape: tuple[int, int, int] = (20, 24, 12)) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    radius = np.array([0.8, 0.75, 0.9]) * rng.uniform(0.93, 1.07, 3)
    centre = rng.normal(0, 0.02, 3)
    distance = np.linalg.norm((grid - centre[:, None, None, None]) / radius[:, None, None, None], axis=0)
    body = 1 / (1 + np.exp((distance - 1) * 12)) + 0.6 / (1 + np.exp((distance - 0.45) * 12))
    return (body + rng.normal(0, 0.03, shape)) * 10 ** rng.uniform(1, 4)


def write_phantoms(folder: Path, count: int, *, seed: int, prefix: str = "scan") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        voxels = phantom(rng).astype(np.float32)
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        if number % 2:
            voxels, affine = voxels[::-1], affine @ np.diag([-1.0, 1, 1, 1])
        paths.append(folder / f"{prefix}{number:02d}.nii.gz")
        nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), affine), paths[-1])
    return paths


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    write_phantoms(folder, 16, seed=0)
    return folder


SMALL = (
    "vqvae.channels=16,16",
    "vqvae.codes=16",
    "prior.channels=16",
    "prior.value_channels=16",
    "prior.blocks=1",
    "discriminator.channels=8,16",
    "discriminator.batch_scans=2",
    "discriminator.members=2",
    "training.batch_slices=16",
    "training.prior_views=2",
    "detection.calibration_restorations=2",
    "training.precision=float32",
)
"""Settings of a network that trains in seconds."""

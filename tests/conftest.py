"""For every test: one thread, run-time shape checks on request (JAXTYPING=1), and the settings of a tiny model."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch starts, here and in worker processes

if os.environ.get("JAXTYPING"):
    from jaxtyping import install_import_hook

    install_import_hook("mendscan", "beartype.beartype")

import pytest

from mendscan.config import DetectionSettings, PreparationSettings, PriorSettings, Settings, VqvaeSettings

collect_ignore_glob = ["conftest.py", "*/conftest.py"]
"""No doctest is sought in these: as modules they would all have the same name."""


@pytest.fixture(scope="session")
def tiny_settings() -> Settings:
    """A 16×16×8 grid, 8 axial slices, two levels down to 4×4 codes, 12 codes, and the standardised map."""
    return Settings(
        preset="tiny",
        preparation=PreparationSettings(shape_XYZ=(16, 16, 8), fit="resize", intensity="robust"),
        vqvae=VqvaeSettings(channels=(8, 8, 12), stem_kernel=3, blocks_per_level=1, norm="group", codes=12),
        prior=PriorSettings(channels=8, blocks=2, layers_per_block=1, key_channels=4, value_channels=8),
        detection=DetectionSettings(
            voxel_map="standardised", restorations=4, residual_sigma=1.0, nll_sigma=1.0, threshold_quantile=0.95
        ),
    )

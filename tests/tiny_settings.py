"""Settings of a tiny model; importing them needs no torch."""

from __future__ import annotations

from mendscan.config import DetectionSettings, PreparationSettings, PriorSettings, Settings, VqvaeSettings

SETTINGS = Settings(
    preset="tiny",
    preparation=PreparationSettings(shape_XYZ=(16, 16, 8), fit="resize", intensity="robust"),
    vqvae=VqvaeSettings(channels=(8, 8, 12), stem_kernel=3, blocks_per_level=1, norm="group", codes=12),
    prior=PriorSettings(channels=8, blocks=2, layers_per_block=1, key_channels=4, value_channels=8),
    detection=DetectionSettings(
        voxel_map="standardised", restorations=4, residual_sigma=1.0, nll_sigma=1.0, threshold_quantile=0.95
    ),
)
"""A 16×16×8 grid, 8 axial slices, two levels down to 4×4 codes, 12 codes, and the standardised map."""

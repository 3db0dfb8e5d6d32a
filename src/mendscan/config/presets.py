"""The settings of the paper's two experiments."""

from __future__ import annotations

from mendscan.config.settings import (
    AugmentationSettings,
    PreparationSettings,
    PriorSettings,
    Settings,
    VqvaeSettings,
)

__all__ = ["PRESETS"]

PRESETS: dict[str, Settings] = {
    "brain": Settings(
        preset="brain",
        preparation=PreparationSettings(
            shape_XYZ=(160, 160, 256),
            fit="resize",
            intensity="foreground",
            training_margin_slices=20,
            scored_slices=32,
        ),
        augmentation=AugmentationSettings(keep_zero=True),
        vqvae=VqvaeSettings(channels=(16, 32, 64, 256)),
    ),
    "abdomen": Settings(
        preset="abdomen",
        preparation=PreparationSettings(shape_XYZ=(160, 160, 256), fit="resize", intensity="range", scored_slices=32),
        vqvae=VqvaeSettings(channels=(16, 32, 64, 128, 256)),
        prior=PriorSettings(attention_downsampling=1),
    ),
}
"""Method for method what Naval Marimont & Tarroni (ISBI 2021, arXiv 2012.06765) describe."""

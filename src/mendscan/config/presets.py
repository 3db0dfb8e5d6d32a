"""The settings of the paper's two experiments."""

from __future__ import annotations

from mendscan.config.settings import (
    AugmentationSettings,
    PreparationSettings,
    PriorSettings,
    Settings,
    TrainingSettings,
    VqvaeSettings,
)

__all__ = ["PRESETS"]

_TRAINING = TrainingSettings(epochs=600, slices_per_scan=8, vqvae_share=0.5, prior_views=None)
"""600 passes for either network, each over 8 random slices of every scan, augmented anew every time."""

PRESETS: dict[str, Settings] = {
    "brain": Settings(
        preset="brain",
        preparation=PreparationSettings(
            shape_XYZ=(160, 160, 256),
            fit="resize",
            slice_view="image",
            intensity="foreground",
            training_margin_slices=20,
            scored_slices=32,
        ),
        augmentation=AugmentationSettings(keep_zero=True),
        vqvae=VqvaeSettings(channels=(16, 32, 64, 256), second_norm="after", dropout=0.1),
        training=_TRAINING,
    ),
    "abdomen": Settings(
        preset="abdomen",
        preparation=PreparationSettings(
            shape_XYZ=(160, 160, 256), fit="resize", slice_view="image", intensity="range", scored_slices=32
        ),
        vqvae=VqvaeSettings(channels=(16, 32, 64, 128, 256), second_norm="after", dropout=0.1),
        prior=PriorSettings(first_kernel=3, attention_downsampling=1),
        training=_TRAINING,
    ),
}
"""Method for method what Naval Marimont & Tarroni (ISBI 2021, arXiv 2012.06765) describe and their code does; every
constant, and where we differ on purpose, is in docs/paper-settings.md."""

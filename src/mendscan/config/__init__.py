"""Every setting of mendscan, frozen and saved inside each model.

No bare number decides a result: it is a setting here, with its unit, source and default, or it is learnt from healthy
scans.  `settings` and `detection_settings` say what they are, `presets` what the paper's are, `parsing` how they are
read and changed.
`docs/settings.md` lists them all.
"""

from __future__ import annotations

from mendscan.config.detection_settings import DetectionSettings
from mendscan.config.parsing import assigned, override, parse_settings
from mendscan.config.presets import PRESETS
from mendscan.config.settings import (
    AugmentationSettings,
    CodebookSettings,
    DiscriminatorSettings,
    PreparationSettings,
    PriorSettings,
    Settings,
    TrainingSettings,
    VqvaeSettings,
)

__all__ = [
    "PRESETS",
    "AugmentationSettings",
    "CodebookSettings",
    "DetectionSettings",
    "DiscriminatorSettings",
    "PreparationSettings",
    "PriorSettings",
    "Settings",
    "TrainingSettings",
    "VqvaeSettings",
    "assigned",
    "override",
    "parse_settings",
]

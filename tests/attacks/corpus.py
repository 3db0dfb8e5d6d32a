"""All bad inputs, in the order of the catalogue."""

from __future__ import annotations

from attacks.attack import Attack, Elsewhere
from attacks.command_level import COMMAND_LEVEL
from attacks.dicom_and_zip_level import DICOM_LEVEL, ZIP_LEVEL
from attacks.file_level import FILE_LEVEL
from attacks.header_level import HEADER_LEVEL
from attacks.model_level import MODEL_LEVEL
from attacks.name_level import NAME_LEVEL
from attacks.voxel_level import VOXEL_LEVEL
from attacks.web_level import WEB_LEVEL

CATALOGUE: tuple[Attack | Elsewhere, ...] = (
    *sorted((*FILE_LEVEL, *NAME_LEVEL), key=lambda attack: attack.row),
    *HEADER_LEVEL,
    *VOXEL_LEVEL,
    *DICOM_LEVEL,
    *ZIP_LEVEL,
    *COMMAND_LEVEL,
    *MODEL_LEVEL,
    *WEB_LEVEL,
)
CORPUS = tuple(row for row in CATALOGUE if isinstance(row, Attack))
ELSEWHERE = tuple(row for row in CATALOGUE if isinstance(row, Elsewhere))

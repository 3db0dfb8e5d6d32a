"""All bad inputs, in the order of the catalogue."""

from __future__ import annotations

from attacks.file_level import FILE_LEVEL
from attacks.header_level import HEADER_LEVEL

CORPUS = (*FILE_LEVEL, *HEADER_LEVEL)

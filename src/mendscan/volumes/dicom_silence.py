"""pydicom and highdicom quote values in what they warn of and log, and with them patients; here they are not heard."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quoting_silenced"]

_QUOTING = ("pydicom", "highdicom")


@contextmanager
def quoting_silenced() -> Iterator[None]:
    """Keep the DICOM libraries' warnings and log messages from being shown while the block runs."""
    loggers = [logging.getLogger(name) for name in _QUOTING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""For every test: one thread, run-time shape checks on request (JAXTYPING=1), and the settings of a tiny model."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch starts, here and in worker processes

if os.environ.get("JAXTYPING"):
    from jaxtyping import install_import_hook

    install_import_hook("mendscan", "beartype.beartype")

import pytest

from mendscan.config import Settings
from tiny_settings import SETTINGS

collect_ignore_glob = ["conftest.py", "*/conftest.py"]
"""No doctest is sought in these: as modules they would all have the same name."""


@pytest.fixture(scope="session")
def tiny_settings() -> Settings:
    return SETTINGS

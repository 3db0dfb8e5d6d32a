"""A viewer over small results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from viewer.asking import Ask, asking
from viewer_results import build_results, viewer_over


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_results(tmp_path_factory.mktemp("viewed") / "results")


@pytest.fixture(scope="session")
def port(results: Path) -> Iterator[int]:
    with viewer_over(results) as port:
        yield port


@pytest.fixture(scope="session")
def ask(port: int) -> Ask:
    return asking(port)

"""Work shared out to threads is told of where the progress bar listens."""

from __future__ import annotations

import threading

import pytest

from mendscan.parallel import each_in_threads


@pytest.mark.parametrize("workers", [1, 3])
def test_each_result_is_told_of_in_this_thread(workers: int) -> None:
    told: list[threading.Thread] = []
    found = each_in_threads(
        lambda n: n * n,
        [(n,) for n in range(7)],
        workers=workers,
        after_each=lambda: told.append(threading.current_thread()),
    )
    assert found == [n * n for n in range(7)]
    assert told == [threading.current_thread()] * 7

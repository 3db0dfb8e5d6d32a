"""For tests that train many small models: no worker processes, whose start takes longer than what they do there.

That scans are measured and prepared by processes is shown by the tests of `cohort`, `workers` and the end-to-end run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_worker_processes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mendscan.parallel.available_cores", lambda: 0)
        yield

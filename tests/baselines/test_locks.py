"""Two trainings, savings or preparations of baselines never work in one folder at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mendscan.baselines.fitting import fit_baseline
from mendscan.baselines.healthy import HealthyCohort
from mendscan.baselines.positional import fit_atlas
from mendscan.baselines.saving import save_baseline
from mendscan.baselines.training import Budget, training_folder
from mendscan.errors import WriteError
from mendscan.volumes.locking import LOCK_NAME, locked


def refused(work: Callable[[], object], folder: Path) -> None:
    with locked(folder, "something else"):
        with pytest.raises(WriteError) as caught:
            work()
        assert [path.name for path in folder.iterdir()] == [LOCK_NAME]
    assert caught.value.code == "E_LOCKED"


def test_training(cohort: HealthyCohort, tmp_path: Path) -> None:
    where = training_folder(tmp_path)
    refused(lambda: fit_baseline("vae", cohort, Budget(steps=1), where), where.work)


def test_saving(cohort: HealthyCohort, tmp_path: Path) -> None:
    refused(lambda: save_baseline(tmp_path, fit_atlas(cohort), cohort.settings), tmp_path)


def test_preparing(cohort: HealthyCohort, files: Mapping[str, Path], tmp_path: Path) -> None:
    refused(lambda: HealthyCohort.of_files(files, cohort.settings, cohort.split, tmp_path, device="cpu"), tmp_path)

"""The small cohort and the small model of the notebooks: simulated, seeded, made within minutes.

Coarse brains, few steps: enough to see how everything works, too little to judge the method by.
"""

from __future__ import annotations

from pathlib import Path

from mendscan.cohort.labelled_cohort import LabelledCohort, write_labelled_cohort
from mendscan.cohort.labelled_reading import read_labelled_cohort
from mendscan.cohort.simulation import simulate_cohort
from mendscan.progress import Progress

__all__ = ["tutorial_cohort", "tutorial_model"]

HEALTHY, TESTED, ANOMALOUS = 40, 10, 6
SPACINGS_MM = ((5.0, 5.0, 5.0), (4.5, 5.0, 5.0), (5.0, 4.5, 5.0), (5.0, 5.0, 4.5))
RADIUS_MM = (14.0, 22.0)
ASSIGNMENTS = (
    "training.batch_slices=24",
    "training.prior_views=2",
    "training.discriminator_share=0.5",
    "discriminator.batch_scans=3",
)
"""Smaller steps and more of them than the plan would take: the budget is a minute or two."""


def tutorial_cohort(folder: str | Path, *, seed: int = 0) -> tuple[Path, LabelledCohort]:
    """Return the folder of healthy brains and the labelled test cohort, simulated unless they are there.

    Args:
        folder: Gets ``healthy`` and ``test``.
        seed: Seed of both.

    Raises:
        SettingsError: If nilearn, whose wheel has the template, is not installed.
        WriteError: If something cannot be written.
    """
    healthy, test = Path(folder) / "healthy", Path(folder) / "test"
    if not (test / "cases.csv").is_file():
        simulate_cohort(healthy, n=HEALTHY, seed=seed, spacings_mm=SPACINGS_MM)
        unseen = simulate_cohort(
            Path(folder) / "unchanged", n=TESTED, seed=seed + 1, spacings_mm=SPACINGS_MM, prefix="case"
        )
        write_labelled_cohort(unseen, test, seed=seed, anomalous=ANOMALOUS, per_scan=(1, 2), radius_mm=RADIUS_MM)
    return healthy, read_labelled_cohort(test)


def tutorial_model(folder: str | Path, *, steps: int, seed: int = 0, progress: Progress | None = None) -> Path:
    """Return the model folder of the tutorial's cohort, trained unless there is a model.

    Args:
        folder: As for `tutorial_cohort`; gets ``model``.
        steps: Steps of all networks together; a model that is there is taken whatever its steps were.
        seed: Seed of training.
        progress: Told how far the training is.

    Raises:
        MendscanError: As `mendscan.train`.
    """
    from mendscan.training.trainer import train

    model = Path(folder) / "model"
    if not (model / "manifest.json").is_file():
        healthy, _ = tutorial_cohort(folder, seed=seed)
        resume = (model / "work" / "plan.json").is_file()
        train(healthy, model, steps=steps, seed=seed, resume=resume, assignments=ASSIGNMENTS, progress=progress)
    return model

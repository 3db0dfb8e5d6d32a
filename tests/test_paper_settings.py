"""docs/paper-settings.md names settings that exist, with the values that the presets have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mendscan.config import PRESETS
from test_config import as_text, value_of

PAGE = (Path(__file__).parents[1] / "docs" / "paper-settings.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| [^|]+ \| `([a-z_]+\.\w+)` \| ([^|]+) \| ([^|]+) \|", PAGE, flags=re.MULTILINE)
NOT_THE_PAPERS = {
    "preparation.spacing_mm": "for fit=resample only",
    "preparation.planes": "for the standardised map only",
    "prior.context_slices": "for the standardised map only",
    "codebook.decay": "use is followed, but moves no code",
    "training.steps": "follows from epochs",
    "training.validation_fraction": "of the deviations",
    "training.calibration_fraction": "of the deviations",
    "training.choose_detection": "for the standardised map only",
    "detection.evidence": "for the standardised map only",
    "detection.residual_sigma": "for the standardised map only",
    "detection.nll_sigma": "for the standardised map only",
    "detection.nll_shifts": "for the standardised map only",
    "detection.nll_level": "for the standardised map only",
    "detection.texture_sigma": "for the standardised map only",
    "detection.discriminator_sigma": "for the standardised map only",
    "detection.voxel_aspect_SHW": "for the standardised map only",
    "detection.calibration_restorations": "calibration of the map, which the paper has not",
    "detection.scan_top_share": "for the score in parts only",
    "detection.threshold_quantile": "calibration of the map, which the paper has not",
}


@pytest.mark.parametrize(("setting", "brain", "abdomen"), ROWS, ids=[row[0] for row in ROWS])
def test_the_page_says_what_the_presets_do(setting: str, brain: str, abdomen: str) -> None:
    assert as_text(value_of(PRESETS["brain"], setting)) == brain
    assert as_text(value_of(PRESETS["abdomen"], setting)) == abdomen


def test_every_constant_is_there_once() -> None:
    named = [setting for setting, _, _ in ROWS]
    assert len(named) == len(set(named))
    sections = ("preparation", "augmentation", "vqvae", "codebook", "prior", "training", "detection")
    every = {
        f"{section}.{key}" for section in sections for key in type(getattr(PRESETS["brain"], section)).model_fields
    }
    assert set(named) == every - set(NOT_THE_PAPERS)


def test_every_row_with_a_setting_was_read() -> None:
    assert len(ROWS) == len(re.findall(r"^\|[^|]*\| `", PAGE, flags=re.MULTILINE)) > 60


def test_every_deviation_has_its_reason() -> None:
    rows = [
        line.strip("| ").split(" | ") for line in PAGE.partition("## Where we differ")[2].splitlines() if "| " in line
    ]
    assert len(rows) > 15
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)

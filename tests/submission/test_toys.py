"""Toy cases are found as the challenge lays them out, and as an import does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mendscan.errors import ResultsError
from mendscan.submission.challenge import Anatomy
from mendscan.submission.toys import find_toy


@pytest.mark.parametrize(
    ("anatomy", "scans", "labels"),
    [
        ("brain", "brain/toy", "brain/toy_label"),
        ("abdom", "abdom/toy", "abdom/toy_label"),
        ("abdom", "colon/toy", "colon/toy_label"),
        ("abdom", "abdomen/toy/scans", "abdomen/toy/labels"),
        ("brain", "brain/toy/scans", "brain/toy/labels"),
        ("brain", "brain/scans", "brain/labels"),
    ],
)
def test_layouts(tmp_path: Path, anatomy: Anatomy, scans: str, labels: str) -> None:
    (tmp_path / scans).mkdir(parents=True)
    (tmp_path / labels / "pixel").mkdir(parents=True)
    toy = find_toy(tmp_path, anatomy, only_one=False)
    assert (toy.scans, toy.labels) == (tmp_path / scans, tmp_path / labels)
    assert toy.labels_of("pixel") == tmp_path / labels / "pixel"
    assert toy.labels_of("sample") is None


@pytest.mark.parametrize("scans", ["toy", "toy/scans", "scans"])
def test_a_single_anatomy_needs_no_folder_of_its_own(tmp_path: Path, scans: str) -> None:
    (tmp_path / scans).mkdir(parents=True)
    assert find_toy(tmp_path, "abdom", only_one=True).scans == tmp_path / scans
    with pytest.raises(ResultsError, match="no toy cases for abdom"):
        find_toy(tmp_path, "abdom", only_one=False)

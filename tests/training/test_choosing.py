"""Settings of detection are chosen on validation scans, by anomalies made for choosing."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mendscan
from mendscan.cohort.selection_cases import with_selection_anomalies
from mendscan.cohort.store import measure_cohort
from mendscan.config import override
from mendscan.detection.networks import Networks
from mendscan.models.bundle import load_bundle
from mendscan.progress import Silent
from mendscan.training import choosing
from mendscan.training.calibrating import _scans_by_content
from mendscan.training.choosing import CANDIDATES, _clearly_best, choose_detection
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume
from training.conftest import SMALL

THIRDS = (*SMALL, "training.calibration_fraction=0.3", "training.validation_fraction=0.3")


@pytest.fixture(scope="module", autouse=True)
def few_cases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_CASES", 8)
        yield


@pytest.fixture(scope="module")
def model(few_cases: None, healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "chosen"
    mendscan.train(healthy, folder, assignments=THIRDS, steps=40, device="cpu")
    return folder


@pytest.fixture(scope="module")
def networks(model: Path) -> Networks:
    bundle = load_bundle(model)
    return Networks.of(bundle.networks, bundle.settings, device=torch.device("cpu"))


def parts(model: Path, healthy: Path) -> dict[str, list[Path]]:
    split = json.loads((model / "split.json").read_text())
    named = {"healthy": "calibration", "validation": "validation"}
    paths, facts = measure_cohort(find_scans(healthy), Silent())
    return {name: _scans_by_content(paths, facts, split[part], where=healthy) for name, part in named.items()}


def test_the_plan_says_what_was_chosen_and_why(model: Path) -> None:
    plan = json.loads((model / "plan.json").read_text())
    decided = {decision["setting"]: decision for decision in plan["decisions"]}
    assert len(decided) == len(plan["decisions"]), "a setting is decided twice"
    evidence = decided["detection.evidence"]
    assert evidence["value"] == ", ".join(plan["settings"]["detection"]["evidence"])
    assert "validation cases" in evidence["reason"]
    for candidate in CANDIDATES["evidence"]:
        assert ", ".join(candidate) in evidence["value"] + evidence["reason"]
    assert json.loads((model / "config.json").read_text())["settings"] == plan["settings"]


def test_a_better_candidate_is_taken(networks: Networks, model: Path, healthy: Path) -> None:
    """Forty steps teach the networks little, but texture needs no network."""
    blind = replace(networks, settings=override(networks.settings, ["detection.evidence=nll"]))
    chosen = choose_detection(blind, **parts(model, healthy), progress=Silent())
    assert "texture" in chosen.settings.evidence


def test_what_the_user_has_set_stays(networks: Networks, model: Path, healthy: Path) -> None:
    blind = replace(networks, settings=override(networks.settings, ["detection.evidence=nll"]))
    fixed = frozenset({"detection.evidence"})
    chosen = choose_detection(blind, **parts(model, healthy), fixed=fixed, progress=Silent())
    assert chosen.settings.evidence == ("nll",)
    assert [decision.setting for decision in chosen.decisions] == ["detection.nll_sigma"]


def test_choosing_repeats_itself(networks: Networks, model: Path, healthy: Path) -> None:
    first, second = (choose_detection(networks, **parts(model, healthy), progress=Silent()) for _ in range(2))
    assert first == second


def test_few_scans_choose_nothing(networks: Networks, model: Path, healthy: Path) -> None:
    few = {name: paths[:3] for name, paths in parts(model, healthy).items()}
    assert choose_detection(networks, **few, progress=Silent()) == (networks.settings.detection, ())


def test_a_value_must_be_clearly_better() -> None:
    rng = np.random.default_rng(0)
    planned = rng.uniform(0.2, 0.6, 24)
    by_chance = planned + rng.normal(0.0, 0.1, 24)
    by_chance += 0.005 - (by_chance - planned).mean()
    assert _clearly_best({1.0: planned, 2.0: by_chance}, planned=1.0) == 1.0
    assert _clearly_best({1.0: planned, 2.0: by_chance + 0.1}, planned=1.0) == 2.0
    assert _clearly_best({1.0: planned, 2.0: planned - 0.1}, planned=1.0) == 1.0


def test_anomalies_for_choosing_are_where_the_label_says(healthy: Path) -> None:
    volume = read_volume(find_scans(healthy)[0])
    altered, label_XYZ = with_selection_anomalies(volume, count=3, turn=1, rng=np.random.default_rng(0))
    changed_XYZ = altered.voxels_XYZ != volume.voxels_XYZ
    assert 0 < label_XYZ.mean() < 0.3
    assert changed_XYZ[label_XYZ].mean() > 0.5
    assert (changed_XYZ & ~label_XYZ).sum() < 2 * label_XYZ.sum(), "only a soft edge lies outside"
    assert (altered.affine == volume.affine).all()


@pytest.mark.parametrize(
    "assignments",
    [["detection.evidence=residual,nll"], ["detection.voxel_map=residual", "detection.scan_score=paper"]],
)
def test_a_map_that_needs_restorations_is_not_chosen(
    networks: Networks, model: Path, healthy: Path, assignments: list[str]
) -> None:
    asked = replace(networks, settings=override(networks.settings, assignments))
    assert choose_detection(asked, **parts(model, healthy), progress=Silent()) == (asked.settings.detection, ())


def test_without_a_discriminator_none_is_tried(networks: Networks, model: Path, healthy: Path) -> None:
    settings = override(networks.settings, ["detection.evidence=nll", "training.discriminator_share=0"])
    alone = replace(networks, settings=settings, discriminator=None)
    chosen = choose_detection(alone, **parts(model, healthy), progress=Silent())
    assert chosen.settings.evidence == ("nll",)
    assert "detection.evidence" in [decision.setting for decision in chosen.decisions]

"""Settings: refused in words, frozen, true to the paper, and all of them documented."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mendscan.cohort.fingerprint import Fingerprint
from mendscan.cohort.plan_context import with_context
from mendscan.cohort.plan_planes import with_two_planes
from mendscan.cohort.planning import plan_auto
from mendscan.config import (
    PRESETS,
    AugmentationSettings,
    CodebookSettings,
    DetectionSettings,
    DiscriminatorSettings,
    PreparationSettings,
    PriorSettings,
    Settings,
    TrainingSettings,
    VqvaeSettings,
    override,
    parse_settings,
)
from mendscan.errors import SettingsError

BRAIN, ABDOMEN = PRESETS["brain"], PRESETS["abdomen"]
DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"
SECTIONS = {
    "preparation": PreparationSettings,
    "augmentation": AugmentationSettings,
    "vqvae": VqvaeSettings,
    "codebook": CodebookSettings,
    "prior": PriorSettings,
    "discriminator": DiscriminatorSettings,
    "training": TrainingSettings,
    "detection": DetectionSettings,
}


def saved(settings: Settings = BRAIN, **changes: Any) -> dict[str, Any]:
    """The JSON of settings, with changes such as ``training__clip="norm"``."""
    values = json.loads(json.dumps(settings.model_dump(mode="json")))
    for name, value in changes.items():
        *sections, key = name.split("__")
        target = values
        for section in sections:
            target = target[section]
        target[key] = value
    return values


def refusal(values: dict[str, Any]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse_settings(values, where="model/settings.json")
    return caught.value


# Reading settings


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_come_back_from_their_json(preset: str) -> None:
    assert parse_settings(saved(PRESETS[preset]), where="x") == PRESETS[preset]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("detection__restoration", "restorations"),
        ("training__batch_slice", "batch_slices"),
        ("preparation__shape_xyz", "shape_XYZ"),
        ("vqave", "vqvae"),
    ],
)
def test_unknown_key_names_the_file_the_key_and_the_nearest_key(wrong: str, near: str) -> None:
    error = refusal(saved(**{wrong: 3}))
    assert error.where == f"model/settings.json: {wrong.replace('__', '.')}"
    assert error.remedy == f"did you mean '{near}'?"
    assert error.code == "E_SETTINGS"


def test_a_key_like_no_other_points_to_the_document() -> None:
    assert refusal(saved(zzzzqqqq=1)).remedy == "see docs/settings.md"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training__batch_slices", "many"),
        ("training__batch_slices", 0),
        ("training__batch_slices", 2.5),
        ("training__steps", -1),
        ("training__optimiser", "sgd"),
        ("training__learning_rate_prior", 0.0),
        ("training__learning_rate_vqvae", "nan"),
        ("training__weight_decay", -0.1),
        ("training__clip_at", 0),
        ("training", 3),
        ("training", None),
        ("preparation__slice_axis", "x"),
        ("preparation__shape_XYZ", [160, 160]),
        ("preparation__shape_XYZ", [160, 160, 0]),
        ("preparation__spacing_mm", [1.0, -1.0, 1.0]),
        ("preparation__spacing_mm", 2.0),
        ("preparation__scored_slices", 0),
        ("preparation__background_below", 1.5),
        ("augmentation__flip", "perhaps"),
        ("augmentation__noise", -0.1),
        ("augmentation__rotation_degrees", float("inf")),
        ("augmentation__clip_sigma", 0.0),
        ("vqvae__channels", []),
        ("vqvae__stem_stride", 3),
        ("prior__dropout", 1.01),
        ("detection__score_percentile", 100),
        ("detection__score_percentile", 0),
        ("detection__temperature", -1.0),
        ("detection__mean_pool_SHW", [3, 7]),
        ("seed", "one"),
    ],
)
def test_wrong_value_is_refused_and_named(key: str, value: object) -> None:
    assert key.replace("__", ".") in refusal(saved(**{key: value})).where


def test_what_was_found_is_said_and_kept_short() -> None:
    assert refusal(saved(training__clip="x")).found == "'x'"
    assert len(str(refusal(saved(training__clip="x" * 10_000)))) < 300


def test_a_missing_section_is_named() -> None:
    values = saved()
    del values["vqvae"]
    error = refusal(values)
    assert "vqvae" in error.where
    assert "required" in error.problem
    assert error.found is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"preparation__shape_XYZ": [162, 160, 256]}, "not divisible by the network's down-sampling"),
        ({"preparation__shape_XYZ": [168, 168, 256]}, "not divisible by prior.attention_downsampling"),
        ({"vqvae__stem_padding": False, "vqvae__channels": [16, 32, 64]}, "loses positions of the latent grid"),
        ({"vqvae__stem_padding": False, "vqvae__down_kernel": 4}, "loses positions of the latent grid"),
        ({"preparation__fit": "resample"}, "spacing_mm is missing"),
        ({"preparation__training_margin_slices": 128}, "leaves no slice to train on"),
        ({"preparation__intensity_range": [1.0, 1.0]}, "intensity_range is no range"),
        ({"preparation__intensity_range": [5.0, -5.0]}, "intensity_range is no range"),
        ({"augmentation__scale_range": [1.1, 0.9]}, "scale_range is no range"),
        ({"augmentation__scale_range": [0.0, 1.0]}, "scale_range is no range"),
        ({"training__validation_fraction": 0.5, "training__calibration_fraction": 0.5}, "leave no scan to train on"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], problem: str) -> None:
    error = refusal(saved(**changes))
    assert problem in error.problem
    assert error.where == "model/settings.json"


@pytest.mark.parametrize(
    "changes",
    [
        {"preparation__shape_XYZ": [176, 160, 5], "preparation__training_margin_slices": 2},
        {"preparation__slice_axis": "X", "preparation__shape_XYZ": [41, 160, 64]},
        {"preparation__fit": "resample", "preparation__spacing_mm": [1, 1, 2.5]},
        {"vqvae__stem_padding": False},
        {"vqvae__stem_padding": False, "vqvae__stem_kernel": 3, "vqvae__channels": [16, 32, 64]},
        {"preparation__shape_XYZ": [168, 168, 256], "prior__attention_downsampling": 1},
        {"augmentation__scale_range": [1.0, 1.0]},
        {"training__validation_fraction": 0.5, "training__calibration_fraction": 0.4},
    ],
)
def test_what_only_just_fits_is_accepted(changes: dict[str, Any]) -> None:
    assert saved(parse_settings(saved(**changes), where="x")) == saved(**changes)


def test_shapes_follow_the_slice_axis() -> None:
    along = {
        axis: override(BRAIN, ["preparation.shape_XYZ=64,80,96", f"preparation.slice_axis={axis}"]) for axis in "XYZ"
    }
    assert {axis: (s.slices, s.slice_shape) for axis, s in along.items()} == {
        "X": (64, (96, 80)),
        "Y": (80, (96, 64)),
        "Z": (96, (80, 64)),
    }
    assert along["X"].latent_shape == (12, 10)


# Frozen


def test_settings_are_frozen_at_every_depth() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BRAIN.seed = 1  # type: ignore[misc]
    for section in SECTIONS:
        part = getattr(BRAIN, section)
        key = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, key, getattr(part, key))


# --set


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("seed=7", 7),
        ("training.batch_slices=8", 8),
        ("training.steps=none", None),
        ("training.steps=NULL", None),
        ("training.learning_rate_prior=3e-4", 3e-4),
        ("training.clip = norm", "norm"),
        ("preparation.shape_XYZ=64,80,96", (64, 80, 96)),
        ("preparation.shape_XYZ=(64, 80, 96)", (64, 80, 96)),
        ("preparation.shape_XYZ=[64,80,96]", (64, 80, 96)),
        ("preparation.spacing_mm=1.5,2,2.5", (1.5, 2.0, 2.5)),
        ("preparation.intensity_range=-160,240", (-160.0, 240.0)),
        ("preparation.scored_slices=None", None),
        ("vqvae.channels=8,", (8,)),
        ("vqvae.stem_stride=2", 2),
        ("prior.attention_kernel=3", 3),
        ("preset=mine", "mine"),
        ("augmentation.flip=false", False),
        ("augmentation.keep_zero=True", True),
    ],
)
def test_override_sets_the_value_and_nothing_else(assignment: str, value: object) -> None:
    start = override(BRAIN, ["training.steps=100", "training.batch_slices=3", "augmentation.keep_zero=false"])
    start = override(start, ["prior.attention_downsampling=1"])  # so that any latent grid is accepted
    changed = override(start, [assignment])
    key = assignment.partition("=")[0].strip()
    *sections, last = key.split(".")
    holder = getattr(changed, sections[0]) if sections else changed
    assert getattr(holder, last) == value
    assert type(getattr(holder, last)) is type(value)
    expected = saved(start, **{key.replace(".", "__"): list(value) if isinstance(value, tuple) else value})
    assert saved(changed) == expected
    assert saved(changed) != saved(start)


def test_later_assignments_win_and_the_original_is_untouched() -> None:
    before = saved()
    assert override(BRAIN, ["seed=1", "seed=2"]).seed == 2
    assert override(BRAIN, []) == BRAIN
    assert saved() == before


def test_one_value_is_enough_for_a_list_of_one() -> None:
    assert override(BRAIN, ["vqvae.channels=64"]).vqvae.channels == (64,)


def test_assignments_are_checked_together() -> None:
    together = ["preparation.fit=resample", "preparation.spacing_mm=2,2,2"]
    assert override(BRAIN, together).preparation.spacing_mm == (2.0, 2.0, 2.0)
    with pytest.raises(SettingsError, match="spacing_mm is missing"):
        override(BRAIN, together[:1])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "write section.key=value"),
        ("traning.steps=3", "did you mean 'training'"),
        ("training.step=3", "did you mean 'steps'"),
        ("training.qqq=3", "choose one of steps, epochs, slices_per_scan"),
        ("training.steps.more=3", "write section.key=value"),
        ("=3", "choose one of preset, preparation"),
        ("training.steps=soon", "training.steps"),
        ("training.steps=", "training.steps"),
        ("training=3", "training"),
        ("preparation.shape_XYZ=64,80", "preparation.shape_XYZ"),
        ("preparation.shape_XYZ=none", "preparation.shape_XYZ"),
        ("training.learning_rate_prior=nan", "training.learning_rate_prior"),
    ],
)
def test_wrong_assignments_are_refused_in_words(assignment: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        override(BRAIN, [assignment])
    assert message in str(caught.value)
    assert "--set" in caught.value.where


# The paper's figures (design/method.md, sections 2 to 6)


def test_preparation_is_the_papers() -> None:
    for preset in (BRAIN.preparation, ABDOMEN.preparation):
        assert preset.fit == "resize"
        assert preset.shape_XYZ[:2] == (160, 160)
        assert preset.slice_axis == "Z"
        assert preset.scored_slices == 32
    assert BRAIN.preparation.shape_XYZ[2] == 256
    assert BRAIN.preparation.intensity == "foreground"
    assert BRAIN.preparation.background_below == 0.05
    assert BRAIN.preparation.training_margin_slices == 20
    assert ABDOMEN.preparation.intensity == "range"
    assert ABDOMEN.preparation.intensity_range == (0.0, 1.0)
    assert ABDOMEN.preparation.training_margin_slices == 0
    assert (BRAIN.latent_shape, ABDOMEN.latent_shape) == ((20, 20), (10, 10))


def test_augmentation_is_the_papers() -> None:
    for augmentation in (BRAIN.augmentation, ABDOMEN.augmentation):
        assert augmentation.flip
        assert augmentation.rotation_degrees == 5
        assert augmentation.scale_range == (1 - 0.15, 1 + 0.10)
        assert augmentation.probability == 0.5
        assert (augmentation.brightness, augmentation.contrast) == (0.9, 0.15)  # 15 % of the range ±3
        assert augmentation.clip_sigma == 3
        assert min(augmentation.elastic_pixels, augmentation.blur_sigma_pixels, augmentation.noise) > 0
    assert BRAIN.augmentation.keep_zero
    assert not ABDOMEN.augmentation.keep_zero  # its 0 is the middle of the range, not background


def test_networks_are_the_papers() -> None:
    assert BRAIN.vqvae.channels == (16, 32, 64, 256)
    assert ABDOMEN.vqvae.channels == (16, 32, 64, 128, 256)
    for preset in (BRAIN, ABDOMEN):
        vqvae, prior = preset.vqvae, preset.prior
        assert (vqvae.stem_kernel, vqvae.stem_stride, vqvae.down_kernel, vqvae.up_kernel) == (7, 1, 5, 6)
        assert (vqvae.blocks_per_level, vqvae.stem_blocks, vqvae.norm, vqvae.codes) == (2, None, "batch", 128)
        assert (vqvae.second_norm, vqvae.dropout) == ("after", 0.1)
        assert (preset.codebook.update, preset.codebook.commitment) == ("gradient", 1.0)
        assert (preset.codebook.revive_below, preset.codebook.unquantised_fraction) == (0, 0)
        assert (prior.blocks, prior.layers_per_block, prior.channels) == (4, 4, 128)
        assert (prior.key_channels, prior.value_channels, prior.dropout) == (16, 128, 0.1)
    assert (BRAIN.prior.attention_downsampling, ABDOMEN.prior.attention_downsampling) == (2, 1)
    assert (BRAIN.prior.first_kernel, ABDOMEN.prior.first_kernel) == (7, 3)


def test_training_and_detection_are_the_papers() -> None:
    for preset in (BRAIN, ABDOMEN):
        training, detection = preset.training, preset.detection
        assert (training.optimiser, training.schedule, training.weight_decay) == ("adam", "constant", 0)
        assert training.learning_rate_vqvae == training.learning_rate_prior == 1e-4
        assert (training.clip, training.clip_at, training.precision) == ("value", 1, "float32")
        assert (training.epochs, training.slices_per_scan, training.batch_slices) == (600, 8, 64)
        assert (training.vqvae_share, training.prior_views) == (0.5, None)
        assert (detection.score_percentile, detection.restoration_percentile) == (98, 90)
        assert (detection.restorations, detection.temperature) == (15, 3)
        assert (detection.voxel_map, detection.min_pool, detection.mean_pool_SHW) == ("residual", 3, (3, 7, 7))


# docs/settings.md


def documented() -> dict[str, list[str]]:
    """The rows of every table: setting to default, brain, abdomen, auto, meaning."""
    rows = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            key, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            assert key not in rows, f"{key} twice"
            rows[key.strip("`")] = cells
    return rows


def every_setting() -> Iterator[tuple[str, type, str]]:
    for key in Settings.model_fields:
        if key in SECTIONS:
            yield from ((f"{key}.{name}", SECTIONS[key], name) for name in SECTIONS[key].model_fields)
        else:
            yield key, Settings, key


def as_text(value: object) -> str:
    """A value as ``--set`` takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(as_text(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def value_of(settings: Settings, key: str) -> object:
    section, _, name = key.rpartition(".")
    return getattr(getattr(settings, section) if section else settings, name)


def default_of(model: type, name: str) -> str:
    field = model.model_fields[name]
    return "–" if field.is_required() else as_text(field.default)


def meaning_of(model: type, name: str) -> str:
    """The docstring under the attribute, as one line of Markdown."""
    tree = ast.parse(inspect.getsource(model))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == model.__name__)
    at = next(k for k, node in enumerate(body) if isinstance(node, ast.AnnAssign) and node.target.id == name)
    following = body[at + 1]
    assert isinstance(following, ast.Expr), f"{model.__name__}.{name} does not say what it means"
    return " ".join(ast.literal_eval(following.value).split()).replace("``", "`").replace("|", r"\|")


def planned_value(key: str) -> str:
    """What ``auto`` uses; ``planned`` where cohorts differ."""
    values = {as_text(value_of(settings, key)) for settings in auto_settings()}
    return values.pop() if len(values) == 1 else "planned"


def auto_settings() -> list[Settings]:
    def cohort(spacing: float, background: float, low: float) -> Fingerprint:
        return Fingerprint(
            scans=20, shape_min=(64,) * 3, shape_median=(64.0, 64.0, 64.0), shape_max=(64,) * 3,
            spacing_median_mm=(1.0, 1.0, spacing), spacing_max_mm=(1.0, 1.0, spacing),
            extent_median_mm=(64.0, 64.0, 64 * spacing), foreground_mm=(60.0, 60.0, 60 * spacing),
            orientations={"RAS": 20}, intensity_scale_ratio=1.0, intensity_low=low, intensity_high=1000.0,
            background_fraction=background,
        )  # fmt: skip

    cohorts = [cohort(1.0, 0.0, 0.0), cohort(2.5, 0.5, -1000.0)]
    large = cohort(1.0, 0.5, 0.0)
    sagittal = Fingerprint(
        **{**large.__dict__, "spacing_median_mm": (4.0, 1.0, 1.0), "extent_median_mm": (256.0, 256.0, 256.0)}
    )
    plans = [
        with_context(plan_auto(c, seed=0, bfloat16_is_fast=fast))
        for c in (*cohorts, sagittal)
        for fast in (True, False)
    ]
    longer = [two for two in map(with_two_planes, plans) if two is not None]
    return [plan.settings for plan in (*plans, *longer)]


def expected_row(key: str, model: type, name: str) -> list[str]:
    default = default_of(model, name)
    used = [as_text(value_of(BRAIN, key)), as_text(value_of(ABDOMEN, key)), planned_value(key)]
    return [default, *("" if text == default else text for text in used), meaning_of(model, name)]


def test_every_setting_is_documented_and_no_other() -> None:
    assert list(documented()) == [key for key, _, _ in every_setting()]


@pytest.mark.parametrize("key", [key for key, _, _ in every_setting()])
def test_the_document_says_what_the_code_does(key: str) -> None:
    model, name = next((model, name) for other, model, name in every_setting() if other == key)
    assert documented()[key] == expected_row(key, model, name)


@pytest.mark.parametrize("key", [key for key, _, _ in every_setting()])
def test_what_the_document_says_can_be_given_with_set(key: str) -> None:
    default, brain, abdomen, _, _ = documented()[key]
    for settings, text in ((BRAIN, brain or default), (ABDOMEN, abdomen or default)):
        assert value_of(override(settings, [f"{key}={text}"]), key) == value_of(settings, key)


@pytest.mark.parametrize(("steps", "members"), [(100, 1), (5000, 1), (8000, 2), (40000, 3)])
def test_longer_training_makes_more_members(steps: int, members: int) -> None:
    planned = override(auto_settings()[0], [f"training.steps={steps}"])
    assert planned.discriminator_members == members
    assert override(planned, ["discriminator.members=2"]).discriminator_members == 2

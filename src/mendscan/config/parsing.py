"""Settings from files and from ``--set``: what is wrong is said in words, with the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mendscan.config.settings import Settings
from mendscan.errors import SettingsError

__all__ = ["assigned", "override", "parse_settings"]

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_settings(values: Any, *, where: object) -> Settings:
    """Validate settings read from a file.

    Args:
        values: Nested settings, as `Settings.model_dump(mode="json")` writes them.
        where: The file they came from, for the error.

    Raises:
        SettingsError: If a key is unknown (with the nearest known one), missing, or a value is out of range or of
            another type: neither ``"3"`` nor ``true`` is a number.
    """
    try:
        settings = Settings.model_validate(_as_tuples(values), strict=True)
    except ValidationError as error:
        raise _as_settings_error(error, where) from None
    for plane in (settings, *settings.further_planes.values()):
        _check_shapes(plane, where)
        _check_preparation(plane, where)
    _check_planes(settings, where)
    _check_context(settings, where)
    _check_ranges(settings, where)
    _check_evidence(settings, where)
    return settings


def assigned(assignments: Sequence[str]) -> dict[str, str]:
    """Return what ``section.key=value`` assignments give to each setting, as text; the last one counts.

    Example:
        >>> assigned(["training.steps = 8", "training.steps=9"])
        {'training.steps': '9'}
    """
    pairs = (assignment.partition("=") for assignment in assignments)
    return {key.strip(): value.strip() for key, _, value in pairs}


def override(settings: Settings, assignments: Sequence[str]) -> Settings:
    """Apply ``section.key=value`` assignments, as ``--set`` gives them.

    Raises:
        SettingsError: If an assignment has no ``=``, its key is unknown or its value is refused.

    Example:
        >>> from mendscan.config import PRESETS
        >>> override(PRESETS["brain"], ["training.batch_slices=8"]).training.batch_slices
        8
    """
    values = settings.model_dump(mode="json")
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise SettingsError("not an assignment", where=f"--set {assignment}", remedy="write section.key=value")
        *sections, last = key.strip().split(".")
        target = values
        for section in sections:
            target = _known(target, section, assignment)
        known, value = _known(target, last, assignment), _parse_value(text.strip())
        if isinstance(known, bool):
            value = _TRUTH.get(text.strip().lower(), value)
        is_one_of_many = isinstance(known, list) and not isinstance(value, list)
        target[last] = [value] if is_one_of_many else value
    return parse_settings(values, where="--set")


def _known(target: Any, key: str, assignment: str) -> Any:
    if isinstance(target, dict) and key in target:
        return target[key]
    choices = list(target) if isinstance(target, dict) else []
    near = difflib.get_close_matches(key, choices, n=1)
    remedy = f"choose one of {', '.join(choices)}" if choices else "write section.key=value"
    if near:
        remedy = f"did you mean {near[0]!r}?"
    raise SettingsError("unknown setting", where=f"--set {assignment}", found=key, remedy=remedy)


def _parse_value(text: str) -> Any:
    if text.lower() in {"none", "null"}:
        return None
    if "," in text:
        return [_parse_value(part.strip()) for part in text.strip("()[] ").split(",") if part.strip()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number  # 1e3 steps


def _as_tuples(value: Any) -> Any:
    """Lists of JSON are tuples of settings, which otherwise take no other type than their own."""
    if isinstance(value, dict):
        return {key: _as_tuples(child) for key, child in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _shown(value: object) -> str:
    try:
        return repr(value)[:60]
    except ValueError:  # an integer of thousands of digits has no text
        return f"a {type(value).__name__}"


def _as_settings_error(error: ValidationError, where: object) -> SettingsError:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    remedy = "see docs/settings.md"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _all_keys(Settings), n=1)
        remedy = f"did you mean {near[0]!r}?" if near else remedy
    # Where a setting is missing, the input is all the others.
    found = None if first["type"] == "missing" else _shown(first["input"])
    return SettingsError(first["msg"].lower(), where=f"{where}: {location[:200]}", found=found, remedy=remedy)


def _all_keys(model: type[BaseModel]) -> list[str]:
    keys = list(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _all_keys(field.annotation)
    return keys


def _check_shapes(settings: Settings, where: object) -> None:
    factor = settings.vqvae.downsampling
    if any(pixels % factor for pixels in settings.slice_shape):
        raise SettingsError(
            "slice shape is not divisible by the network's down-sampling",
            where=where,
            found="×".join(map(str, settings.slice_shape)),
            expected=f"multiples of {factor}",
            remedy="change preparation.shape_XYZ or vqvae.channels",
        )
    if settings.vqvae.stem_stride == 1 and settings.vqvae.stem_kernel % 2 == 0:
        raise SettingsError(
            "an even vqvae.stem_kernel changes the size of a slice",
            where=where,
            found=settings.vqvae.stem_kernel,
            expected="an odd one, or vqvae.stem_stride=2",
        )
    encoded = tuple(settings.vqvae.encoded(pixels) for pixels in settings.slice_shape)
    if encoded != settings.latent_shape:
        raise SettingsError(
            "the encoder loses positions of the latent grid at the border",
            where=where,
            found="×".join(map(str, encoded)),
            expected="×".join(map(str, settings.latent_shape)),
            remedy="set vqvae.stem_padding=true, or add a down-sampling level",
        )
    step = settings.prior.attention_downsampling
    if any(n % step for n in settings.latent_shape):
        raise SettingsError(
            "latent grid is not divisible by prior.attention_downsampling",
            where=where,
            found="×".join(map(str, settings.latent_shape)),
            expected=f"multiples of {step}",
            remedy="set prior.attention_downsampling=1",
        )


def _check_preparation(settings: Settings, where: object) -> None:
    if settings.preparation.fit == "resample" and settings.preparation.spacing_mm is None:
        raise SettingsError("preparation.spacing_mm is missing", where=where, remedy="give it for fit=resample")
    margin = settings.preparation.training_margin_slices
    if settings.slices <= 2 * margin:
        raise SettingsError(
            "preparation.training_margin_slices leaves no slice to train on",
            where=where,
            found=f"{margin} at either end of {settings.slices} slices",
            expected="less than half of them",
        )


def _check_planes(settings: Settings, where: object) -> None:
    preparation = settings.preparation
    if preparation.planes == 1:
        return
    if preparation.slice_view != "array" or preparation.scored_slices is not None:
        raise SettingsError(
            "several planes need every slice, as an array",
            where=where,
            found=f"preparation.slice_view={preparation.slice_view}, "
            f"preparation.scored_slices={preparation.scored_slices or 'none'}",
            remedy="set them to array and none, or preparation.planes=1",
        )


def _check_context(settings: Settings, where: object) -> None:
    together = settings.preparation.scored_slices is None and settings.training.prior_views is not None
    if settings.prior.context_slices and not together:
        raise SettingsError(
            "prior.context_slices needs every slice scored, and encoded before the prior is trained",
            where=where,
            found=f"preparation.scored_slices={settings.preparation.scored_slices or 'none'}, "
            f"training.prior_views={settings.training.prior_views or 'none'}",
            remedy="set them to none and a number, or prior.context_slices=0",
        )


def _check_evidence(settings: Settings, where: object) -> None:
    detection = settings.detection
    if detection.voxel_map == "residual" and detection.scan_score == "parts":
        raise SettingsError(
            "the parts of the scan score need the standardised map",
            where=where,
            found="detection.voxel_map=residual",
            remedy="set detection.scan_score=paper, or detection.voxel_map=standardised",
        )
    if detection.voxel_map != "standardised" or settings.has_discriminator or "discriminator" not in detection.evidence:
        return
    raise SettingsError(
        "the discriminator is evidence, but none is trained",
        where=where,
        found="training.discriminator_share=0",
        remedy="give it a share of the steps, or leave it out of detection.evidence",
    )


def _check_ranges(settings: Settings, where: object) -> None:
    low, high = settings.preparation.intensity_range
    if not low < high:
        _refuse_range("preparation.intensity_range", (low, high), "the lower end first", where)
    smallest, largest = settings.augmentation.scale_range
    if not 0 < smallest <= largest:
        _refuse_range("augmentation.scale_range", (smallest, largest), "0 < smallest <= largest", where)
    kept_apart = settings.training.validation_fraction + settings.training.calibration_fraction
    if kept_apart >= 1:
        raise SettingsError(
            "training.validation_fraction and training.calibration_fraction leave no scan to train on",
            where=where,
            found=f"{kept_apart:g} of the scans",
            expected="less than 1 together",
        )


def _refuse_range(name: str, found: tuple[float, float], expected: str, where: object) -> None:
    raise SettingsError(f"{name} is no range", where=where, found=found, expected=expected)

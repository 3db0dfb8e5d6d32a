"""What a calibration from a model folder must be before it is believed: values, their order, arrays, their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mendscan.cohort.preparing import evenly_spaced
from mendscan.config import Settings
from mendscan.detection.acquisition import GENERATIONS, STATISTICS
from mendscan.detection.evidence import KINDS
from mendscan.detection.voxel_calibration import channel_names
from mendscan.errors import ModelError

__all__ = ["checked_calibration"]

_REMEDY = "copy the model folder again from where it was trained, or calibrate it again"
_MOST_SCANS = 1_000_000
_MOST_CELLS = 2**24
"""Of the gate's pictures; they are of 20 cells along each axis or so."""


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(one > other for one, other in pairwise(values)):
        raise ValueError("not in ascending order")
    return values


Scores = Annotated[tuple[float, ...], Field(max_length=_MOST_SCANS), AfterValidator(_ascending)]
Unit = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Tail(_Strict):
    values: Annotated[Scores, Field(min_length=2, max_length=10_000)]
    nats: Annotated[Scores, Field(min_length=2, max_length=10_000)]


class _Parts(_Strict):
    local: Annotated[Scores, Field(min_length=1)]
    acquisition: Annotated[Scores, Field(min_length=1)]


class _Scan(_Strict):
    parts: _Parts
    healthy_scores: Annotated[Scores, Field(min_length=1)]


class _Gate(_Strict):
    cell_mm: Annotated[float, Field(gt=0, le=1e4)]
    spacing: tuple[Triple, Triple, Triple]
    extent: tuple[Triple, Triple, Triple]
    span: Triple
    offset: Triple
    typical_span: Annotated[float, Field(gt=0)]
    histogram: Triple
    agreement: Triple
    few_values: bool
    like_ct: bool
    oriented: bool
    codes: Triple | None


class _Values(_Strict):
    score_threshold_nats: float
    restoration_threshold_nats: float
    healthy_scores: Scores
    healthy_peaks: tuple[tuple[Unit, ...], ...] | None = None
    scan: _Scan | None = None
    paper_map_threshold: float | None = None
    gate: _Gate | None = None
    map_threshold: float
    map_scale_nats: Annotated[float, Field(gt=0)]
    residual_tail: _Tail | None = None
    nll_tail: _Tail | None = None
    texture_tail: _Tail | None = None
    discriminator_tail: _Tail | None = None


def checked_calibration(
    values: Mapping[str, Any], arrays: Mapping[str, np.ndarray], settings: Settings
) -> Mapping[str, Any]:
    """Return the values of a calibration if they and its arrays can be used with the settings.

    Args:
        values: What `Calibration.to_json` returned.
        arrays: What `Calibration.arrays` returned.
        settings: The model's.

    Raises:
        ModelError: E_MODEL_CALIBRATION, naming the first value or array that is not as it should be.
    """
    try:
        # Lists are tuples to a strict model only when they come as JSON.
        known = _Values.model_validate(_as_tuples(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _refusal(where[:80], f"{first['msg'].lower()}: {first['input']!r}"[:120]) from None
    _check_lengths(known)
    centre = arrays.get("acquisition_centre")
    compared = None if centre is None else len(centre.ravel())
    statistics = compared if compared in GENERATIONS else len(STATISTICS)
    _check_arrays(arrays, _expected_arrays(known, statistics, settings))
    return values


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_tuples(child) for key, child in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


def _check_lengths(known: _Values) -> None:
    for name in KINDS:
        tail = getattr(known, f"{name}_tail")
        if tail is not None and len(tail.values) != len(tail.nats):
            raise _refusal(f"{name}_tail", f"{len(tail.values)} values, {len(tail.nats)} nats")
    if known.healthy_peaks is not None and len(known.healthy_peaks) > _MOST_SCANS:
        raise _refusal("healthy_peaks", f"{len(known.healthy_peaks):,} scans")


Shape = tuple[int | None, ...]


def _expected_arrays(known: _Values, statistics: int, settings: Settings) -> dict[str, tuple[str, Shape]]:
    """Return type and shape of every array there must be; None = any length."""
    whole, n = settings.shape_SHW, statistics
    grid = (len(evenly_spaced(whole[0], settings.preparation.scored_slices)), *whole[1:])
    expected: dict[str, tuple[str, Shape]] = {}
    kinds = [name for name in KINDS if getattr(known, f"{name}_tail") is not None]
    for channel in (one for name in kinds if not KINDS[name].relative for one in channel_names(name)):
        expected |= {f"{channel}_mean": ("float32", grid), f"{channel}_spread": ("float32", grid)}
    if kinds:
        expected["usual_foreground"] = ("float32", grid)
    if known.scan is not None:
        shapes: dict[str, Shape] = {"centre": (n,), "spread": (n,), "precision": (n, n)}
        expected |= {f"acquisition_{name}": ("float64", shape) for name, shape in shapes.items()}
        expected["acquisition_usual_SHW"] = ("float32", whole)
    if known.gate is not None:
        cells: Shape = (None, None, None)
        expected |= {f"gate_{name}": ("float32", cells) for name in ("values", "share", "foreground")}
        expected |= {
            "gate_quantiles": ("float64", (19,)),
            "gate_gain_limits": ("float64", (48,)),
            "gate_missing_limits": ("float64", (6,)),
        }
        if known.gate.codes is not None:
            expected["gate_codes"] = ("float64", (settings.vqvae.codes,))
    return expected


def _check_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[str, Shape]]) -> None:
    if arrays.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
        raise _refusal("arrays", f"missing {missing[:3]}, not known {extra[:3]}"[:160])
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if str(found.dtype) != dtype or not _matches(found.shape, shape):
            raise _refusal(name, f"{found.dtype} {_times(found.shape)}", f"{dtype} {_times(shape)}")
        if not np.isfinite(found).all():
            raise _refusal(name, "values that are not finite")
        if name.endswith("_spread") and not (found > 0).all():
            raise _refusal(name, "a spread that is not above 0")
    cells = {arrays[name].shape for name in expected if name in ("gate_values", "gate_share", "gate_foreground")}
    if len(cells) > 1 or any(np.prod(shape) > _MOST_CELLS for shape in cells):
        raise _refusal("gate's pictures", ", ".join(map(_times, sorted(cells))))


def _matches(found: tuple[int, ...], wanted: Shape) -> bool:
    pairs = zip(found, wanted, strict=True) if len(found) == len(wanted) else [(0, 1)]
    return all(one == other or (other is None and one > 0) for one, other in pairs)


def _times(shape: Shape) -> str:
    return "×".join("n" if side is None else str(side) for side in shape)


def _refusal(what: str, found: object, expected: object = None) -> ModelError:
    return ModelError(
        "the calibration is not one that was saved",
        where=f"calibration: {what}",
        code="E_MODEL_CALIBRATION",
        found=found,
        expected=expected,
        remedy=_REMEDY,
    )

"""Whatever is given as settings: settings come out, or one typed error in plain words."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mendscan.config import PRESETS, Settings, override, parse_settings
from mendscan.errors import SettingsError
from mendscan.strict_json import BadJsonError, parse_json

HUGE = st.sampled_from([2**31, 2**63, 10**30, 10**400, 10**4000, -(10**400)])
SCALARS = st.none() | st.booleans() | st.integers() | HUGE | st.floats() | st.text(max_size=20)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)
BRAIN = PRESETS["brain"].model_dump(mode="json")
SECTIONS = {name: values for name, values in BRAIN.items() if isinstance(values, dict)}
PATHS = sorted([(name,) for name in BRAIN] + [(name, key) for name, values in SECTIONS.items() for key in values])


def _check_words(error: SettingsError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 2000


def checked(values: Any) -> None:
    """Parse; what comes out can be written and read again."""
    try:
        found = parse_settings(values, where="config.json")
    except SettingsError as error:
        _check_words(error)
        return
    assert isinstance(found, Settings)
    again = json.loads(json.dumps(found.model_dump(mode="json"), allow_nan=False))
    assert parse_settings(again, where="again") == found


@given(ANY)
def test_anything(values: Any) -> None:
    checked(values)


@given(st.sampled_from(sorted(PRESETS)), st.lists(st.tuples(st.sampled_from(PATHS), ANY), min_size=1, max_size=3))
@settings(max_examples=300)
def test_real_settings_with_anything_in_places(preset: str, changes: list[tuple[tuple[str, ...], Any]]) -> None:
    values: Any = copy.deepcopy(PRESETS[preset].model_dump(mode="json"))
    for (*sections, key), value in changes:
        target = values
        for section in sections:
            target = target[section] if isinstance(target, dict) else {}
        if isinstance(target, dict):
            target[key] = value
    checked(values)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=3000))
@settings(max_examples=30)
def test_any_number_of_levels(channels: list[int]) -> None:
    values: Any = PRESETS["brain"].model_dump(mode="json")
    values["vqvae"]["channels"] = channels
    checked(values)


@given(
    st.sampled_from(PATHS).map(".".join) | st.text(max_size=20),
    st.text(max_size=30) | st.floats().map(str) | st.integers().map(str),
)
@settings(max_examples=300)
def test_any_assignment(key: str, text: str) -> None:
    for assignment in (f"{key}={text}", key, text):
        try:
            assert isinstance(override(PRESETS["brain"], [assignment]), Settings)
        except SettingsError as error:
            _check_words(error)


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:
        return b"no text"


@given(st.binary(max_size=60) | ANY.map(lambda v: _json(v)))
def test_any_bytes_are_json_or_not(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except BadJsonError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value

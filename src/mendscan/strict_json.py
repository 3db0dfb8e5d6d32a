"""JSON from strangers: one meaning, finite numbers, a size and a depth that are bounded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["MAX_BYTES", "MAX_DEPTH", "BadJsonError", "parse_json", "read_json"]

MAX_BYTES = 64 * 2**20
"""Longer texts are not parsed: Python's objects take up to twenty times as much."""
MAX_DEPTH = 32


class BadJsonError(ValueError):
    """The text is not JSON, or JSON that can be understood in two ways."""


def parse_json(raw: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse UTF-8 JSON, all of which can be written again.

    Args:
        raw: The text.
        max_bytes: The longest text that is parsed.
        max_depth: Most lists and objects inside each other.

    Raises:
        BadJsonError: If it is not JSON, a key occurs twice, a number is not finite, or a limit is exceeded.

    Example:
        >>> parse_json(b'{"a": [1, 2.5]}')
        {'a': [1, 2.5]}
    """
    value = _parse(raw, max_bytes, max_depth)
    if b"\\u" in raw:
        _check_text(value)
    return value


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Parse a file as `parse_json` does, but for text: names of files that are no UTF-8 have halves of surrogate pairs.

    Args:
        path: The file; no more of it is read than is parsed.
        max_bytes: The longest that is parsed.

    Raises:
        OSError: If it cannot be read.
        BadJsonError: As `parse_json`.
    """
    with path.open("rb") as opened:
        return _parse(opened.read(max_bytes + 1), max_bytes, MAX_DEPTH)


def _parse(raw: bytes, max_bytes: int, max_depth: int) -> Any:
    if len(raw) > max_bytes:
        raise BadJsonError(f"more than {max_bytes:,} bytes")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except BadJsonError:
        raise
    except RecursionError:
        raise BadJsonError(f"more than {max_depth} lists and objects inside each other") from None
    except ValueError as error:  # of json, of the decoder, of integers with thousands of digits
        raise BadJsonError(str(error)) from None
    _check_depth(value, max_depth)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadJsonError(f"the key {twice[:60]!r} occurs twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadJsonError(f"{text[:40]} is not a finite number")
    return number


def _no_constant(text: str) -> NoReturn:
    raise BadJsonError(f"{text} is not JSON")


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        level = [child for each in level for child in _children(each)]
        if not level:
            return
    raise BadJsonError(f"more than {max_depth} lists and objects inside each other")


def _children(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in values if isinstance(child, (dict, list))]


def _check_text(value: Any) -> None:
    """Refuse halves of surrogate pairs, which no file can be written with."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadJsonError("half a surrogate pair") from None

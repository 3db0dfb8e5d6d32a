"""The header of a safetensors file, read strictly and without building anything: names, types, shapes, places.

The format: 8 bytes N, little-endian; N bytes of JSON, ``{name: {dtype, shape, data_offsets}}``; then the data, in which
tensors neither overlap nor leave gaps.  The library's own reader takes duplicate keys, and knows no bound on how many
tensors there are; neither it nor the format has a checksum.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mendscan.errors import ModelError
from mendscan.models.folder import REMEDY
from mendscan.strict_json import parse_json

__all__ = ["MAX_HEADER_BYTES", "MAX_TENSORS", "StoredTensor", "Weights", "first_difference"]

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
"""The paper's networks have some 1 400."""
_MOST_DIMENSIONS = 8
_ITEM_BYTES = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_OTHER_TYPES = frozenset({"F16", "BF16", "I16", "U16", "I8", "U32", "U64", "F8_E4M3", "F8_E5M2"})
_NUMPY = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        dtype: Its type, in the format's words: ``F32``, ``I64``, …
        shape: Its shape.
        start: Where its data begin, in bytes after the header.
        stop: Where they end.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Weights:
    """A safetensors file whose header is sound.

    Attributes:
        raw: The whole file.
        data: Where the data begin, in bytes.
        tensors: Its tensors by name.
    """

    raw: bytes
    data: int
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def parse(cls, raw: bytes, where: Path) -> Weights:
        """Read a file's header.

        Args:
            raw: The whole file.
            where: Its path, for errors.

        Raises:
            ModelError: E_MODEL_ALTERED if it is no safetensors file or a damaged one, E_MODEL_TOO_LARGE if its header
                is, E_MODEL_SHAPE if a tensor is of a type that no model has.
        """
        length = int.from_bytes(raw[:8], "little") if len(raw) >= 8 else -1
        if length > MAX_HEADER_BYTES and length <= len(raw) - 8:
            raise _refusal(where, "the header is too large", "E_MODEL_TOO_LARGE", f"{length:,} bytes", MAX_HEADER_BYTES)
        if not 0 < length <= len(raw) - 8 or raw[8:9] != b"{":
            raise _refusal(where, "not a safetensors file", found=_looks_like(raw))
        try:
            header = parse_json(raw[8 : 8 + length], max_depth=4)
            header.pop("__metadata__", None)
            if len(header) > MAX_TENSORS:
                raise _refusal(where, "too many tensors", "E_MODEL_TOO_LARGE", f"{len(header):,}", MAX_TENSORS)
            tensors = {name: _stored(name, entry, where) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _refusal(where, "the header of the weights is damaged", found=error) from None
        _check_places(tensors, len(raw) - 8 - length, where)
        return cls(raw, 8 + length, tensors)

    def array(self, name: str) -> np.ndarray:
        """Return a tensor as a read-only array."""
        stored = self.tensors[name]
        flat = np.frombuffer(
            self.raw, _NUMPY[stored.dtype], count=math.prod(stored.shape), offset=self.data + stored.start
        )
        return flat.reshape(stored.shape)

    def arrays(self, part: str) -> dict[str, np.ndarray]:
        """Return the tensors of a part as read-only arrays, without the part in their names."""
        start = f"{part}."
        return {name.removeprefix(start): self.array(name) for name in self.tensors if name.startswith(start)}

    def check_finite(self, where: Path) -> None:
        """Refuse NaN and infinite weights.

        Raises:
            ModelError: E_MODEL_NAN.
        """
        for name, stored in self.tensors.items():
            if stored.dtype.startswith("F") and not np.isfinite(self.array(name)).all():
                raise _refusal(where, "weights are not finite", "E_MODEL_NAN", name)

    def part_hash(self, part: str) -> str:
        """Return the SHA-256 of a part: names, types, shapes and data of its tensors, in the order of their names."""
        found, start = hashlib.sha256(), f"{part}."
        for name in sorted(name for name in self.tensors if name.startswith(start)):
            stored = self.tensors[name]
            found.update(f"{name} {stored.dtype} {list(stored.shape)}\n".encode())
            found.update(memoryview(self.raw)[self.data + stored.start : self.data + stored.stop])
        return found.hexdigest()


def first_difference(
    found: Mapping[str, tuple[str, tuple[int, ...]]], expected: Mapping[str, tuple[str, tuple[int, ...]]]
) -> str | None:
    """Return in words how tensors differ from those expected, each a type and a shape; None if they do not."""
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            return f"{name}: {_words(found.get(name))} in place of {_words(expected.get(name))}"
    return None


def _words(tensor: tuple[str, Iterable[int]] | None) -> str:
    return "nothing" if tensor is None else f"{tensor[0]} {'×'.join(map(str, tensor[1])) or 'scalar'}"


def _stored(name: str, entry: Any, where: Path) -> StoredTensor:
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _refusal(where, "the header of the weights is damaged", found=f"an entry of {name[:80]}")
    dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype in _OTHER_TYPES:
        raise _refusal(where, "a tensor of a type that no model has", "E_MODEL_SHAPE", f"{name[:80]}, {dtype}")
    numbers = [*shape, start, stop]
    if dtype not in _ITEM_BYTES or len(shape) > _MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
        raise _refusal(where, "the header of the weights is damaged", found=f"type, shape or place of {name[:80]}")
    if math.prod(shape) * _ITEM_BYTES[dtype] != stop - start:
        raise _refusal(where, "the header of the weights is damaged", found=f"the size of {name[:80]}")
    return StoredTensor(dtype, tuple(shape), start, stop)


def _check_places(tensors: Mapping[str, StoredTensor], size: int, where: Path) -> None:
    """Data must follow each other, from the first byte after the header to the last of the file."""
    reached = 0
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if stored.start != reached:
            raise _refusal(where, "tensors overlap, or leave a gap", found=name[:80])
        reached = stored.stop
    if reached != size:
        raise _refusal(where, "the weights are truncated, or something follows them", found=size, expected=reached)


def _looks_like(raw: bytes) -> str:
    if raw[:2] == b"PK":
        return "a zip archive, as .pt files are"
    return "a pickled file" if raw[:1] == b"\x80" else f"{len(raw):,} bytes of something else"


def _refusal(
    where: Path, problem: str, code: str = "E_MODEL_ALTERED", found: object = None, expected: object = None
) -> ModelError:
    return ModelError(problem, where=where, code=code, found=found, expected=expected, remedy=REMEDY)

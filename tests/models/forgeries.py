"""What strangers may make of a model: its weights, their header, its tensors, its settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mendscan.models.skeleton import networks_of
from models.forging import WEIGHTS, sign
from tiny_settings import SETTINGS

WHOLE_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda raw: raw[: len(raw) // 2],
    "one byte less": lambda raw: raw[:-1],
    "one byte more": lambda raw: raw + b"\0",
    "only a header": lambda raw: raw[: 8 + int.from_bytes(raw[:8], "little")],
    "header longer than the file": lambda raw: (2**62).to_bytes(8, "little") + raw[8:],
    "no header": lambda raw: bytes(8) + raw[8:],
    "a pickle": lambda _: b"\x80\x04K\x01." + bytes(99_999),
    "a .pt file": lambda _: b"PK\x03\x04" + bytes(99_999),
    "text": lambda _: b"<html>not found</html>",
}


def first(header: dict[str, Any]) -> dict[str, Any]:
    return next(iter(header.values()))


def duplicated(header: dict[str, Any]) -> str:
    name = next(iter(header))
    return json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"


def overlapping(header: dict[str, Any]) -> None:
    one, other = list(header.values())[:2]
    other["data_offsets"] = [
        one["data_offsets"][0],
        one["data_offsets"][0] + other["data_offsets"][1] - other["data_offsets"][0],
    ]


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "duplicate keys": (duplicated, "E_MODEL_ALTERED"),
    "overlapping tensors": (overlapping, "E_MODEL_ALTERED"),
    "shape that overflows": (lambda h: first(h).update(shape=[2**62, 2**62, 4]), "E_MODEL_ALTERED"),
    "negative shape": (lambda h: first(h).update(shape=[-1, -1]), "E_MODEL_ALTERED"),
    "true for a size": (lambda h: first(h).update(shape=[True]), "E_MODEL_ALTERED"),
    "fractions": (lambda h: first(h).update(data_offsets=[0.0, 4.0]), "E_MODEL_ALTERED"),
    "offsets the wrong way": (lambda h: first(h)["data_offsets"].reverse(), "E_MODEL_ALTERED"),
    "three offsets": (lambda h: first(h)["data_offsets"].append(3), "E_MODEL_ALTERED"),
    "more keys": (lambda h: first(h).update(code="x"), "E_MODEL_ALTERED"),
    "no object": (lambda h: h.update({"prior.x": 3}), "E_MODEL_ALTERED"),
    "NaN": (lambda h: json.dumps(h)[:-1] + ', "prior.x": NaN}', "E_MODEL_ALTERED"),
    "depth 100 000": (lambda h: '{"a":' * 100_000 + "1" + "}" * 100_000, "E_MODEL_ALTERED"),
    "unknown type": (lambda h: first(h).update(dtype="PICKLE"), "E_MODEL_ALTERED"),
    "bfloat16": (lambda h: first(h).update(dtype="BF16"), "E_MODEL_SHAPE"),
    "100 000 tensors": (
        lambda h: h.update({f"prior.x{n}": EMPTY for n in range(100_000)}),
        "E_MODEL_TOO_LARGE",
    ),
}  # fmt: skip

TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "NaN": (lambda t: t["prior.head.bias"].fill_(float("nan")), "E_MODEL_NAN"),
    "infinity in the calibration": (lambda t: t["calibration.nll_mean"].view(-1)[:1].fill_(-torch.inf), "E_MODEL_NAN"),
    "missing": (lambda t: t.pop("prior.head.bias"), "E_MODEL_SHAPE"),
    "one more": (lambda t: t.update({"vqvae.more": torch.zeros(1)}), "E_MODEL_SHAPE"),
    "of no part": (lambda t: t.update({"more": torch.zeros(1)}), "E_MODEL_SHAPE"),
    "another shape": (lambda t: t.update({"prior.head.bias": torch.zeros(9)}), "E_MODEL_SHAPE"),
    "same count, another shape": (
        lambda t: t.update({"prior.head.bias": t["prior.head.bias"].reshape(2, -1).clone()}),
        "E_MODEL_SHAPE",
    ),
    "float16": (lambda t: t.update({"prior.head.bias": t["prior.head.bias"].half()}), "E_MODEL_SHAPE"),
    "float64": (lambda t: t.update({"prior.head.bias": t["prior.head.bias"].double()}), "E_MODEL_SHAPE"),
    "int32": (lambda t: t.update({"prior.head.bias": t["prior.head.bias"].int()}), "E_MODEL_SHAPE"),
    "escapes in a name": (lambda t: t.update({"\x1b[2J\x1b]0;owned\x07": torch.zeros(1)}), "E_MODEL_SHAPE"),
}

BOMBS: dict[str, tuple[str, dict[str, Any]]] = {
    "100 000 channels of the prior": ("prior", {"channels": 100_000}),
    "100 000 channels of the VQ-VAE": ("vqvae", {"channels": [100_000, 8, 12]}),
    "10⁹ blocks": ("prior", {"blocks": 10**9}),
    "10⁹ layers": ("prior", {"layers_per_block": 10**9}),
    "10⁹ codes": ("vqvae", {"codes": 10**9}),
    "a kernel of 10⁹": ("vqvae", {"down_kernel": 10**9 + 1}),
    "10⁹ restorations": ("detection", {"restorations": 10**9}),
    "a filter of 10⁹": ("detection", {"mean_pool_SHW": [1, 1, 10**9]}),
    "a Gaussian of 10⁹": ("detection", {"nll_sigma": 1e9}),
    "a grid of 10¹²": ("preparation", {"shape_XYZ": [8192, 8192, 8192]}),
    "10⁹ scored slices": ("preparation", {"scored_slices": 10**9}),
    "a number of 4 000 digits": ("prior", {"channels": 10**4000}),
}


def with_other_prior(folder: Path) -> None:
    """The VQ-VAE of one run and the prior of another, under a new manifest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = networks_of(SETTINGS)["prior"]
    tensors = load((folder / WEIGHTS).read_bytes())
    tensors |= {f"prior.{name}": value.contiguous() for name, value in other.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors))
    sign(folder)

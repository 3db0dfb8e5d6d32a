"""Model folders as a stranger would make them: consistent in themselves, whatever is in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

WEIGHTS = "model.safetensors"
FILES = ("config.json", "plan.json", WEIGHTS, "calibration.json", "split.json", "README.md")


def sign(folder: Path) -> None:
    """Write the manifest anew."""
    contents = {name: (folder / name).read_bytes() for name in FILES}
    digests = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": digests}, sort_keys=True, indent=2) + "\n")


def part_hash(tensors: dict[str, Tensor], part: str) -> str:
    """Return a part's hash, by the rule in docs/formats.md."""
    names = {"torch.float32": "F32", "torch.float64": "F64", "torch.int64": "I64", "torch.bool": "BOOL"}
    found = hashlib.sha256()
    for name in sorted(name for name in tensors if name.startswith(f"{part}.")):
        tensor = tensors[name].contiguous()
        dtype = names.get(str(tensor.dtype), str(tensor.dtype))
        found.update(f"{name} {dtype} {list(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def with_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors, and all hashes with them."""
    tensors = load((folder / WEIGHTS).read_bytes())
    change(tensors)
    (folder / WEIGHTS).write_bytes(save(tensors))
    parts = {name.partition(".")[0] for name in tensors}
    with_config(folder, lambda config: config.update(parts={part: part_hash(tensors, part) for part in parts}))


def with_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the configuration, and the manifest with it."""
    with_json(folder, "config.json", change)


def with_json(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file, and the manifest with it."""
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    sign(folder)


def with_header(folder: Path, change: Callable[[dict[str, Any]], Any], *, data: bytes | None = None) -> None:
    """Change the header of the weights, as no library would write it."""
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    changed = change(header)
    text = (changed if isinstance(changed, str) else json.dumps(header)).encode()
    body = raw[8 + length :] if data is None else data
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + body)
    sign(folder)

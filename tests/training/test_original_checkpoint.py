"""A checkpoint of the original is read without being trusted: tensors, or one typed error that names the file."""

from __future__ import annotations

import io
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mendscan.errors import ModelError
from mendscan.training.original_checkpoint import read_checkpoint

STATE = {"Q.0.weight": torch.arange(12.0).reshape(3, 4), "Q.1.num_batches_tracked": torch.tensor(7)}


class Runs:
    """What a hostile file would run: it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def refusal(path: Path, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path, **options)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    return caught.value


def training_checkpoint(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the original saves while it trains; the tracker is an object of its module ``utils``."""
    tracker = type("train_tracker", (), {"__module__": "utils"})
    module = types.ModuleType("utils")
    module.train_tracker = tracker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utils", module)
    record = tracker()
    record.train_losses, record.lr = [0.5, 0.25], [1e-4]
    adam = {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    return {"model": STATE, "optimizer": adam, "tracker": record}


def check(tensors: dict[str, torch.Tensor]) -> None:
    assert set(tensors) == set(STATE)
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bare_state_dict_is_read_in_either_format_of_torch(tmp_path: Path, zipped: bool) -> None:
    found = read_checkpoint(saved(tmp_path / "feats.pt", STATE, _use_new_zipfile_serialization=zipped))
    check(found.tensors)
    assert (found.name, found.others, len(found.sha256)) == ("feats.pt", (), 64)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_is_read_and_what_is_left_is_named(tmp_path, monkeypatch, zipped: bool) -> None:
    whole = training_checkpoint(monkeypatch)
    path = saved(tmp_path / "a.pt", whole, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "utils")
    found = read_checkpoint(path)
    check(found.tensors)
    assert found.others == ("optimizer", "tracker")


def test_safetensors_are_read_whatever_the_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "feats.pt")
    check(read_checkpoint(tmp_path / "feats.pt").tensors)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, kind: torch.dtype) -> None:
    found = read_checkpoint(saved(tmp_path / "a.pt", {"w": torch.ones(2, dtype=kind)})).tensors["w"]
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.ones(2))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("at", ["whole", "value", "beside", "tracker"])
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(tmp_path: Path, monkeypatch, zipped: bool, at: str) -> None:
    proof, whole = tmp_path / "proof", training_checkpoint(monkeypatch)
    hostile: Any = {
        "whole": Runs(proof),
        "value": {**STATE, "x": Runs(proof)},
        "beside": {"model": STATE, "epoch": Runs(proof)},
        "tracker": whole,
    }[at]
    whole["tracker"].lr = Runs(proof)
    error = refusal(saved(tmp_path / "a.pt", hostile, _use_new_zipfile_serialization=zipped))
    assert error.code == "E_ORIGINAL_UNSAFE"
    assert "run code" in error.problem
    assert not proof.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_an_unknown_object_is_named(tmp_path: Path, zipped: bool) -> None:
    error = refusal(saved(tmp_path / "a.pt", {"w": np.ones(2)}, _use_new_zipfile_serialization=zipped))
    assert error.code == "E_ORIGINAL_UNSAFE"
    assert "numpy" in str(error.found)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / "a.pt"
    state = {"w": torch.randn(300), "v": torch.randn(200)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        saved(path, state, _use_new_zipfile_serialization=kind == "zip")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw))])
    assert refusal(path).code == "E_ORIGINAL_FILE"


def test_one_flipped_bit_of_a_weight_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"w": torch.full((1000,), 0.5)})
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert torch.load(path, weights_only=True)["w"].ne(0.5).sum() == 1
    assert refusal(path).code == "E_ORIGINAL_FILE"


@pytest.mark.parametrize("content", [b"", b"\n", b"<html>not found</html>", b"version https://git-lfs", bytes(4096)])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    assert refusal(tmp_path / "a.pt").code == "E_ORIGINAL_FILE"


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert refusal(tmp_path / "a.pt").code == "E_ORIGINAL_FILE"


@pytest.mark.parametrize("value", [[STATE], {}, {"w": 3}, {"w": [torch.ones(1)]}, {3: torch.ones(1)}, {"model": {}}, 5])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, value: Any) -> None:
    assert refusal(saved(tmp_path / "a.pt", value)).problem == "no state dict"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, wrong: float) -> None:
    error = refusal(saved(tmp_path / "a.pt", {"ok": torch.ones(1), "Q.0.bias": torch.tensor([0.0, wrong])}))
    assert (error.code, error.found) == ("E_MODEL_NAN", "Q.0.bias")


def test_what_float32_cannot_hold_is_not_finite(tmp_path: Path) -> None:
    assert refusal(saved(tmp_path / "a.pt", {"w": torch.tensor([1e300], dtype=torch.float64)})).code == "E_MODEL_NAN"


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex64)])
def test_tensors_of_another_kind_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    assert refusal(saved(tmp_path / "a.pt", {"w": tensor})).problem == "not a plain tensor"


def test_sizes_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    few = {"max_bytes": 100_000}
    assert refusal(saved(tmp_path / "large.pt", {"w": torch.ones(30_000)}), **few).code == "E_TOO_LARGE"
    # One number that claims to be a thousand billion.
    assert refusal(saved(tmp_path / "wide.pt", {"w": torch.ones(1).expand(10**12)})).code == "E_TOO_LARGE"
    save = io.BytesIO()
    torch.save({"w": torch.zeros(200_000)}, save)
    with zipfile.ZipFile(save) as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in plain.namelist():
            bomb.writestr(member, plain.read(member))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    assert refusal(tmp_path / "bomb.pt", **few).code == "E_TOO_LARGE"


def test_missing_files_and_folders_are_said(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pt").code == "E_NOT_FOUND"
    assert refusal(tmp_path).code == "E_NOT_FOUND"


def test_a_storage_smaller_than_it_claims_is_refused(tmp_path: Path) -> None:
    """The description of a tensor says 1000 numbers, the file holds 10: memory beyond it must not be read."""
    path = saved(tmp_path / "a.pt", {"w": torch.ones(1000)})
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as cut:
        for name, content in members.items():
            cut.writestr(name, content[:40] if name.endswith("data/0") else content)
    assert refusal(path).code == "E_ORIGINAL_FILE"

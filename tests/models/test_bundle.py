"""A model folder: what is loaded is what was saved, to the last bit, or nothing is loaded at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mendscan.config import Settings
from mendscan.errors import MendscanError, ModelError
from mendscan.models.bundle import Bundle, load_bundle, save_bundle
from mendscan.models.contents import FORMAT_VERSION
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from models.forging import FILES, sign, with_config, with_tensors

CALIBRATION = {"score_threshold_nats": 0.1 + 0.2, "healthy_scores": [0.0, 1 / 3, 1e-300]}


@pytest.fixture(scope="module")
def networks(tiny_settings: Settings) -> tuple[VQVAE, PixelSNAIL]:
    torch.manual_seed(0)
    vqvae, prior = VQVAE(tiny_settings.vqvae), PixelSNAIL(tiny_settings.prior, codes=tiny_settings.vqvae.codes)
    vqvae.quantizer.use_K.uniform_()
    return vqvae.eval(), prior.eval()


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    return {"residual_mean": torch.randn(2, 3, 4).abs(), "residual_spread": torch.full((2, 3, 4), 1e-30)}


@pytest.fixture(scope="module")
def pristine(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_settings: Settings,
    networks: tuple[VQVAE, PixelSNAIL],
    arrays: dict[str, Tensor],
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_to(folder, tiny_settings, networks, arrays)
    return folder


@pytest.fixture
def model(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def save_to(folder: Path, settings: Settings, networks: tuple[VQVAE, PixelSNAIL], arrays: dict[str, Tensor]) -> None:
    save_bundle(
        folder,
        settings=settings,
        networks={"vqvae": networks[0], "prior": networks[1]},
        calibration=CALIBRATION,
        calibration_arrays=arrays,
        plan={"why": "test"},
        split={"training": ["00ff"]},
        card="# Card\n",
    )


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_bundle(folder)
    assert caught.value.code.startswith("E_MODEL_")
    assert "\n" not in str(caught.value)
    return caught.value


# --- loading draws nothing from the caller's stream ------------------------------------------------------------------


def test_loading_moves_no_random_numbers(model: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_bundle(model)
    assert torch.equal(torch.rand(3), expected)


# --- the round trip --------------------------------------------------------------------------------------------------


def test_every_tensor_comes_back_bit_for_bit(
    pristine: Path, tiny_settings: Settings, networks: tuple[VQVAE, PixelSNAIL], arrays: dict[str, Tensor]
) -> None:
    bundle = load_bundle(pristine)
    assert isinstance(bundle, Bundle)
    for saved, loaded in zip(networks, bundle.networks.values(), strict=True):
        assert not loaded.training
        assert saved.state_dict().keys() == loaded.state_dict().keys()
        for name, tensor in saved.state_dict().items():
            found = loaded.state_dict()[name]
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor), name
    assert bundle.settings == tiny_settings
    assert bundle.calibration == CALIBRATION
    assert bundle.calibration_arrays.keys() == arrays.keys()
    assert all(torch.equal(bundle.calibration_arrays[name], array) for name, array in arrays.items())


def test_the_loaded_networks_compute_the_same_bits(pristine: Path, networks: tuple[VQVAE, PixelSNAIL]) -> None:
    bundle, (vqvae, prior) = load_bundle(pristine), networks
    codes, slices, position = torch.randint(12, (3, 4, 4)), torch.randn(3, 16, 16), torch.tensor([-0.5, 0.1, 0.5])
    with torch.inference_mode():
        assert torch.equal(bundle.networks["prior"](codes, position), prior(codes, position))
        assert torch.equal(bundle.networks["vqvae"](slices, position).slices_BHW, vqvae(slices, position).slices_BHW)


def test_batch_norm_statistics_are_saved_too(
    tmp_path: Path, tiny_settings: Settings, networks: tuple[VQVAE, PixelSNAIL], arrays: dict[str, Tensor]
) -> None:
    settings = tiny_settings.model_copy(update={"vqvae": tiny_settings.vqvae.model_copy(update={"norm": "batch"})})
    vqvae = VQVAE(settings.vqvae).train()
    vqvae(3 + torch.randn(4, 16, 16), torch.zeros(4))
    save_to(tmp_path, settings, (vqvae.eval(), networks[1]), arrays)
    slices, position = torch.randn(2, 16, 16), torch.zeros(2)
    with torch.inference_mode():
        assert torch.equal(
            load_bundle(tmp_path).networks["vqvae"].encode(slices, position), vqvae.encode(slices, position)
        )


def test_the_same_model_gives_the_same_bytes_and_hash(
    pristine: Path,
    tmp_path: Path,
    tiny_settings: Settings,
    networks: tuple[VQVAE, PixelSNAIL],
    arrays: dict[str, Tensor],
) -> None:
    save_to(tmp_path, tiny_settings, networks, arrays)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*FILES, "manifest.json"])
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (pristine / path.name).read_bytes()
    assert load_bundle(tmp_path).model_hash == load_bundle(pristine).model_hash


def test_another_model_has_another_hash(pristine: Path, model: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["prior.head.bias"][0] += 1e-6

    with_tensors(model, change)
    assert load_bundle(model).model_hash != load_bundle(pristine).model_hash


# --- what was altered is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_an_altered_byte_is_refused(model: Path, name: str) -> None:
    path = model / name
    original = path.read_bytes()
    for position in sorted({*range(0, len(original), max(1, len(original) // 40)), len(original) - 1}):
        path.write_bytes(original[:position] + bytes([original[position] ^ 0x01]) + original[position + 1 :])
        error = refusal(model)
        assert error.code == "E_MODEL_ALTERED"
        assert name in str(error)
    path.write_bytes(original)
    load_bundle(model)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[: len(c) // 2], lambda _: b"", lambda c: c + b"\0"])
def test_a_shorter_or_longer_file_is_refused(model: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = model / name
    path.write_bytes(change(path.read_bytes()))
    assert refusal(model).code == "E_MODEL_ALTERED"


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    assert refusal(model).code == "E_MODEL_MISSING"


def test_a_file_that_is_a_folder_is_refused(model: Path) -> None:
    (model / "plan.json").unlink()
    (model / "plan.json").mkdir()
    assert refusal(model).code == "E_MODEL_MISSING"


def test_no_folder_and_an_unfinished_one(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").code == "E_MODEL_MISSING"
    (tmp_path / "work").mkdir()
    error = refusal(tmp_path)
    assert error.code == "E_MODEL_MISSING"
    assert "--resume" in str(error)


def test_files_of_two_models_do_not_mix(
    model: Path, tmp_path: Path, tiny_settings: Settings, networks: tuple[VQVAE, PixelSNAIL], arrays: dict[str, Tensor]
) -> None:
    (tmp_path / "other").mkdir()
    other = PixelSNAIL(tiny_settings.prior, codes=12)
    save_to(tmp_path / "other", tiny_settings, (networks[0], other), arrays)
    shutil.copy(tmp_path / "other" / "model.safetensors", model)
    assert refusal(model).code == "E_MODEL_ALTERED"


def manifests_with_one_byte_changed(original: bytes) -> list[bytes]:
    return [original[:p] + bytes([original[p] ^ 0x01]) + original[p + 1 :] for p in range(len(original))]


def test_an_altered_byte_of_the_manifest_is_refused(model: Path) -> None:
    path = model / "manifest.json"
    accepted_or_crashed = []
    for altered in manifests_with_one_byte_changed(path.read_bytes())[::3]:
        path.write_bytes(altered)
        try:
            load_bundle(model)
            accepted_or_crashed.append("accepted")
        except ModelError:
            continue
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            accepted_or_crashed.append(repr(error))
    assert accepted_or_crashed == []


def test_an_altered_manifest_never_loads_other_content(model: Path, pristine: Path) -> None:
    path = model / "manifest.json"
    for altered in manifests_with_one_byte_changed(path.read_bytes())[::7]:
        path.write_bytes(altered)
        try:
            bundle = load_bundle(model)
        except (ModelError, KeyError):
            continue
        assert json.loads(altered) == json.loads((pristine / "manifest.json").read_bytes())
        assert bundle.model_hash == hashlib.sha256(altered).hexdigest()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"other": {}}',
        b'{"files": {}}',
        b'{"files": {"config.json": {}}}',
    ],
)
def test_a_damaged_manifest_is_refused(model: Path, content: bytes) -> None:
    (model / "manifest.json").write_bytes(content)
    assert refusal(model).code == "E_MODEL_ALTERED"


@pytest.mark.parametrize(
    "content",
    [
        b'{"files": []}',
        b'{"files": null}',
        b'{"files": {"config.json": {"bytes": 1}}}',
        b'{"files": {"config.json": 3}}',
    ],
)
def test_a_manifest_of_another_form_is_refused(model: Path, content: bytes) -> None:
    (model / "manifest.json").write_bytes(content)
    assert refusal(model).code == "E_MODEL_ALTERED"


# --- consistent manifests, bad content -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["prior.head.weight", "vqvae.quantizer.vectors_KE", "calibration.residual_mean"])
def test_weights_that_are_not_finite_are_refused(model: Path, name: str, value: float) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    with_tensors(model, change)
    error = refusal(model)
    assert error.code == "E_MODEL_NAN"
    assert name in str(error)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, None, "1", True, 1.0])
def test_another_format_version_is_refused(model: Path, version: object) -> None:
    with_config(model, lambda config: config.update(format=version))
    error = refusal(model)
    assert error.code == "E_MODEL_VERSION"
    assert f"expected {FORMAT_VERSION}" in str(error)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("prior.head.bias"),
        lambda tensors: tensors.update({"vqvae.extra": torch.zeros(1)}),
        lambda tensors: tensors.update({"prior.head.bias": torch.zeros(9)}),
    ],
    ids=["missing", "extra", "wrong shape"],
)
def test_weights_that_do_not_fit_are_refused(model: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    with_tensors(model, change)
    assert refusal(model).code == "E_MODEL_SHAPE"


def test_settings_of_another_size_are_refused(model: Path) -> None:
    with_config(model, lambda config: config["settings"]["prior"].update(channels=16))
    assert refusal(model).code == "E_MODEL_SHAPE"


def test_weights_of_another_type_are_refused(model: Path) -> None:
    with_tensors(model, lambda tensors: tensors.update({k: t.half() for k, t in tensors.items() if "head" in k}))
    assert refusal(model).code == "E_MODEL_SHAPE"


def test_a_tensor_of_no_part_is_refused(model: Path) -> None:
    with_tensors(model, lambda tensors: tensors.update({"smuggled": torch.zeros(1)}))
    assert refusal(model).code == "E_MODEL_SHAPE"


def test_a_pickle_in_place_of_the_weights_is_refused(model: Path) -> None:
    torch.save({"prior.head.bias": torch.zeros(8)}, model / "model.safetensors")
    sign(model)
    assert refusal(model).code == "E_MODEL_ALTERED"


def test_an_unknown_setting_is_refused(model: Path) -> None:
    with_config(model, lambda config: config["settings"].update(learing_rate=1))
    with pytest.raises(MendscanError, match="learing_rate"):
        load_bundle(model)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b'{"format": 1}',
    ],
)
def test_a_config_of_another_form_is_refused(model: Path, content: bytes) -> None:
    (model / "config.json").write_bytes(content)
    sign(model)
    with pytest.raises(MendscanError):
        load_bundle(model)


def test_an_interrupted_save_is_no_model(
    model: Path, tiny_settings: Settings, arrays: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving over a model and dying before the manifest leaves a folder that is refused, not a mixture."""
    from mendscan.models import bundle

    def write_all_but_the_manifest(path: Path, text: str) -> None:
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        original(path, text)

    original = bundle.write_text
    monkeypatch.setattr(bundle, "write_text", write_all_but_the_manifest)
    others = VQVAE(tiny_settings.vqvae), PixelSNAIL(tiny_settings.prior, codes=12)
    with pytest.raises(KeyboardInterrupt):
        save_to(model, tiny_settings, others, arrays)
    assert refusal(model).code == "E_MODEL_ALTERED"

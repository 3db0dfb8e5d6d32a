# ruff: noqa: E501 - a row of the table is a line
"""Row 77: models as strangers may make them; a pickle among them would leave a file if it were opened."""

from __future__ import annotations

import functools
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from attacks.attack import Attack, wrote
from mendscan.cli import app
from mendscan.detection.detector import Detector
from mendscan.detection.verifying import verify_model
from mendscan.errors import MendscanError
from mendscan.models.contents import FORMAT_VERSION
from models.forgeries import BOMBS, HEADERS, TENSORS, WHOLE_FILES, with_other_prior
from models.forging import WEIGHTS, sign, with_config, with_header, with_tensors
from tiny_model import calibration_of, random_networks, save_model
from tiny_settings import SETTINGS

Change = Callable[[Path], object]
ESCAPES = "\x1b[2J\x1b]0;owned\x07<img src=x onerror=alert(1)>"


@functools.cache
def tiny_model() -> dict[str, bytes]:
    """The files of a model that is in order."""
    networks = random_networks(SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), networks, calibration_of(networks))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def honest(folder: Path) -> Path:
    (folder / "model").mkdir()
    for name, content in tiny_model().items():
        (folder / "model" / name).write_bytes(content)
    return folder / "model"


def model(
    name: str, expected: str, change: Change, why: str = "", through: Callable[..., object] | None = None
) -> Attack:
    def make(folder: Path) -> Path:
        change(honest(folder))
        return folder / "model"

    return Attack(77, f"model: {name}", expected, make, why, through or used)


def used(path: Path) -> None:
    """Verify a model and load it for detection: one refuses what the other refuses."""
    verifying = refusal(lambda: verify_model(path))
    loading = refusal(lambda: Detector.load(path, device="cpu"))
    assert str(verifying) == str(loading)
    if verifying is not None:
        raise verifying


def refusal(take: Callable[[], object]) -> MendscanError | None:
    try:
        take()
    except MendscanError as error:
        return error
    return None


def shown(path: Path) -> None:
    """Let ``mendscan verify`` show a model."""
    for options in ([], ["--json"]):
        printed = CliRunner().invoke(app, ["verify", str(path), *options])
        assert printed.exit_code == 0, printed.output
        assert all(character.isprintable() or character == "\n" for character in printed.output)


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Change:
    """Change a file's bytes, and nothing else."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def signed(change: Change) -> Change:
    """Change a file, and the manifest with it."""
    return lambda folder: (change(folder), sign(folder))


def weights(name: str) -> Change:
    return signed(bytes_of(WEIGHTS, WHOLE_FILES[name]))


def header(name: str) -> Change:
    return lambda folder: with_header(folder, HEADERS[name][0])


def tensors(name: str) -> Change:
    return lambda folder: with_tensors(folder, TENSORS[name][0])


def settings(name: str) -> Change:
    section, changed = BOMBS[name]
    return lambda folder: with_config(folder, lambda config: config["settings"][section].update(changed))


def with_metadata(folder: Path) -> None:
    """Escapes wherever a model has room for words."""
    (folder / "README.md").write_text(f"# {ESCAPES}\n")
    with_header(folder, lambda header: header.update(__metadata__={ESCAPES: ESCAPES}))
    with_config(folder, lambda config: config["settings"].update(preset=ESCAPES))


class Trap:
    """What a pickle may hold: when it is opened, it makes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.folder.parent / "the pickle was opened",)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"prior.head.bias": Trap(folder)}))


def torch_saved(folder: Path) -> None:
    torch.save({"prior.head.bias": Trap(folder)}, folder / WEIGHTS)


def torch_file(folder: Path) -> Path:
    torch.save({"prior.head.bias": Trap(folder / "model")}, folder / "model.pt")
    return folder / "model.pt"


def zip_bomb(_: bytes = b"") -> bytes:
    """64 MiB of zeros in 64 kB."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(WEIGHTS, bytes(2**26))
    return packed.getvalue()


def listed(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change what the manifest lists."""

    def changed(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest["files"])
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    return changed


def leading_out(files: dict[str, Any]) -> None:
    files["../../etc/passwd"] = files.pop("README.md")


def linked(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


SANITISED = "what a stranger wrote is shown without escapes; metadata of the weights is not shown at all"
MODEL_LEVEL = (
    model("weights empty", "E_MODEL_ALTERED", bytes_of(WEIGHTS, lambda _: b"")),
    model("weights truncated", "E_MODEL_ALTERED", bytes_of(WEIGHTS, WHOLE_FILES["truncated"])),
    model("weights one byte longer", "E_MODEL_ALTERED", bytes_of(WEIGHTS, WHOLE_FILES["one byte more"])),
    model("one bit of the weights flipped", "E_MODEL_ALTERED", bytes_of(WEIGHTS, lambda raw: raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:])),
    model("the same, truncated under a new manifest", "E_MODEL_ALTERED", weights("truncated")),
    model("the same, longer under a new manifest", "E_MODEL_ALTERED", weights("one byte more")),
    model("a key twice in a JSON file", "E_MODEL_JSON", signed(bytes_of("config.json", lambda raw: raw.rstrip()[:-1] + b', "format": 1}'))),
    model("a tensor twice in the header", "E_MODEL_ALTERED", header("duplicate keys")),
    model("tensors that share their bytes", "E_MODEL_ALTERED", header("overlapping tensors")),
    model("NaN among the weights", "E_MODEL_NAN", tensors("NaN")),
    model("a tensor missing", "E_MODEL_SHAPE", tensors("missing")),
    model("a tensor too many", "E_MODEL_SHAPE", tensors("one more")),
    model("a tensor of another shape", "E_MODEL_SHAPE", tensors("another shape")),
    model("a tensor in float16", "E_MODEL_SHAPE", tensors("float16")),
    model("100 000 tensors", "E_MODEL_TOO_LARGE", header("100 000 tensors"), through=verify_model),
    model("shape whose size overflows", "E_MODEL_ALTERED", header("shape that overflows")),
    model("header that is longer than the file", "E_MODEL_ALTERED", weights("header longer than the file")),
    model("pickle in place of the weights", "E_MODEL_ALTERED", signed(pickled)),
    model("file of torch.save in place of the weights", "E_MODEL_ALTERED", signed(torch_saved)),
    Attack(77, "model: a .pt file given as the model", "E_MODEL_MISSING", torch_file, "", used),
    model("zip bomb in place of the weights", "E_MODEL_ALTERED", signed(bytes_of(WEIGHTS, zip_bomb))),
    Attack(77, "model: a zip bomb given as the model", "E_MODEL_MISSING", lambda folder: wrote("model.zip", zip_bomb())(folder), "", used),
    model("../../etc/passwd in the manifest", "E_MODEL_ALTERED", listed(leading_out)),
    model("a wrong SHA-256 in the manifest", "E_MODEL_ALTERED", listed(lambda files: files["plan.json"].update(sha256="0" * 64))),
    model("a file missing", "E_MODEL_MISSING", lambda folder: (folder / "calibration.json").unlink()),
    model("no manifest", "E_MODEL_MISSING", lambda folder: (folder / "manifest.json").unlink()),
    model("VQ-VAE of one training, prior of another", "E_MODEL_PARTS", with_other_prior),
    model("future version of the format", "E_MODEL_VERSION", lambda folder: with_config(folder, lambda config: config.update(format=FORMAT_VERSION + 1))),
    model("settings that claim 100 000 channels", "E_MODEL_SHAPE", settings("100 000 channels of the prior")),
    model("settings that claim a grid of 10¹² voxels", "E_MODEL_TOO_LARGE", settings("a grid of 10¹²")),
    model("settings with escapes as a key", "E_SETTINGS", lambda folder: with_config(folder, lambda config: config["settings"].update({ESCAPES: 1}))),
    model("a link in the folder", "E_MODEL_LINK", linked),
    model("HTML and terminal escapes in its words", "", with_metadata, SANITISED, shown),
)  # fmt: skip

"""Models from strangers: each attack is made here, consistent in itself, and refused with its code."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor
from typer.testing import CliRunner

from detection.conftest import calibration, model_folder, networks  # noqa: F401 - fixtures
from mendscan.cli import app
from mendscan.config import Settings
from mendscan.detection.detector import Detector
from mendscan.detection.verifying import verify_model
from mendscan.errors import MendscanError, ModelError, SettingsError, WriteError
from mendscan.models.bundle import load_bundle, save_bundle
from mendscan.models.contents import FORMAT_VERSION
from mendscan.models.skeleton import expected_tensors, least_parameters, networks_of
from models.forgeries import BOMBS, HEADERS, TENSORS, WHOLE_FILES, with_other_prior
from models.forging import WEIGHTS, part_hash, sign, with_config, with_header, with_json, with_tensors


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:  # noqa: F811
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def refused(folder: Path) -> MendscanError:
    """Loading and verifying refuse the folder for the same reason."""
    with pytest.raises(MendscanError) as verifying:
        verify_model(folder)
    with pytest.raises(MendscanError) as loading:
        Detector.load(folder, device="cpu")
    assert verifying.value.code == loading.value.code
    assert "\n" not in str(loading.value)
    return loading.value


def test_an_honest_model_passes(model: Path) -> None:
    found = verify_model(model)
    assert found.bound
    assert found.format == FORMAT_VERSION
    assert found.model_hash == Detector.load(model, device="cpu").model_hash
    assert found.parameters["prior"] == sum(
        t.numel() for t in load_bundle(model).networks["prior"].state_dict().values()
    )
    assert found.signed_by is None


# --- the weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_other_bytes_for_weights(model: Path, name: str) -> None:
    (model / WEIGHTS).write_bytes(WHOLE_FILES[name]((model / WEIGHTS).read_bytes()))
    assert refused(model).code == "E_MODEL_ALTERED"  # the manifest has noticed
    sign(model)
    assert refused(model).code == "E_MODEL_ALTERED"  # the header has


@pytest.mark.parametrize("name", HEADERS)
def test_a_forged_header(model: Path, name: str) -> None:
    change, code = HEADERS[name]
    with_header(model, change)
    assert refused(model).code == code


@pytest.mark.parametrize("name", TENSORS)
def test_forged_tensors(model: Path, name: str) -> None:
    change, code = TENSORS[name]
    with_tensors(model, change)
    error = refused(model)
    assert error.code == code
    assert str(error).isprintable()


def test_metadata_is_ignored_and_never_shown(model: Path) -> None:
    with_header(model, lambda h: h.update(__metadata__={"<script>": "\x1b[31m"}))
    assert "script" not in json.dumps(verify_model(model).to_json())


# --- parts and versions ----------------------------------------------------------------------------------------------


def test_parts_of_two_runs_do_not_mix(model: Path) -> None:
    with_other_prior(model)
    error = refused(model)
    assert error.code == "E_MODEL_PARTS"
    assert "prior" in str(error)


@pytest.mark.parametrize("parts", [None, {}, [], {"prior": "x"}, "deleted"])
def test_parts_must_be_told(model: Path, parts: object) -> None:
    change = (lambda c: c.pop("parts")) if parts == "deleted" else (lambda c: c.update(parts=parts))
    with_config(model, change)
    assert refused(model).code in {"E_MODEL_PARTS", "E_MODEL_ALTERED"}


def test_the_parts_hashes_follow_the_rule_that_is_documented(model: Path) -> None:
    tensors = load((model / WEIGHTS).read_bytes())
    assert verify_model(model).parts == {p: part_hash(tensors, p) for p in ("vqvae", "prior", "calibration")}


def test_the_format_before_is_read(model: Path) -> None:
    def older(config: dict[str, Any]) -> None:
        del config["parts"]
        config["format"] = 1

    with_config(model, older)
    assert not verify_model(model).bound
    assert Detector.load(model, device="cpu").settings == load_bundle(model).settings


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 10**30])
def test_a_newer_format_is_named(model: Path, version: int) -> None:
    with_config(model, lambda config: config.update(format=version))
    error = refused(model)
    assert error.code == "E_MODEL_VERSION"
    assert str(version)[:9] in str(error)
    assert "update mendscan" in str(error)


def test_a_newer_format_is_named_even_if_its_manifest_is_another(model: Path) -> None:
    with_config(model, lambda config: config.update(format=9))
    (model / "manifest.json").write_text('{"blake3": {}}')
    assert refused(model).code == "E_MODEL_VERSION"


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "plan.json", "calibration.json", "split.json"])
@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": -Infinity}',
        b"[" * 100_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b"\xff{}",
        b"[]",
        b"",
    ],
    ids=["twice", "NaN", "1e999", "infinity", "lists", "40-deep", "long", "surrogate", "not-UTF-8", "list", "empty"],
)  # fmt: skip
def test_json_that_is_not_strict(model: Path, name: str, text: bytes) -> None:
    (model / name).write_bytes(text)
    sign(model)
    assert refused(model).code == "E_MODEL_JSON"


def values(**changed: object) -> Callable[[dict[str, Any]], Any]:
    return lambda calibration: calibration.update(changed)  # noqa: F811


CALIBRATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not sorted": lambda c: c["healthy_scores"].reverse(),
    "text": values(score_threshold_nats="7"),
    "truth": values(restoration_threshold_nats=True),
    "missing": lambda c: c.pop("map_threshold"),
    "unknown": values(more=1),
    "scale 0": values(map_scale_nats=0.0),
    "tail not sorted": lambda c: c["nll_tail"]["values"].reverse(),
    "tail of two lengths": lambda c: c["nll_tail"]["nats"].pop(),
    "tail removed": lambda c: c.pop("nll_tail"),
    "peak above 1": values(healthy_peaks=[[1.5]]),
    "peaks no lists": values(healthy_peaks=[0.5]),
    "scan without parts": values(scan={"parts": {}, "healthy_scores": [1.0]}),
    "gate of nothing": values(gate={}),
    "gate as code": values(gate="__import__('os')"),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_that_is_none(model: Path, name: str) -> None:
    with_json(model, "calibration.json", CALIBRATIONS[name])
    assert refused(model).code == "E_MODEL_CALIBRATION"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"calibration.nll_mean": torch.zeros(2, 3, 4)}),
        lambda t: t.update({"calibration.nll_mean": t["calibration.nll_mean"].double()}),
        lambda t: t.pop("calibration.nll_spread"),
        lambda t: t.update({"calibration.more": torch.zeros(3)}),
        lambda t: t["calibration.nll_spread"].zero_(),
    ],
    ids=["shape", "type", "missing", "unknown", "spread 0"],
)
def test_calibration_arrays_that_do_not_fit(model: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    with_tensors(model, change)
    assert refused(model).code == "E_MODEL_CALIBRATION"


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_in_the_settings(model: Path, name: str) -> None:
    section, changed = BOMBS[name]
    with_config(model, lambda config: config["settings"][section].update(changed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(model).code in {"E_MODEL_SHAPE", "E_MODEL_TOO_LARGE", "E_SETTINGS"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_a_discriminator_that_is_not_there(model: Path) -> None:
    with_config(model, lambda config: config["settings"]["training"].update(discriminator_share=0.5, steps=10**9))
    assert refused(model).code == "E_MODEL_SHAPE"


def test_sizes_are_checked_before_anything_is_read(model: Path) -> None:
    """Sparse files of 1 TB: manifest and settings say that no model can be so large."""
    for name in (WEIGHTS, "plan.json", "manifest.json"):
        whole = (model / name).read_bytes()
        os.truncate(model / name, 10**12)
        assert refused(model).code in {"E_MODEL_ALTERED", "E_MODEL_TOO_LARGE"}
        (model / name).write_bytes(whole)


def test_the_least_number_of_parameters_is_below_the_true_one(tiny_settings: Settings) -> None:
    from mendscan.config import PRESETS

    for settings in (tiny_settings, *PRESETS.values()):
        true = sum(torch.Size(shape).numel() for _, shape in expected_tensors(settings).values())
        assert true / 20 < least_parameters(settings) <= true


def test_a_skeleton_allocates_nothing_and_has_what_the_networks_have(tiny_settings: Settings) -> None:
    built = {
        f"{p}.{n}": tuple(t.shape) for p, net in networks_of(tiny_settings).items() for n, t in net.state_dict().items()
    }
    assert {name: shape for name, (_, shape) in expected_tensors(tiny_settings).items()} == built


# --- links and other files -------------------------------------------------------------------------------------------

LISTED = ("config.json", "plan.json", WEIGHTS, "calibration.json", "split.json", "README.md", "manifest.json")


@pytest.mark.parametrize("name", LISTED)
def test_links_are_not_followed(model: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (model / name).rename(outside)
    (model / name).symlink_to(outside)
    assert refused(model).code == "E_MODEL_LINK"


@pytest.mark.parametrize("name", ["README.md", WEIGHTS])
def test_a_pipe_does_not_hang(model: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    assert refused(model).code == "E_MODEL_MISSING"


def test_a_path_in_the_manifest_is_not_followed(model: Path) -> None:
    listed = json.loads((model / "manifest.json").read_text())
    listed["files"]["../../etc/passwd"] = listed["files"].pop("README.md")
    (model / "manifest.json").write_text(json.dumps(listed, sort_keys=True, indent=2) + "\n")
    assert refused(model).code == "E_MODEL_ALTERED"


def test_every_file_is_opened_once(model: Path) -> None:
    """What was verified is what is used: nothing can be exchanged in between."""
    program = f"""
        import sys
        opened = []
        sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
        from mendscan.detection.detector import Detector
        Detector.load({str(model)!r}, device="cpu")
        print([path for path in opened if path.startswith({str(model)!r})])
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert sorted(json.loads(told.stdout.replace("'", '"'))) == sorted(str(model / name) for name in LISTED)


# --- what is printed -------------------------------------------------------------------------------------------------


def test_nothing_a_stranger_wrote_reaches_the_terminal_as_it_is(model: Path) -> None:
    (model / "README.md").write_text("# \x1b[2J\x1b]0;owned\x07 \u202egnp.exe [red]x[/red] \x9b31m\r\n")
    with_json(model, "split.json", lambda split: split.update({"\x1b[31m": []}))
    with_config(model, lambda config: config["settings"].update(preset="\x1b[5mblink"))
    shown = CliRunner().invoke(app, ["verify", str(model)])
    assert shown.exit_code == 0, shown.output
    assert all(c.isprintable() or c == "\n" for c in shown.output)
    assert "[red]x[/red]" in shown.output
    as_json = CliRunner().invoke(app, ["verify", str(model), "--json"])
    assert as_json.output.isascii()
    assert json.loads(as_json.output)["ok"] is True


def test_a_setting_with_escapes_is_refused_in_plain_words(model: Path) -> None:
    with_config(model, lambda config: config["settings"].update({"\x1b[2J": 1}))
    with pytest.raises(SettingsError) as caught:
        load_bundle(model)
    assert str(caught.value).isprintable()


# --- the commands and the signature ----------------------------------------------------------------------------------


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_verify_says_unsigned_and_refuses_with_2(model: Path) -> None:
    shown = command("verify", model)
    assert shown.exit_code == 0
    assert "unsigned" in shown.output
    (model / WEIGHTS).write_bytes(b"x")
    shown = command("verify", model, "--json")
    assert shown.exit_code == 2
    assert json.loads(shown.stdout)["error"]["code"] == "E_MODEL_ALTERED"


def test_a_signature_is_valid_for_its_model_and_key_only(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key, other = tmp_path / "key", tmp_path / "other"
    assert command("verify", model, "--trusted", key).exit_code == 2  # no such key
    assert command("sign", model, "--key", key, "--new-key").exit_code == 0
    assert key.stat().st_mode & 0o077 == 0
    assert "there is a key already" in command("sign", model, "--key", key, "--new-key").output
    assert command("verify", model, "--trusted", f"{key}.pub").exit_code == 0
    assert load_bundle(model).model_hash == verify_model(model).model_hash
    assert command("sign", model, "--key", other, "--new-key").exit_code == 0
    refusal = command("verify", model, "--trusted", f"{key}.pub", "--json")
    assert refusal.exit_code == 2
    assert json.loads(refusal.stdout)["error"]["code"] == "E_MODEL_UNTRUSTED"
    assert command("verify", model, "--trusted", f"{key}.pub", "--trusted", f"{other}.pub").exit_code == 0
    assert "whose that is" in " ".join(command("verify", model).output.split())


def test_a_signature_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    assert command("sign", model, "--key", tmp_path / "key", "--new-key").exit_code == 0
    with_json(model, "plan.json", lambda plan: plan.update(why="other"))
    with pytest.raises(ModelError) as caught:
        verify_model(model)
    assert caught.value.code == "E_MODEL_SIGNATURE"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"algorithm":"none","public_key":"","signature":""}']
)
def test_a_damaged_signature_is_refused(model: Path, content: bytes) -> None:
    pytest.importorskip("cryptography")
    (model / "manifest.sig").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        verify_model(model)
    assert caught.value.code == "E_MODEL_SIGNATURE"


def test_a_flipped_bit_of_the_signature_is_refused(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    command("sign", model, "--key", tmp_path / "key", "--new-key")
    whole = json.loads((model / "manifest.sig").read_text())
    for name in ("signature", "public_key"):
        flipped = ("B" if whole[name][0] == "A" else "A") + whole[name][1:]
        (model / "manifest.sig").write_text(json.dumps(whole | {name: flipped}))
        with pytest.raises(ModelError, match="signature"):
            verify_model(model)


def test_trusted_keys_refuse_what_is_unsigned(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from mendscan.detection.signing import make_key_pair

    with pytest.raises(ModelError) as caught:
        verify_model(model, trusted=[make_key_pair(tmp_path / "key")])
    assert caught.value.code == "E_MODEL_UNTRUSTED"


def test_a_model_saved_again_is_the_same(model: Path, tmp_path: Path) -> None:
    """Nothing that a loaded model knows is lost: saving it gives the same files."""
    bundle = load_bundle(model)
    (tmp_path / "again").mkdir()
    save_bundle(
        tmp_path / "again",
        settings=bundle.settings,
        networks=bundle.networks,
        calibration=bundle.calibration,
        calibration_arrays=bundle.calibration_arrays,
        plan=bundle.plan,
        split=bundle.split,
        card=bundle.card,
    )
    assert all((tmp_path / "again" / name).read_bytes() == (model / name).read_bytes() for name in LISTED)


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_half_a_key_pair_is_not_made(tmp_path: Path, there: str) -> None:
    """A private key without its public one would sign what nobody can check."""
    pytest.importorskip("cryptography")
    from mendscan.detection.signing import make_key_pair

    (tmp_path / there).write_text("mine")
    with pytest.raises(WriteError, match="there is a key already"):
        make_key_pair(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"

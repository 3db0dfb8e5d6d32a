"""The build context is complete, verified, says what it is, and the package in it is the one that runs."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mendscan
from mendscan.cli import app
from mendscan.errors import MendscanError, ModelError, SettingsError, WriteError
from mendscan.models.bundle import load_bundle
from mendscan.submission import wheel
from mendscan.submission.building import assigned_models, digests, write_submission
from mendscan.submission.challenge import Anatomy
from mendscan.submission.wheel import pinned_requirements, write_wheel
from submission.conftest import WriteModel

SCRIPTS = {"run_sample_brain.sh", "run_pixel_brain.sh", "run_sample_abdom.sh", "run_pixel_abdom.sh"}
SOURCE = Path(mendscan.__file__).parent


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_it_holds_all_that_a_build_needs(submission: Path) -> None:
    names = {path.name for path in submission.iterdir()}
    wheels = {name for name in names if name.endswith(".whl")}
    assert len(wheels) == 1
    assert names - wheels == SCRIPTS | {"Dockerfile", "README.md", "constraints.txt", "manifest.json", "models"}
    for anatomy in ("brain", "abdom"):
        assert load_bundle(submission / "models" / anatomy).model_hash in (submission / "README.md").read_text()


def test_the_manifest_names_every_file(submission: Path) -> None:
    manifest = json.loads((submission / "manifest.json").read_text())
    files = {p.relative_to(submission).as_posix(): p for p in submission.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == set(files) - {"manifest.json"}
    for name, entry in manifest["files"].items():
        content = files[name].read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["models"]["brain"] == load_bundle(submission / "models" / "brain").model_hash


def test_templates_have_one_home(submission: Path) -> None:
    """What the repository shows as docker/ is what the package ships."""
    shown = Path(__file__).parents[2] / "docker"
    assert shown.is_symlink()
    assert shown.resolve() == SOURCE / "submission" / "docker"
    for name in (*SCRIPTS, "Dockerfile"):
        assert (submission / name).read_bytes() == (shown / name).read_bytes()


def test_the_same_models_give_the_same_bytes(submission: Path, models: dict[Anatomy, Path], tmp_path: Path) -> None:
    assert digests(write_submission(models, tmp_path / "again").folder) == digests(submission)


def test_it_names_no_path_of_this_machine(submission: Path, models: dict[Anatomy, Path]) -> None:
    for path in submission.iterdir():
        if path.is_file() and path.suffix != ".whl":
            for private in (models["brain"], Path(__file__).parents[2], submission):
                assert str(private) not in path.read_text()


@pytest.mark.parametrize("anatomy", ["brain", "abdom"])
def test_one_model_has_two_scripts_and_says_so(tmp_path: Path, models: dict[Anatomy, Path], anatomy: Anatomy) -> None:
    other = "abdom" if anatomy == "brain" else "brain"
    shown = run("mood-submission", "-m", models[anatomy], "-o", tmp_path / "one")
    assert shown.exit_code == 0, shown.output
    assert f"no model for {other}: its two scripts are left out" in words(shown.output)
    assert {p.name for p in (tmp_path / "one").glob("*.sh")} == {
        f"run_{mode}_{anatomy}.sh" for mode in ("pixel", "sample")
    }
    assert f"There is no model for {other}" in (tmp_path / "one" / "README.md").read_text()
    assert not (tmp_path / "one" / "models" / other).exists()


# --- which model is for which anatomy ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of(write_model: WriteModel) -> dict[str, Path]:
    return {preset: write_model(preset) for preset in ("brain", "abdomen", "auto")} | {"other": write_model("auto")}


@pytest.mark.parametrize(
    ("given", "brain", "abdomen"),
    [
        (["brain", "abdomen"], "brain", "abdomen"),
        (["abdomen", "brain"], "brain", "abdomen"),
        (["auto", "other"], "auto", "other"),
        (["auto", "abdomen"], "auto", "abdomen"),
        (["brain", "auto"], "brain", "auto"),
    ],
)
def test_presets_tell_and_else_the_order(of: dict[str, Path], given: list[str], brain: str, abdomen: str) -> None:
    assert assigned_models([of[name] for name in given]) == {"brain": of[brain], "abdom": of[abdomen]}


def test_said_outright(of: dict[str, Path]) -> None:
    assert assigned_models([], abdomen=of["auto"]) == {"abdom": of["auto"]}
    assert assigned_models([], brain=of["auto"], abdomen=of["abdomen"]) == {"brain": of["auto"], "abdom": of["abdomen"]}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["brain", "brain"], "same anatomy"),
        (["auto", "brain"], "another anatomy"),
        (["abdomen", "auto"], "another anatomy"),
        (["auto"], "nothing says which anatomy"),
        ([], "no model"),
        (["brain", "abdomen", "auto"], "more than two"),
    ],
)
def test_contradictions_are_refused(of: dict[str, Path], given: list[str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        assigned_models([of[name] for name in given])


def test_what_is_said_outright_may_not_contradict(of: dict[str, Path]) -> None:
    with pytest.raises(SettingsError, match="another anatomy"):
        assigned_models([], brain=of["abdomen"])
    with pytest.raises(SettingsError, match="said twice"):
        assigned_models([of["auto"]], brain=of["brain"])


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_altered_model_is_refused_and_nothing_is_left(models: dict[Anatomy, Path], tmp_path: Path) -> None:
    altered = Path(shutil.copytree(models["brain"], tmp_path / "model"))
    weights = bytearray((altered / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError):
        write_submission({"brain": altered}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run("mood-submission", "-m", altered, "-o", tmp_path / "out").exit_code == 2


def test_an_occupied_folder_is_refused(models: dict[Anatomy, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(WriteError):
        write_submission(models, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# --- the package -----------------------------------------------------------------------------------------------------


def test_the_wheel_is_the_package_that_runs(submission: Path) -> None:
    path = next(submission.glob("*.whl"))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        on_disk = {p.relative_to(SOURCE.parent).as_posix(): p for p in SOURCE.rglob("*") if p.is_file()}
        assert held == {name for name in on_disk if "__pycache__" not in name}
        assert "mendscan/submission/docker/Dockerfile" in held
        for name in held:
            assert archive.read(name) == on_disk[name].read_bytes()
        record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert {row[0] for row in rows} == set(archive.namelist())
        for name, digest, _ in (row for row in rows if row[0] != record):
            found = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
            assert digest == f"sha256={found}"


def test_the_wheel_can_be_installed(submission: Path, tmp_path: Path) -> None:
    """By pip, offline; the program then answers with its version."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(next(submission.glob("*.whl")))], check=True, capture_output=True)
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
    told = subprocess.run(
        [sys.executable, "-c", "import mendscan; print(mendscan.__file__, mendscan.__version__)"],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.split() == [str(site / "mendscan" / "__init__.py"), mendscan.__version__]
    assert (site / "bin" / "mendscan").is_file()
    assert (site / "mendscan" / "submission" / "docker" / "run_pixel_brain.sh").is_file()


def test_every_package_that_is_needed_is_pinned() -> None:
    lines = [line for line in pinned_requirements().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    for requirement in importlib.metadata.requires("mendscan") or []:
        if "extra ==" not in requirement:
            name = re.match(r"[a-z0-9-]+", requirement)[0]  # type: ignore[index]
            assert pinned[name] == importlib.metadata.version(name).partition("+")[0]
    assert "pytest" not in pinned
    assert "mendscan" not in pinned


def test_a_package_that_is_not_installed_cannot_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "_NAME", "no-such-package")
    with pytest.raises(MendscanError, match="not installed"):
        write_wheel(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(mendscan, "__version__", "0.0.0")
    with pytest.raises(MendscanError, match="another version"):
        write_wheel(tmp_path)
    assert list(tmp_path.iterdir()) == []

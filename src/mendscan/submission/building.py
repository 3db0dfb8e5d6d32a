"""Fill a folder with all that ``docker build`` needs: Dockerfile, scripts, models, the package, and what they are.

========================  ============================================================
file                      content
========================  ============================================================
``Dockerfile``            installs the package, adds scripts and models
``run_TASK_ANATOMY.sh``   one command each; only those whose model is there
``models/ANATOMY``        model folders, verified before and after copying
``mendscan-….whl``        the package as it runs here
``constraints.txt``       the version of every package that it runs with here
``README.md``             how to build, check, run, save and submit
``manifest.json``         SHA-256 and size of each of the above
========================  ============================================================
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import mendscan
from mendscan.cohort.held_folder import held_folder, refuse_occupied
from mendscan.errors import ResultsError, SettingsError
from mendscan.models.bundle import load_bundle
from mendscan.models.folder import LISTED
from mendscan.strict_json import read_json
from mendscan.submission.challenge import ANATOMIES, MODES, Anatomy, script_name
from mendscan.submission.readme import submission_readme
from mendscan.submission.wheel import pinned_requirements, write_wheel
from mendscan.volumes.locking import LOCK_NAME
from mendscan.volumes.writing import make_folder, write_bytes, write_json, write_text

__all__ = ["Submission", "assigned_models", "digests", "listed_digests", "write_submission"]

MANIFEST = "manifest.json"
_PRESET_OF: Mapping[Anatomy, str] = {"brain": "brain", "abdom": "abdomen"}
_OPTIONS = "name them with --brain and --abdomen"


@dataclass(frozen=True)
class Submission:
    """What was written.

    Attributes:
        folder: The build context.
        scripts: Names of its scripts.
        absent: Anatomies without a model, whose scripts are left out.
        model_hashes: Which model each anatomy has.
    """

    folder: Path
    scripts: tuple[str, ...]
    absent: tuple[Anatomy, ...]
    model_hashes: Mapping[Anatomy, str]


def assigned_models(
    models: Sequence[Path], *, brain: Path | None = None, abdomen: Path | None = None
) -> dict[Anatomy, Path]:
    """Decide which model is for which anatomy.

    A model trained with the preset ``brain`` or ``abdomen`` says so itself.  Of two others the first is for the brain.

    Args:
        models: One or two model folders.
        brain: The brain's model, said outright.
        abdomen: The abdomen's.

    Raises:
        SettingsError: If there is no model, a model contradicts what is said of it, or nothing says what a single one
            is for.
        ModelError: If a folder is no model.
    """
    said: dict[Anatomy, Path | None] = {"brain": brain, "abdom": abdomen}
    named = {anatomy: path for anatomy, path in said.items() if path is not None}
    if not named and not models:
        raise SettingsError("no model", where="--model", remedy="give one or two model folders")
    if len(models) > 2 or (named and models):
        raise SettingsError(
            "which model is for which anatomy is said twice, or for more than two",
            where="--model",
            found=f"{len(models)} times --model, {len(named)} named",
            remedy="give --model at most twice, or " + _OPTIONS,
        )
    found = named or _by_preset(list(models))
    for anatomy, path in found.items():
        if (other := _anatomy_of(path)) is not None and other != anatomy:
            raise SettingsError(
                "a model of another anatomy",
                where=path,
                found=f"preset {_PRESET_OF[other]}",
                expected=f"a model for {anatomy}",
                remedy=_OPTIONS,
            )
    return found


def _by_preset(models: list[Path]) -> dict[Anatomy, Path]:
    told = [_anatomy_of(path) for path in models]
    if len(models) == 1:
        if told[0] is None:
            raise SettingsError("nothing says which anatomy the model is for", where=models[0], remedy=_OPTIONS)
        return {told[0]: models[0]}
    if set(told) == set(ANATOMIES):
        return {anatomy: path for anatomy, path in zip(told, models, strict=True) if anatomy is not None}
    if told[0] == told[1] and told[0] is not None:
        raise SettingsError("both models are for the same anatomy", where="--model", found=told[0], remedy=_OPTIONS)
    return dict(zip(ANATOMIES, models, strict=True))


def _anatomy_of(model: Path) -> Anatomy | None:
    preset = load_bundle(model).settings.preset
    return next((anatomy for anatomy, name in _PRESET_OF.items() if name == preset), None)


def write_submission(models: Mapping[Anatomy, Path], folder: Path | str) -> Submission:
    """Write the build context of a container for the challenge.

    Args:
        models: A model folder for each anatomy, or for one of them.
        folder: Must be missing or empty.

    Returns:
        What was written; the manifest comes last, so that a folder without one is not complete.

    Raises:
        ModelError: If a model is not complete or was altered.
        WriteError: If the folder holds files already, another run is at work in it (E_LOCKED), or something cannot be
            written.
    """
    target = Path(folder)
    with held_folder(target, "submission"):
        refuse_occupied(target)
        return _write_submission(models, target)


def _write_submission(models: Mapping[Anatomy, Path], target: Path) -> Submission:
    hashes = {anatomy: load_bundle(path).model_hash for anatomy, path in models.items()}
    for anatomy, path in models.items():
        _copy_model(path, target / "models" / anatomy, hashes[anatomy])
    scripts = tuple(script_name(mode, anatomy) for anatomy in models for mode in MODES)
    for name in ("Dockerfile", *scripts):
        write_bytes(target / name, _template(name))
    wheel = write_wheel(target)
    write_text(target / "constraints.txt", pinned_requirements())
    absent = tuple(anatomy for anatomy in ANATOMIES if anatomy not in models)
    write_text(target / "README.md", submission_readme(scripts, absent, hashes, wheel.name))
    files = {name: digest for name, digest in digests(target).items() if name != LOCK_NAME}
    write_json(target / MANIFEST, {"mendscan": mendscan.__version__, "models": hashes, "files": files})
    return Submission(target, scripts, absent, hashes)


def digests(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return size and SHA-256 of every file below a folder but its manifest, by relative path; others by their kind."""
    found: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISREG(mode) and name != MANIFEST:
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            found[name] = {"bytes": path.stat().st_size, "sha256": digest}
        elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            found[name] = {"kind": stat.S_IFMT(mode)}
    return found


def listed_digests(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return what the manifest says of each file.

    Raises:
        ResultsError: If there is none that can be read.
    """
    path = folder / MANIFEST
    try:
        return dict(read_json(path)["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            "not a submission",
            where=path,
            found=error if isinstance(error, ValueError) else type(error).__name__,
            remedy="give a folder that mendscan mood-submission wrote",
        ) from None


def _copy_model(source: Path, target: Path, model_hash: str) -> None:
    make_folder(target)
    for name in (*LISTED, MANIFEST):
        write_bytes(target / name, (source / name).read_bytes())
    if load_bundle(target).model_hash != model_hash:
        raise SettingsError("the model changed while it was copied", where=source, remedy="try again")


def _template(name: str) -> bytes:
    return resources.files("mendscan.submission").joinpath("docker", name).read_bytes()

"""What matters in the Dockerfile and the scripts, read by a small parser, and by hadolint where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

SCRIPTS = [f"run_{mode}_{anatomy}.sh" for mode in ("sample", "pixel") for anatomy in ("brain", "abdom")]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Instruction and arguments, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, rest in pairs]


def problems(folder: Path) -> list[str]:
    """What is wrong with the Dockerfile of a build context."""
    found, steps = [], instructions(folder / "Dockerfile")
    for name, rest in steps:
        if name == "FROM":
            image = rest.split()[0]
            tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and not re.match(r"\d+\.\d+\.\d+", tag):
                found.append(f"{image} is not pinned to a version")
        if name == "ADD":
            found.append("ADD may fetch and unpack; COPY does not")
        if name in ("EXPOSE", "ENTRYPOINT", "VOLUME"):
            found.append(f"{name} has no place here")
        if name == "CMD" and not isinstance(json.loads(rest) if rest.startswith("[") else None, list):
            found.append("CMD is not in exec form")
        if name == "COPY":
            *sources, target = [word for word in rest.split() if not word.startswith("--")]
            found += [f"{s} does not exist" for s in sources if not list(folder.glob(s))]
            if not target.startswith("/"):
                found.append(f"{target} depends on a working directory")
        if name == "RUN":
            found += [f"pip keeps a cache: {part}" for part in re.split(r"&&|;", rest)
                      if "pip install" in part and "--no-cache-dir" not in part]  # fmt: skip
            found += [f"pip is not constrained: {part}" for part in re.split(r"&&|;", rest)
                      if "pip install" in part and "--constraint" not in part]  # fmt: skip
            if re.search(r"\b(curl|wget|git|apt-get|sudo)\b", rest):
                found.append(f"more is fetched than packages: {rest}")
    if sum(name == "FROM" for name, _ in steps) != 1 or steps[0][0] not in ("FROM", "ARG"):
        found.append("one stage is enough")
    copied = [word for name, rest in steps if name == "COPY" for word in rest.split()[:-1]]
    held = {p.name for p in folder.iterdir()} - {"Dockerfile", "README.md", "manifest.json"}
    found += [f"{name} is not copied" for name in held if not any(fnmatch(name, pattern) for pattern in copied)]
    return found


def test_nothing_is_wrong(submission: Path) -> None:
    assert problems(submission) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("FROM python:3.11.13-slim-bookworm", "FROM python:latest", "not pinned"),
        ("FROM python:3.11.13-slim-bookworm", "FROM python", "not pinned"),
        ("COPY models /workspace/models", "ADD https://example.org/x /workspace/models", "ADD may fetch"),
        ("COPY models", "COPY weights", "does not exist"),
        ("COPY models", "COPY run_a.sh", "models is not copied"),
        ('CMD ["mendscan", "--help"]', "CMD mendscan --help", "exec form"),
        ("CMD", "EXPOSE 80\nCMD", "EXPOSE"),
        ("--no-cache-dir", "", "keeps a cache"),
        ("--constraint /opt/mendscan/constraints.txt", "", "not constrained"),
        ("RUN python", "RUN curl x && python", "more is fetched"),
    ],
)
def test_the_parser_sees_what_is_wrong(copied_submission: Path, old: str, new: str, problem: str) -> None:
    path = copied_submission / "Dockerfile"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert any(problem in found for found in problems(copied_submission))


def test_hadolint_has_nothing_to_say(submission: Path) -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed")
    told = subprocess.run([program, str(submission / "Dockerfile")], check=False, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_hold_one_command_of_the_package(submission: Path, name: str) -> None:
    _, mode, anatomy = name.removesuffix(".sh").split("_")
    first, *lines = (submission / name).read_text().splitlines()
    assert first == "#!/bin/sh"
    (command,) = (line for line in lines if not line.startswith("#"))
    assert command == (
        f"PYTHONDONTWRITEBYTECODE=1 exec mendscan mood-predict --mode {mode} "
        f'-m "$(dirname "$0")/models/{anatomy}" -i "$1" -o "$2"'
    )
    assert subprocess.run(["sh", "-n", str(submission / name)], check=False).returncode == 0


def test_scripts_pass_on_any_path_and_the_exit_code(submission: Path, tmp_path: Path) -> None:
    program, log = tmp_path / "bin" / "mendscan", tmp_path / "log"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{log}"\nexit 5\n')
    program.chmod(0o755)
    script = submission / "run_pixel_abdom.sh"
    done = subprocess.run(
        ["sh", str(script), "/mnt/my data", "/mnt/pred $x"],
        check=False,
        env={"PATH": f"{program.parent}:/usr/bin:/bin"},
    )
    assert done.returncode == 5
    model = f"{submission}/models/abdom"
    expected = ["mood-predict", "--mode", "pixel", "-m", model, "-i", "/mnt/my data", "-o", "/mnt/pred $x"]
    assert log.read_text().splitlines() == expected

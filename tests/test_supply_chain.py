"""What comes along with mendscan: licences, pinned versions, hashes."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import licences  # noqa: E402

LOCK = ROOT / "constraints-ci.txt"


def test_every_package_that_comes_along_has_a_permissive_licence() -> None:
    packages = licences.runtime_packages()
    assert {"torch", "numpy", "pydantic", "markupsafe"} <= set(packages)
    found = {name: licences.licence_of(each) for name, each in packages.items()}
    assert [name for name, licence in found.items() if not licences.is_allowed(licence)] == []


def test_the_page_lists_them_all() -> None:
    listed = re.findall(r"^\| ([a-z0-9-]+) \| (?!licence)", licences.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(licences.runtime_packages()) <= set(listed)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-or-later", False),
        ("Proprietary", False),
        ("not said", False),
    ],
)
def test_licences_are_told_apart(licence: str, allowed: bool) -> None:
    assert licences.is_allowed(licence) is allowed


def locked() -> dict[str, tuple[str, list[str]]]:
    """Return version and hashes of every package of the lock."""
    found = {}
    for entry in re.split(r"\n(?=[a-z])", LOCK.read_text(encoding="utf-8").replace("\\\n", " ")):
        if match := re.match(r"([a-z0-9-]+)==(\S+)\s+(.*)", entry, re.DOTALL):
            found[match[1]] = (match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})\b", match[3]))
    return found


def test_every_package_but_torch_is_pinned_by_version_and_hash() -> None:
    packages = locked()
    assert len(packages) > 80
    assert all(hashes for _, hashes in packages.values())
    assert "torch" not in packages
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    for requirement in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in {"torch", "mendscan"}:
            assert requirement.specifier.contains(packages[name][0]), name
    for name, each in licences.runtime_packages().items():
        if name != "torch":
            assert name in packages, each


def test_torch_is_pinned_by_version() -> None:
    pinned = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned == [importlib.metadata.version("torch").partition("+")[0]]


def test_nothing_says_where_packages_come_from() -> None:
    assert not re.search(r"https?:|index-url|find-links", LOCK.read_text(encoding="utf-8"))

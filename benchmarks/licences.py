"""The packages that mendscan runs with, and their licences, from what is installed; writes docs/licences.md.

    python benchmarks/licences.py [--check]

Exit code 1 if a licence is not among those allowed, or, with --check, if the page is not as it would be written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
"""Permissive ones, and MPL-2.0, which asks for changes of its own files alone."""
KNOWN = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "BSD 3-Clause": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "new BSD": "BSD-3-Clause",
    "MIT License": "MIT",
    "The MIT License (MIT)": "MIT",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Names in metadata that are no SPDX identifiers."""


def runtime_packages() -> dict[str, importlib.metadata.Distribution]:
    """Return every package that mendscan needs without extras, and those that they need, as installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(text) for text in project["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = importlib.metadata.distribution(name)
        waiting += [Requirement(text) for text in found[name].requires or []]
    return dict(sorted(found.items()))


def licence_of(package: importlib.metadata.Distribution) -> str:
    """Return the licence as an SPDX expression where the metadata allow it, else in their own words."""
    if expression := package.metadata.get("License-Expression"):
        return expression
    classified = [
        line.rpartition("::")[2].strip()
        for line in package.metadata.get_all("Classifier") or []
        if line.startswith("License :: ") and line.rpartition("::")[2].strip() != "OSI Approved"
    ]
    own = (package.metadata.get("License") or "").strip()
    names = [own] if own and len(own) < 60 and "\n" not in own else classified
    return " AND ".join(KNOWN.get(name, name) for name in names) or "not said"


def is_allowed(licence: str) -> bool:
    """Return whether every part of an expression, or one of its alternatives, is allowed."""
    ways = re.split(r"\s+OR\s+", licence)
    return any(all(part.strip("() ") in ALLOWED for part in re.split(r"\s+AND\s+", way)) for way in ways)


def page(packages: dict[str, importlib.metadata.Distribution]) -> str:
    """Return docs/licences.md."""
    rows = [f"| {name} | {licence_of(package)} |" for name, package in packages.items()]
    return "\n".join(
        [
            "# Licences",
            "",
            "mendscan is under the Apache-2.0 licence.  These packages come along when it is installed without extras",
            "on Linux, with the licence that each states of itself; `python benchmarks/licences.py` writes this page,",
            "and a test fails when a package is added whose licence is not permissive (or MPL-2.0).  PyTorch for GPUs",
            "brings packages of NVIDIA along, under NVIDIA's own terms; its build for CPUs does not.  The viewer",
            "contains niivue (BSD-2-Clause), whose licence lies beside it in `viewer/static/vendor`.",
            "",
            "| package | licence |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    packages = runtime_packages()
    refused = {name: licence for name, each in packages.items() if not is_allowed(licence := licence_of(each))}
    for name, licence in refused.items():
        print(f"{name}: {licence}", file=sys.stderr)
    text = page(packages)
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    return int(bool(refused) or (check and PAGE.read_text(encoding="utf-8") != text))


if __name__ == "__main__":
    sys.exit(main())

"""Docstrings as mkdocstrings expects them."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """The section ``Example:`` is called ``Examples:`` there, and shown as code only then."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename it."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

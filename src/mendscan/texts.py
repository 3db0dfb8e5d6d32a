"""Text that others wrote, made safe to show on a terminal or in a log."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

_KEPT = frozenset("\n\t")
_UNSAFE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Controls (ANSI escapes start with one), invisible formatting (it can turn text around), lone surrogates, private use,
what is no character (yet), and the line breaks that only some programs know."""


def printable(text: str) -> str:
    r"""Return a text without anything that moves, colours, hides or turns what is shown.

    What is left out shows as U+FFFD; line feeds and tabulators stay.

    Example:
        >>> printable("a\x1b[31mb")
        'a�[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in _KEPT or unicodedata.category(c) not in _UNSAFE else "\N{REPLACEMENT CHARACTER}" for c in text
    )

"""The command line reference, made of the commands themselves."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from enum import Enum
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from typer.main import get_command

from mendscan.cli import app

MARKER = "<!-- commands -->"
_KINDS = {Path: "PATH", int: "N", float: "NUMBER", str: "TEXT"}
_EXAMPLE = re.compile(r"\s*Example: (mendscan .*)$", re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page has the marker."""
    return markdown.replace(MARKER, command_reference()) if MARKER in markdown else markdown


def command_reference() -> str:
    """Return every command with its arguments and options, in Markdown, in the order of ``mendscan --help``."""
    commands = get_command(app).commands.items()  # type: ignore[attr-defined]
    shown = {name: command for name, command in commands if not command.hidden}
    contents = [f"| [`{name}`](#mendscan-{name}) | {_summary(command)} |" for name, command in shown.items()]
    return "\n".join(["| command | |", "|---|---|", *contents, "", *map(_section, shown.items())])


def _section(named: tuple[str, Any]) -> str:
    name, command = named
    said = _EXAMPLE.sub("", command.help or "")
    example = _EXAMPLE.search(command.help or "")
    kinds = {each.name: each.annotation for each in signature(command.callback).parameters.values()}
    rows = [_row(parameter, kinds[parameter.name]) for parameter in command.params]
    head = ["| option | value | default | meaning |", "|---|---|---|---|"]
    code = ["```sh", example[1], "```", ""] if example else []
    return "\n".join([f"## mendscan {name}", "", said, "", *code, *head, *rows, ""])


def _row(parameter: Any, kind: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.name.upper()]
    cells = [", ".join(f"`{name}`" for name in names), _value(kind), _default(parameter), parameter.help or ""]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _value(kind: Any) -> str:
    """Return what an option takes, in words; nothing for a switch."""
    return " ".join(_words(kind))


def _words(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Annotated or get_origin(kind) in (Union, types.UnionType, list):
        yield from _words(get_args(kind)[0])
    elif get_origin(kind) is tuple:
        for each in get_args(kind):
            yield from _words(each)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield ", ".join(f"`{each.value}`" for each in kind)
    elif kind is not bool:
        yield _KINDS[kind]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value in ((), []):
        return ""
    if value is True:
        return f"`{parameter.opts[0]}`"
    values = value if isinstance(value, tuple | list) else (value,)
    return "`" + " ".join(str(each.value if isinstance(each, Enum) else each) for each in values) + "`"


def _summary(command: Any) -> str:
    return (command.help or "").split("\n\n")[0].replace("|", "\\|")

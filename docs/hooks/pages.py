"""Pages of the site that lie elsewhere in the repository, and links that hold in both places."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FRONT = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "reporting-a-weakness.md": "SECURITY.md",
    "licence.txt": "LICENSE",
    "citation.txt": "CITATION.cff",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_EXTERNAL = re.compile(r"[a-z]+:|#")
_INTERVAL = re.compile(r"\[[+−-]?\d[\d.]*, [+−-]?\d[\d.]*\]")
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that lie at the top of the repository."""
    for uri, source in FRONT.items():
        text = (_root(config) / source).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Make a page that is written for a repository host one of the site."""
    uri, root = page.file.src_uri, _root(config)
    if page.parent is None:
        page.meta["hide"] = ["navigation"]  # it would list this page alone
    lines = _one_title(_lists_apart(markdown.splitlines()))
    return "\n".join(line if code else _LINK.sub(lambda link: _on_site(link, uri, root), line) for line, code in lines)


def on_page_content(html: str, **_: Any) -> str:
    """Keep intervals in one line, and show the two colons that begin a literal block in a docstring as one."""
    cells = re.split(r"(<td.*?</td>)", html, flags=re.DOTALL)
    cells[1::2] = [_INTERVAL.sub(r'<span class="interval">\g<0></span>', cell) for cell in cells[1::2]]
    return "".join(cells).replace("::</p>", ":</p>")


def _lists_apart(lines: list[str]) -> list[tuple[str, bool]]:
    """Return each line and whether it is code, with an empty one before each list, which Python-Markdown needs."""
    told: list[tuple[str, bool]] = []
    code, before = False, ""
    for line in lines:
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and _ITEM.match(line) and before and not before.startswith(" ") and not _ITEM.match(before):
            told.append(("", False))
        told.append((line, code))
        before = line
    return told


def _one_title(lines: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Make later titles headings: that of a card shown in a notebook would end the table of contents."""
    titles = [n for n, (line, code) in enumerate(lines) if line.startswith("# ") and not code]
    return [(f"#{line}" if n in titles[1:] else line, code) for n, (line, code) in enumerate(lines)]


def _on_site(link: re.Match[str], uri: str, root: Path) -> str:
    """Return a link as the site has it; what lies in the repository and not on the site becomes its name."""
    mark, text, target = link.groups()
    if _EXTERNAL.match(target):
        return link[0]
    path, hash_, anchor = target.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(FRONT.get(uri, f"docs/{uri}")), path))
    pages = {source: page for page, source in FRONT.items()}
    if there in pages or there.startswith("docs/"):
        page = pages.get(there, there.removeprefix("docs/"))
        return f"{mark}[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{hash_}{anchor})"
    if not (root / there).exists():
        return link[0]  # MkDocs complains
    return text if "`" in text else f"`{text}`"


def _root(config: Any) -> Path:
    return Path(config.config_file_path).parent

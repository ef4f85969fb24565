"""Hooks of mkdocs for the site: files from outside docs/, mathematics, and nothing from the network.

Links work in the repository and on the site alike: what a page links to outside docs/ becomes a page of
the site under repository/, and so does what that page links to.
"""

import html
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OUTSIDE = "repository"
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)((?:#[^)]*)?)\)")
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FETCHED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*\s(?:src|href)=\"?(?:https?:)?//[^>]*>"
    r"|(?:@import|url\()[^;)]*//[^;)]*"
)


def on_files(files: Files, config: Any) -> Files:
    """Adds what is linked to and lies outside docs/."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for _, target, _ in LINK.findall(page.read_text()):
            path = _path(page, target)
            if path is None or path in seen or DOCS in path.parents:
                continue
            seen.add(path)
            files.append(_file(path, config))
            if path.suffix == ".md":
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links out of docs/ to where `on_files` has put their targets."""
    place = page.file.src_uri
    source = ROOT / place.removeprefix(f"{OUTSIDE}/") if place.startswith(OUTSIDE) else DOCS / place
    if source.suffix != ".md" or not source.exists():
        return markdown

    def turned(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        path = _path(source, target)
        if path is None:
            return text if (source.parent / target).is_dir() else link[0]
        return f"[{text}]({os.path.relpath(_place(path), os.path.dirname(place))}{anchor})"

    return LINK.sub(turned, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers lay out themselves."""
    return MATH.sub(_mathml, content)


def on_post_build(config: Any) -> None:
    """Refuses a site that would fetch anything from elsewhere."""
    site = Path(config.site_dir)
    for page in sorted((*site.rglob("*.html"), *site.rglob("*.css"))):
        if found := FETCHED.search(page.read_text()):
            raise PluginError(f"{page} fetches from the network: {found[0]}")


def _path(page: Path, target: str) -> Path | None:
    """The file of this repository that a page links to, if it is one."""
    if "://" in target or target.startswith("mailto:"):
        return None
    path = Path(os.path.normpath(page.parent / target))
    return path if path.is_file() and ROOT in path.parents else None


def _place(path: Path) -> str:
    """Where a file of the repository stands among the site's sources."""
    if DOCS in path.parents:
        return path.relative_to(DOCS).as_posix()
    shown = path.relative_to(ROOT).as_posix()
    return f"{OUTSIDE}/{shown}" if path.suffix in (".md", ".png") else f"{OUTSIDE}/{shown}.md"


def _file(path: Path, config: Any) -> File:
    place = _place(path)
    if path.suffix in (".md", ".png"):
        return File.generated(config, place, abs_src_path=str(path))
    fence = f"# {path.relative_to(ROOT)}\n\n````{path.suffix[1:]}\n{path.read_text()}````\n"
    return File.generated(config, place, content=fence)


def _mathml(found: re.Match[str]) -> str:
    block = found[1] == "div"
    formula = convert(html.unescape(found[2]).strip(), display="block" if block else "inline")
    if "\\" in formula:
        raise PluginError(f"{found[2]} has a command that latex2mathml does not know")
    return f'<div class="formula">{formula}</div>' if block else formula

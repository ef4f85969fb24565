"""What tests of pages share: runs whose records are edited, and what a page says."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerparallel.runs import record


def changed(folder: Path, copy: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a run whose record has been edited, line by line; None drops a line."""
    copy.mkdir(parents=True)
    lines = [edit(line) for line in record.read(folder)]
    text = "".join(json.dumps(line) + "\n" for line in lines if line is not None)
    (copy / record.RECORD).write_text(text)
    (copy / record.SUMMARY).write_bytes((folder / record.SUMMARY).read_bytes())
    return copy


def text_of(page: str) -> str:
    """What stands between the tags."""
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))

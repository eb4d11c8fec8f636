"""Write the figures of the pages from the results that commands wrote: ``python docs/figures.py [PAGE...]``.

A figure in a page is followed by a comment that says where it comes from, ``22.24<!-- =FILE:KEY/KEY -->``: a
results file (of ``benchmarks/results`` where it names no folder) and the keys down to the value; ``*`` stands
for any text in a key. The number keeps its decimals, and is in per cent where `` %`` follows the comment.
Between ``<!-- tables =FILE -->`` and ``<!-- end -->`` stand the tables of a fine-tuning's results.
"""

from __future__ import annotations

import json
import re
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from geneformer_grn.workflows.finetune_card import render_result_tables

ROOT = Path(__file__).resolve().parent.parent
FIGURE = re.compile(
    r"(?P<number>[+-]?[\d,]+(?:\.\d+)?)(?P<source><!-- =(?P<file>[^:\s]+):(?P<keys>.+?) -->)(?P<percent> %)?"
)
TABLES = re.compile(r"(?P<begin><!-- tables =(?P<file>\S+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


@cache
def results(file: str) -> Any:
    """Return the content of a results file."""
    path = ROOT / file if "/" in file else ROOT / "benchmarks" / "results" / file
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def value_of(file: str, keys: str) -> float:
    """Return one value of a results file.

    Raises
    ------
    KeyError
        A key is not there, or fits several.
    """
    found = results(file)
    for key in keys.split("/"):
        if isinstance(found, list):
            found = found[int(key)]
            continue
        fitting = [name for name in found if name == key] or [
            name for name in found if fnmatchcase(name, key)
        ]
        if len(fitting) != 1:
            raise KeyError(f"{file}:{keys}: {key!r} fits {fitting or 'nothing'} of {', '.join(found)}")
        found = found[fitting[0]]
    return float(found)


def with_figures(text: str) -> str:
    """Return a page with every figure, and every table, as its results file has it."""

    def written(match: re.Match[str]) -> str:
        value = value_of(match["file"], match["keys"]) * (100 if match["percent"] else 1)
        decimals = len(match["number"].partition(".")[2])
        sign = "+" if match["number"].startswith("+") else ""
        return f"{value:{sign},.{decimals}f}{match['source']}{match['percent'] or ''}"

    def tables(match: re.Match[str]) -> str:
        return f"{match['begin']}\n{render_result_tables(results(match['file']))}\n\n{match['end']}"

    return FIGURE.sub(written, TABLES.sub(tables, text))


def pages() -> list[Path]:
    """Return the pages that hold such figures."""
    texts = {path: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
    return [path for path, text in texts.items() if FIGURE.search(text) or TABLES.search(text)]


if __name__ == "__main__":
    for page in [Path(name) for name in sys.argv[1:]] or pages():
        page.write_text(with_figures(page.read_text("utf-8")), encoding="utf-8")

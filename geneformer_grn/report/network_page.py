"""A network as an interactive page: one HTML file that loads nothing, to zoom, search and filter.

Names of genes and groups come from files of others. They travel as JSON whose angle brackets are escaped,
and the script writes them as text only; a content security policy forbids any request.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, logger, package_version
from geneformer_grn.report.drawing import label_genes, require_columns

MOST_EDGES = 5_000  # of each group and method: what a browser lays out and lists without delay
SHOWN = 150
_DIGITS = 4


def network_page(edges: pd.DataFrame, *, title: str = "Gene network", shown: int = SHOWN) -> str:
    """Return the page as HTML; the same edges give the same text.

    Parameters
    ----------
    edges
        ``source``, ``target``, ``weight``; optionally ``source_symbol``, ``target_symbol``, ``sign`` (+1, -1;
        0 or missing: unknown), ``support``, ``q_value``, ``group`` and ``method``, each to choose from. Of
        each group and method the 5,000 strongest are kept.
    title
        Heading of the page.
    shown
        How many of the strongest edges are drawn at first.

    Raises
    ------
    ValueError
        A required column is missing, no edge has a weight, or `shown` is not positive.

    Examples
    --------
    >>> edges = pd.DataFrame({"source": ["SPI1"], "target": ["LYZ"], "weight": [0.9]})
    >>> network_page(edges).startswith("<!DOCTYPE html>")
    True
    """
    require_columns(edges, ["source", "target", "weight"], "the network page")
    if shown < 1:
        raise ValueError(f"a page shows at least 1 edge, got {shown}")
    weighed = edges[edges["weight"].notna().to_numpy()]
    if weighed.empty:
        raise ValueError("there is no edge with a weight to show")
    kept = _strongest(weighed)
    return _template().render(
        title=title,
        version=package_version(),
        data=_script_json({**_content(kept), "shown": shown}),
        most=MOST_EDGES,
        cut=len(kept) < len(weighed),
    )


def write_network_page(
    edges: pd.DataFrame, path: Path | str, *, title: str = "Gene network", shown: int = SHOWN
) -> None:
    """Write the page to `path`; an earlier one is replaced only when the new one is complete.

    Raises
    ------
    ValueError
        As `network_page`, or `path` does not end in .html or is a folder.
    PermissionError, NotADirectoryError
        The folder cannot be created or written.
    """
    check_page(path)
    text = network_page(edges, title=title, shown=shown)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logger.info("wrote %s", path)


def check_page(path: Path | str) -> None:
    """Refuse, before any work is done, a path that is not a page's.

    Raises
    ------
    ValueError
        `path` does not end in .html, or is a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in {".html", ".htm"}:
        raise ValueError(f"pages are written as .html; {path.name!r} is not")
    if path.is_dir():
        raise ValueError(f"cannot write the page {path}: it is a folder")


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("network.html.j2")


def _strongest(edges: pd.DataFrame) -> pd.DataFrame:
    """Return the strongest edges of each group and method, strongest first within each."""
    order = np.argsort(-edges["weight"].abs().to_numpy(dtype=np.float64), kind="stable")
    ordered = edges.iloc[order]
    place = ordered.groupby([_text(ordered, "group"), _text(ordered, "method")]).cumcount()
    return ordered[(place < MOST_EDGES).to_numpy()]


def _text(edges: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as text; what has no such column is all of one kind."""
    if column not in edges:
        return np.full(len(edges), "all", dtype=object)
    return edges[column].astype("string").fillna("").to_numpy(dtype=object)


def _content(edges: pd.DataFrame) -> dict[str, Any]:
    """Return what the script reads: columns of numbers, and lists of names that they stand for."""
    ends = np.concatenate([edges[column].astype(str).to_numpy(object) for column in ("source", "target")])
    labels = np.concatenate([label_genes(edges, column).to_numpy(object) for column in ("source", "target")])
    numbers, ids = pd.factorize(ends)
    # A gene's symbol may stand in some rows only: rows that have it first, then the first row of each gene.
    named = np.argsort(labels == ends, kind="stable")
    first = named[np.unique(numbers[named], return_index=True)[1]]
    names = _distinct(labels[first], ids)
    sign = np.zeros(len(edges))
    if "sign" in edges:
        sign = np.nan_to_num(np.sign(edges["sign"].to_numpy(dtype=np.float64, na_value=np.nan)))
    content: dict[str, Any] = {
        "ids": ids.tolist(),
        "genes": names,
        "source": numbers[: len(edges)].tolist(),
        "target": numbers[len(edges) :].tolist(),
        "weight": [float(f"{weight:.{_DIGITS}g}") for weight in edges["weight"]],
        "sign": sign.astype(int).tolist(),
        "support": None,
        "q": None,
    }
    for key, column in (("group", "group"), ("method", "method")):
        content[key], found = (part.tolist() for part in pd.factorize(_text(edges, column), sort=True))
        content[f"{key}s"] = found
    if "support" in edges and edges["support"].notna().all():
        content["support"] = edges["support"].astype(int).tolist()
    if "q_value" in edges and edges["q_value"].notna().any():
        q = edges["q_value"].to_numpy(dtype=np.float64, na_value=np.nan)
        content["q"] = [None if np.isnan(value) else float(f"{value:.3g}") for value in q]
    return content


def _distinct(labels: np.ndarray, ids: np.ndarray) -> list[str]:
    """Return the labels, with the identifier added where two genes have the same."""
    repeated = pd.Series(labels).duplicated(keep=False).to_numpy()
    return [
        f"{label} ({gene})" if twice and label != gene else str(label)
        for label, gene, twice in zip(labels, ids, repeated, strict=True)
    ]


def _script_json(content: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in, nor begin a comment or a tag."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text

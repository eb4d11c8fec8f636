"""Edge tables in the formats of other tools, and theirs read as ours.

Most of them know one network only, no groups and no methods: which one is meant has to be said, rather than
several being poured into one. What a format cannot hold is dropped, and its table here says what that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from geneformer_grn._runtime import atomic_path, logger
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.network.edges import check_edges, read_edges
from geneformer_grn.network.graphml import write_graphml
from geneformer_grn.network.truth import canonical_genes

FORMATS: dict[str, str] = {
    "edges": "ours, all columns",
    "decoupler": "source, target, weight (with its sign)",
    "arboreto": "TF, target, importance (no sign), as SCENIC and GRNBoost2 read it",
    "graphml": "for networkx, igraph, Cytoscape and Gephi: all groups and methods, all columns",
    "sif": "source, relation, target for Cytoscape: no weights",
    "celloracle_base": "peak_id, gene_short_name and a column of 0 and 1 per regulator: no weights",
    "celloracle_links": "source, target, coef_mean, coef_abs, p, -logp and the cluster",
}
"""Format -> what it holds."""

_OF_ENDING = {".graphml": "graphml", ".sif": "sif"}
_MANY_METHODS = frozenset({"edges", "graphml"})
_MANY_GROUPS = frozenset({"edges", "graphml", "celloracle_links"})
_ARBORETO = ["TF", "target", "importance"]
_BEELINE = {"Gene1": "source", "Gene2": "target", "EdgeWeight": "weight"}


def write_network(
    edges: pd.DataFrame,
    path: Path | str,
    *,
    form: str | None = None,
    group: str | None = None,
    method: str | None = None,
    top: int | None = None,
    names: str = "symbol",
) -> int:
    """Write an edge table for another tool, atomically.

    Parameters
    ----------
    edges
        Edge table.
    path
        File to write: comma-separated where it ends in ``.csv``, parquet where in ``.parquet`` (tables only),
        else tab-separated; ``.gz`` compresses.
    form
        Of `FORMATS`; None: by the ending, ``.graphml`` or ``.sif``.
    group, method
        Only edges of these. Needed where the table has several and the format can hold only one.
    top
        Only the strongest edges of each group and method.
    names
        ``symbol`` or ``ensembl``. Genes without one keep the name they have; of two genes of one symbol, the
        stronger edge is kept.

    Returns
    -------
    int
        Edges written.

    Raises
    ------
    ValueError
        The format, group, method or kind of names is unknown, or a choice is missing.

    Examples
    --------
    >>> write_network(edges, "b.tsv", form="decoupler", group="B", method="ridge")  # doctest: +SKIP
    1000
    """
    path = Path(path)
    form = form or _OF_ENDING.get(path.suffix.lower())
    if form not in FORMATS:
        known = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
        raise ValueError(f"{form or 'no'} format is known for {path.name!r}; name one by --format ({known})")
    chosen = _chosen(check_edges(edges), form, group=group, method=method)
    if top is not None:
        keys = [column for column in ("group", "method") if column in chosen.columns]
        by_strength = chosen.iloc[np.argsort(-np.abs(chosen["weight"].to_numpy()), kind="stable")]
        chosen = by_strength.groupby(keys, sort=False).head(top) if keys else by_strength.head(top)
        chosen = chosen.reset_index(drop=True)
    named = renamed(chosen, names)
    with atomic_path(path) as temporary:
        if form == "graphml":
            with temporary.open("w", encoding="utf-8") as file:
                write_graphml(chosen, file, name_of=_name_of(chosen, names))
            named = chosen
        elif form == "sif":
            with temporary.open("w", encoding="utf-8") as file:
                _write_sif(named, file)
        else:
            _write_table(named if form == "edges" else _TABLES[form](named), temporary, path)
    logger.info("wrote %d edges to %s (%s)", len(named), path, form)
    return len(named)


def read_network(path: Path | str) -> pd.DataFrame:
    """Read edges of ours, of decoupler (``source``, ``target``, ``weight``), arboreto, pySCENIC or BEELINE.

    Parameters
    ----------
    path
        ``.tsv`` or ``.csv``, either with ``.gz``. Arboreto's table (``TF``, ``target``, ``importance``) is
        known by its columns, or, as it is often saved without any, by a number in the third of three fields;
        BEELINE's by ``Gene1``, ``Gene2``, ``EdgeWeight``, with tabs even where it is called ``.csv``.

    Returns
    -------
    DataFrame
        Checked edge table; of arboreto's with the method ``arboreto`` and no signs, of BEELINE's, whose
        methods are signed or not, with the method ``beeline``.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        See `geneformer_grn.network.edges.read_edges`.
    """
    path = Path(path)
    if path.is_file():
        separator = "," if path.name.removesuffix(".gz").endswith(".csv") else "\t"
        try:
            first = pd.read_csv(path, sep=separator, nrows=1, header=None, dtype=str, keep_default_na=False)
        except (
            pd.errors.ParserError,
            pd.errors.EmptyDataError,
            UnicodeDecodeError,
            OSError,
            EOFError,
        ) as error:
            why = "it is not text" if isinstance(error, UnicodeDecodeError) else error
            raise ValueError(f"{path.name} is no table of edges: {why}") from error
        fields = [str(field) for field in first.iloc[0]]
        if len(fields) == 1 and set(_BEELINE) <= set(fields[0].split("\t")):
            separator, fields = "\t", fields[0].split("\t")
        if set(_BEELINE) <= set(fields):
            table = pd.read_csv(
                path, sep=separator, dtype={"Gene1": str, "Gene2": str},
                keep_default_na=False, na_values={"EdgeWeight": [""]},
            )  # fmt: skip
            as_ours = table.rename(columns=_BEELINE).assign(method="beeline")
            return check_edges(as_ours, name=path.name)
        headless = len(fields) == 3 and _is_number(fields[2])
        if headless or set(_ARBORETO) <= set(fields):
            table = pd.read_csv(
                path, sep=separator, header=None if headless else 0, names=_ARBORETO if headless else None,
                dtype={"TF": str, "target": str}, keep_default_na=False, na_values={"importance": [""]},
            )  # fmt: skip
            as_ours = table.rename(columns={"TF": "source", "importance": "weight"})
            return check_edges(as_ours.assign(method="arboreto", sign=0), name=path.name)
    return read_edges(path)


def renamed(edges: pd.DataFrame, names: str) -> pd.DataFrame:
    """Return edges with genes by symbol or Ensembl ID; of edges that become one, the strongest.

    Raises
    ------
    ValueError
        `names` is neither ``symbol`` nor ``ensembl``.
    """
    name_of = _name_of(edges, names)
    table = edges.assign(source=edges["source"].map(name_of), target=edges["target"].map(name_of))
    keys = [column for column in ("source", "target", "group", "method") if column in table.columns]
    by_strength = table.iloc[np.argsort(-np.abs(table["weight"].to_numpy()), kind="stable")]
    first = ~by_strength.duplicated(keys)
    if not first.all():
        n_lost = int((~first).sum())
        logger.warning("%d edges left out: two genes of one %s, the stronger is kept", n_lost, names)
    kept = by_strength[first & (by_strength["source"] != by_strength["target"])]
    return kept.sort_index().reset_index(drop=True)


def _name_of(edges: pd.DataFrame, names: str) -> dict[str, str]:
    """Return gene -> the name to write."""
    genes = pd.unique(edges[["source", "target"]].to_numpy().ravel())
    if names == "ensembl":
        return dict(zip(genes, canonical_genes(genes), strict=True))
    if names != "symbol":
        raise ValueError(f"genes are named by symbol or ensembl, not by {names!r}")
    symbol_of = dict(load_gene_table().symbol_of)
    for column in ("source", "target"):
        if f"{column}_symbol" in edges.columns:
            symbol_of |= dict(zip(edges[column], edges[f"{column}_symbol"], strict=True))
    found = {gene: symbol_of.get(gene) for gene in genes}
    return {gene: symbol if isinstance(symbol, str) and symbol else gene for gene, symbol in found.items()}


def _chosen(edges: pd.DataFrame, form: str, *, group: str | None, method: str | None) -> pd.DataFrame:
    """Return the edges of a group and method; of all where they need not be chosen."""
    for column, wanted in (("group", group), ("method", method)):
        present = edges[column].unique().tolist() if column in edges.columns else []
        if wanted is not None and wanted not in present:
            found = ", ".join(map(repr, present)) or "none"
            raise ValueError(f"no edges of {column} {wanted!r}; the table has {found}")
        if wanted is not None:
            edges = edges[edges[column] == wanted].reset_index(drop=True)
    for column, many in (("group", _MANY_GROUPS), ("method", _MANY_METHODS)):
        present = edges[column].unique().tolist() if column in edges.columns else []
        if len(present) > 1 and form not in many:
            found = ", ".join(map(repr, present))
            raise ValueError(f"{form} holds one {column}, and the table has {found}; choose by --{column}")
    return edges


def _decoupler(edges: pd.DataFrame) -> pd.DataFrame:
    return edges[["source", "target", "weight"]]


def _arboreto(edges: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(
        {"TF": edges["source"], "target": edges["target"], "importance": edges["weight"].abs()}
    )
    return table.sort_values("importance", ascending=False, kind="stable")


def _celloracle_links(edges: pd.DataFrame) -> pd.DataFrame:
    p = edges["p_value"] if "p_value" in edges.columns else pd.Series(np.nan, index=edges.index)
    smallest = np.finfo(np.float64).tiny  # a p-value that is 0 has no logarithm
    return pd.DataFrame(
        {
            "source": edges["source"],
            "target": edges["target"],
            "coef_mean": edges["weight"],
            "coef_abs": edges["weight"].abs(),
            "p": p,
            "-logp": -np.log10(np.maximum(p, smallest)),
            "cluster": edges["group"] if "group" in edges.columns else "all",
        }
    )


def _celloracle_base(edges: pd.DataFrame) -> pd.DataFrame:
    pairs = pd.crosstab(edges["target"], edges["source"]).clip(upper=1).astype(np.float64)
    pairs.columns.name = None
    pairs = pairs.reset_index(names="gene_short_name")
    pairs.insert(0, "peak_id", pairs["gene_short_name"])
    return pairs


_TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "decoupler": _decoupler,
    "arboreto": _arboreto,
    "celloracle_base": _celloracle_base,
    "celloracle_links": _celloracle_links,
}


def _write_table(table: pd.DataFrame, temporary: Path, path: Path) -> None:
    ending = path.name.removesuffix(".gz")
    if ending.endswith(".parquet"):
        table.to_parquet(temporary, index=False)
        return
    # a fixed time stamp makes equal tables equal files
    compression = {"method": "gzip", "mtime": 0} if path.name.endswith(".gz") else None
    separator = "," if ending.endswith(".csv") else "\t"
    table.to_csv(temporary, sep=separator, index=False, compression=compression)  # type: ignore[arg-type]


def _write_sif(edges: pd.DataFrame, file: IO[str]) -> None:
    sign = edges["sign"] if "sign" in edges.columns else np.sign(edges["weight"])
    relations = {1: "activates", -1: "represses", 0: "regulates"}
    for source, target, own in zip(edges["source"], edges["target"], sign, strict=True):
        file.write("\t".join((_plain(source), relations[int(own)], _plain(target))) + "\n")


def _plain(name: str) -> str:
    return re.sub(r"\s", "_", name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

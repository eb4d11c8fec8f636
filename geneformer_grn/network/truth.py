"""Known regulatory edges, read from the tables people have, and named alike on both sides of a comparison.

A truth table says which pairs are known, never which are absent: a pair that is not in it may be real. That
is why scores against it are ratios over chance, and why only genes that the table knows enter them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.genes.mapping import WholeTable, map_genes
from geneformer_grn.genes.table import load_gene_table

_COLUMNS = {
    "source": ("tf_ensembl", "source", "tf", "regulator", "gene1"),
    "target": ("target_ensembl", "target", "gene2"),
    "sign": ("sign", "mode", "type"),
}
"""Where each column is looked for, in this order and without regard to case."""

_SIGNS = {
    "1": 1, "+1": 1, "+": 1, "1.0": 1, "activation": 1, "activates": 1,
    "-1": -1, "-": -1, "-1.0": -1, "repression": -1, "represses": -1, "inhibition": -1,
    "0": 0, "0.0": 0, "": 0, "unknown": 0, "both": 0, "?": 0,
}  # fmt: skip
_INFERRED = frozenset({"D", "E"})


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """Known edges.

    Parameters
    ----------
    name
        What the card calls it: the file's name.
    edges
        ``source``, ``target`` (Ensembl IDs where the gene table knows the name, else the name itself) and
        ``sign`` int8 (+1, -1, 0 where it is not known or the table contradicts itself); no pair twice.
    circular
        Why a good score against it would say little; empty where it would say something.
    n_self
        Self-edges of the table, left out.
    """

    name: str
    edges: pd.DataFrame
    circular: str = ""
    n_self: int = 0

    def __len__(self) -> int:
        return len(self.edges)


def read_truth(path: Path | str, *, confidence: Collection[str] | None = None, circular: str = "") -> Truth:
    """Read a table of known edges (``.tsv``, ``.csv``, either with ``.gz``).

    Parameters
    ----------
    path
        A table with the columns ``source`` and ``target``, and ``sign`` where signs are known (+1, -1, 0).
        Tables of TRRUST, DoRothEA and BEELINE are read as they are published (``tf``, ``tf_ensembl``,
        ``Gene1``, ``mode``, ``Type``, ...). Genes are Ensembl IDs or symbols.
    confidence
        Keep only edges of these classes of the column ``confidence``, such as ``{"A", "B", "C"}``.
    circular
        Why the table was not made independently of expression, if so. DoRothEA's classes D and E are known
        to be inferred from it in part, and are labelled without being asked.

    Returns
    -------
    Truth

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        There is no such file.
    ValueError
        It is no table, lacks a column, holds a sign that means nothing, or keeps no edge.

    Examples
    --------
    >>> len(read_truth("trrust_v2_human.tsv.gz"))  # doctest: +SKIP
    8370
    """
    path = Path(path)
    table = _read(path)
    if confidence is not None:
        table = _of_confidence(table, confidence, path.name)
    place = {name.lower(): name for name in map(str, table.columns)}
    found = {
        column: next((place[name] for name in names if name in place), None)
        for column, names in _COLUMNS.items()
    }
    missing = [column for column in ("source", "target") if found[column] is None]
    if missing:
        raise ValueError(
            f"{path.name} has no column {' and '.join(missing)}; a truth table needs source and target "
            f"(found: {', '.join(map(str, table.columns)) or 'none'})"
        )
    sign = np.zeros(len(table), dtype=np.int8)
    if found["sign"] is not None:
        sign = _signs(table[found["sign"]], path.name)
    inferred = "confidence" in place and table[place["confidence"]].isin(_INFERRED).any()
    edges = pd.DataFrame(
        {
            "source": canonical_genes(table[found["source"]]),
            "target": canonical_genes(table[found["target"]]),
            "sign": sign,
        }
    )
    return truth_of(
        edges,
        name=path.name,
        circular=circular or ("classes D and E are partly inferred" if inferred else ""),
    )


def truth_of(edges: pd.DataFrame, *, name: str, circular: str = "") -> Truth:
    """Return the truth that a table of ``source``, ``target`` and ``sign`` (canonical names) holds.

    Raises
    ------
    ValueError
        No edge is left.
    """
    named = edges[(edges["source"] != "") & (edges["target"] != "")]
    is_self = named["source"] == named["target"]
    pairs = named[~is_self].groupby(["source", "target"], sort=True)["sign"].agg(["min", "max"])
    if pairs.empty:
        raise ValueError(f"{name} holds no edge between two different genes")
    agreed = np.where(pairs["min"] == pairs["max"], pairs["min"], 0).astype(np.int8)
    return Truth(
        name=name,
        edges=pairs.reset_index()[["source", "target"]].assign(sign=agreed),
        circular=circular,
        n_self=int(is_self.sum()),
    )


def canonical_genes(names: Iterable[str]) -> np.ndarray:
    """Return genes by the name that both sides of a comparison are given: ``(n,)`` str objects.

    That is the Ensembl ID (without version, retired ones brought up to date) where the gene table knows the
    name, and otherwise the name itself, so that made-up genes can be compared, too.
    """
    given = pd.Series(list(names), dtype=object).fillna("").astype(str).str.strip().to_numpy(object)
    if not len(given):
        return given
    distinct, where = np.unique(given.astype(str), return_inverse=True)
    places = map_genes(distinct.tolist(), WholeTable()).tokens
    ids = np.array(list(load_gene_table().symbol_of), dtype=object)
    known = np.where(places >= 0, ids[np.maximum(places, 0)], distinct.astype(object))
    return np.asarray(known[where], dtype=object)


def _read(path: Path) -> pd.DataFrame:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file with the known edges")
    if not path.is_file():
        raise FileNotFoundError(f"no truth table at {path}")
    separator = "," if path.name.removesuffix(".gz").endswith(".csv") else "\t"
    try:
        # "NA" may be a gene; only an empty field is missing
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        raise ValueError(f"{path.name} is no table of known edges: {error}") from error
    if table.empty:
        raise ValueError(f"{path.name} holds no edges")
    return table


def _of_confidence(table: pd.DataFrame, wanted: Collection[str], name: str) -> pd.DataFrame:
    if "confidence" not in table.columns:
        raise ValueError(f"{name} has no column confidence to choose {', '.join(sorted(wanted))} from")
    present = sorted(set(table["confidence"]))
    unknown = sorted(set(wanted) - set(present))
    if unknown:
        raise ValueError(f"{name} has no confidence {', '.join(unknown)}; it has {', '.join(present)}")
    return table[table["confidence"].isin(list(wanted))]


def _signs(values: pd.Series, name: str) -> np.ndarray:
    signs = values.str.strip().str.lower().map(_SIGNS)
    if signs.isna().any():
        row = int(np.argmax(signs.isna()))
        raise ValueError(
            f"{name} has {values.iloc[row]!r} as sign in row {row + 1}; write +1, -1 or 0 "
            "(activation, repression and unknown are read, too)"
        )
    unsigned = int((signs == 0).sum())
    if unsigned:
        logger.info("%s: the sign of %d of %d edges is not known", name, unsigned, len(values))
    return signs.to_numpy(np.int8)

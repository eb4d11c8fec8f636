"""The data card of a built corpus: what is in it, where it comes from, what was left out and why.

It is made to be published beside a model, so it counts and never names: no cell, no donor, no folder. What
files do not state, it calls not stated, since silence would read as balance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn._runtime import package_version
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.folder import column_codes
from geneformer_grn.cells.corpora.identity import file_rows
from geneformer_grn.cells.opening import open_source
from geneformer_grn.workflows.corpus_look import known
from geneformer_grn.workflows.corpus_recipe import CorpusFile, CorpusRecipe

CARD, CARD_KIND = "data_card.json", "geneformer-grn corpus data card"
NOT_STATED = "not stated"

SHARES = ("study", "tissue", "assay", "disease", "organism")
"""What the card counts cells and tokens by; all but the study are obs columns."""

PEOPLE = {
    "sex": ("sex", "gender"),
    "ethnicity": ("ethnicity", "self_reported_ethnicity", "ancestry", "race", "population"),
    "age": ("age", "development_stage", "age_group"),
}
"""Facts about people, and the obs columns, in any case of letters, that may state them."""

_MOST_VALUES = 30
_OVER = 2.0  # times an equal share


def data_card(
    recipe: CorpusRecipe,
    files: Sequence[CorpusFile],
    decided: Mapping[str, Any],
    parts: Mapping[str, Corpus],
    *,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the data card, in plain values.

    Parameters
    ----------
    recipe
        What was asked.
    files
        The files that were used.
    decided
        What became of their cells: ``files`` and ``pairs`` of a choice of cells.
    parts
        ``train`` and, where cells were held out, ``heldout``.
    about
        Further facts: ``recipe`` (name, sha256), ``include_unlicensed``, ``left_out_for_licence``.

    Returns
    -------
    dict
        ``parts``: cells, tokens, files, donors, cells without one, and genes a cell of each. ``shares``: of
        the training part by :data:`SHARES`, each with ``values`` (cells and tokens), ``n_values``,
        ``effective_number`` (the exponential of the entropy of the shares; as many as there are values if
        all are equal) and ``over_represented`` (values with more than twice an equal share). ``people``: what
        is stated of whom the training cells are of. ``files``, ``kept_apart``, ``duplicates``, ``rules``,
        ``vocabulary``, ``may_be_shipped``.
    """
    place = {file.name: (file, facts) for file, facts in zip(files, decided["files"], strict=True)}
    cells = {
        name: _cells(corpus, [place[entry["name"]] for entry in corpus.manifest["files"]], recipe)
        for name, corpus in parts.items()
    }
    train = cells["train"]
    used = [row for row in decided["files"] if row["role"] != "kept apart"]
    return {
        "kind": CARD_KIND,
        "format": 1,
        "geneformer_grn": package_version(),
        **about,
        "may_be_shipped": all(row["may_be_shipped"] for row in used if row["n_train"]),
        "vocabulary": {
            **parts["train"].manifest["vocabulary"],
            "medians": "medians of the training cells only" if recipe.vocabulary.use is None else "given",
        },
        "parts": {name: _part(parts[name], table) for name, table in cells.items()},
        "shares": {by: _shares(train, by) for by in SHARES},
        "people": {fact: _people(train, fact) for fact in PEOPLE},
        "files": used,
        "kept_apart": [
            {"name": row["name"], "n_cells": row["n_cells_file"]}
            for row in decided["files"]
            if row["role"] == "kept apart"
        ],
        "duplicates": {
            "n_cells": sum(pair["n_cells"] for pair in decided["pairs"]),
            "pairs": decided["pairs"],
            "whole_donors": recipe.keep_apart.whole_donors,
        },
        "rules": recipe.quality.model_dump(mode="json"),
    }


def _cells(
    corpus: Corpus, files: Sequence[tuple[CorpusFile, Mapping[str, Any]]], recipe: CorpusRecipe
) -> pd.DataFrame:
    """Return a row a cell of a corpus: tokens, donor, and what the card counts by; empty where not stated."""
    codes, sources = column_codes(corpus, "source")
    tables = []
    for file, facts in files:
        rows = file_rows(corpus, file.name)
        with open_source(file.path) as source:
            obs = source.obs.iloc[rows]
        column = recipe.held_out.column
        table = {
            "tokens": corpus.lengths[codes == sources.index(file.name)],
            "study": np.full(len(rows), facts["study"], dtype=object),
            "donor": _column(obs, (column,)),
            **{by: _column(obs, (by,)) for by in SHARES[1:]},
            **{fact: _column(obs, names) for fact, names in PEOPLE.items()},
        }
        person = file.about.study or ""
        table["donor"] = np.array(
            [f"{person}\t{name}" if name else "" for name in table["donor"]], dtype=object
        )
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def _column(obs: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    found = {str(column).lower(): column for column in obs.columns}
    name = next((found[name] for name in (each.lower() for each in names) if name in found), None)
    return np.full(len(obs), "", dtype=object) if name is None else known(obs[name])


def _part(corpus: Corpus, table: pd.DataFrame) -> dict[str, Any]:
    genes = corpus.lengths - corpus.vocabulary.n_wrapping
    return {
        "n_cells": len(corpus),
        "n_tokens": int(corpus.offsets[-1]),
        "n_files": len(corpus.manifest["files"]),
        "n_donors": int(table.loc[table["donor"] != "", "donor"].nunique()),
        "n_cells_without_donor": int((table["donor"] == "").sum()),
        "genes_per_cell": {
            name: round(float(value), 1)
            for name, value in zip(
                ("least", "median", "most"), np.quantile(genes, [0.0, 0.5, 1.0]), strict=True
            )
        },
    }


def _shares(table: pd.DataFrame, by: str) -> dict[str, Any]:
    """Return how cells and tokens spread over the values of a column."""
    named = table.assign(**{by: table[by].where(table[by] != "", NOT_STATED)})
    sums = (
        named.groupby(by, sort=True)["tokens"]
        .agg(["size", "sum"])
        .sort_values("size", ascending=False, kind="stable")
    )
    cells, tokens = sums["size"].to_numpy(dtype=float), sums["sum"].to_numpy(dtype=float)
    share = cells / cells.sum()
    rows = [
        {
            "value": str(value), "n_cells": int(n), "share_cells": round(float(part), 4),
            "share_tokens": round(float(of_tokens), 4),
        }
        for value, n, part, of_tokens in zip(sums.index, cells, share, tokens / tokens.sum(), strict=True)
    ]  # fmt: skip
    over = [row["value"] for row, part in zip(rows, share, strict=True) if part * len(rows) > _OVER]
    return {
        "n_values": len(rows),
        "effective_number": round(effective_number(cells), 2),
        "effective_number_by_tokens": round(effective_number(tokens), 2),
        "over_represented": over[:_MOST_VALUES],
        "values": rows[:_MOST_VALUES],
        "n_values_not_shown": max(0, len(rows) - _MOST_VALUES),
    }


def effective_number(counts: np.ndarray) -> float:
    """Return the exponential of the Shannon entropy of counts: how many equal groups would be as diverse.

    Parameters
    ----------
    counts
        ``(k,)`` non-negative, not all zero.

    Examples
    --------
    >>> effective_number(np.array([5.0, 5.0]))
    2.0
    """
    shares = counts[counts > 0] / counts.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


def _people(table: pd.DataFrame, fact: str) -> dict[str, Any]:
    """Return what is stated of people, in shares of the cells."""
    stated = table.loc[table[fact] != "", fact]
    counts = stated.value_counts()
    return {
        "share_stated": round(len(stated) / len(table), 4),
        "values": {str(value): int(n) for value, n in counts.head(_MOST_VALUES).items()},
    }

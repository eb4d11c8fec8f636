"""From a file's genes to the vocabulary's: where its identifiers are, and which column is which token.

Columns that mean one gene are summed, which is what an aligner would have counted. An Ensembl ID that stands
twice in a file is another matter, since identifiers are unique and a repeat may mean that tables were joined
wrongly: it is refused, or summed with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.genes.mapping import GeneMapping, Species, WholeTable, map_genes
from geneformer_grn.genes.vocabulary import GeneVocabulary

ENSEMBL_ID = r"ENS[A-Z]{0,4}G\d{6,}(\.\d+)?(_PAR_Y)?"
SYMBOL_COLUMNS = (
    "gene_symbol", "gene_symbols", "symbol", "gene_name", "gene_names", "feature_name", "gene_short_name",
    "gene",
)  # fmt: skip
_NEARLY = 0.95  # of the best place's known identifiers: a likelier place with as many is read instead
_LOOKED_AT = 2_000  # identifiers that tell the species
_MOUSE_ID = r"(?i:ENSMUSG)\d+(\.\d+)?"
_MOUSE_SYMBOL = r"[A-Z][a-z0-9.-]*[a-z][a-z0-9.-]*"


def map_identifiers(
    var: pd.DataFrame,
    vocabulary: GeneVocabulary | WholeTable,
    *,
    gene_column: str | None = None,
    sum_duplicates: bool = False,
    mapped: bool = False,
    species: Species = "human",
    name: str = "the file",
) -> tuple[GeneMapping, str]:
    """Return the mapping of the identifiers of which most are known, and where they are.

    Near ties go to the likelier place, see :func:`identifier_candidates`: Ensembl IDs mean one gene each, so
    a few aliases more are no reason to read symbols instead. What ``pp.map_genes`` wrote is taken as it is.

    Raises
    ------
    ValueError
        No identifier is known, or an Ensembl ID occurs twice.
    """
    found: list[tuple[GeneMapping, str, np.ndarray]] = []
    for label, identifiers in identifier_candidates(var, gene_column):
        found.append((map_genes(identifiers.tolist(), vocabulary, species=species), label, identifiers))
    numbers = [int((mapping.tokens >= 0).sum()) for mapping, _, _ in found]
    places = [identifiers for _, _, identifiers in found]
    mouse = _mouse_warning(found[int(np.argmax(numbers))], places) if species == "human" else ""
    if not any(numbers):
        looked = ", ".join(f"{label} (first: {identifiers[0]!r})" for _, label, identifiers in found)
        raise ValueError(
            f"{name}: 0 of {len(var):,} genes match the vocabulary (setting {vocabulary.setting!r}, "
            f"{len(vocabulary) - vocabulary.n_special:,} genes); looked in {looked}. It needs Ensembl IDs or "
            f"gene symbols of its species{', mouse' if species == 'mouse' else ''}: pass --gene-column "
            "COLUMN, or run gg.pp.map_genes(adata)"
            + ("; it looks like mouse: pass --species mouse" if mouse else "")
        )
    # pp.map_genes gives several symbols one Ensembl ID on purpose: there, repeats mean a sum.
    ours = mapped and found[0][1] == "var['ensembl_id']"
    enough = 1 if ours and numbers[0] else _NEARLY * max(numbers)
    chosen = next(place for place, number in enumerate(numbers) if number >= enough)
    mapping, label, identifiers = found[chosen]
    if not (ours and chosen == 0):
        n_repeats = check_duplicates(identifiers, label, name, refuse=not sum_duplicates)
        mapping = replace(mapping, report={**mapping.report, "n_repeated_ids": n_repeats})
    if mouse:
        logger.warning("%s: %s", name, mouse)
        mapping = replace(mapping, report={**mapping.report, "species_warning": mouse})
    return mapping, label


def _mouse_warning(best: tuple[GeneMapping, str, np.ndarray], candidates: list[np.ndarray]) -> str:
    """Return what to say of genes that look like those of a mouse, or nothing.

    Mouse symbols are written like Cd74, and case is ignored in matching, so most find a human gene.
    """
    mapping, _, identifiers = best
    mouse_ids = any(_share(_MOUSE_ID, candidate) > 0.5 for candidate in candidates)
    if not (mouse_ids or _share(_MOUSE_SYMBOL, identifiers[mapping.tokens >= 0]) > 0.5):
        return ""
    return (
        "looks like mouse; symbols were matched to human genes of the same name. Pass --species mouse to map "
        "them through orthologs"
    )


def _share(pattern: str, identifiers: np.ndarray) -> float:
    """Return the share of some of the identifiers that are not empty that is written like `pattern`."""
    texts = [
        text
        for text in map(str.strip, map(str, identifiers[:: max(1, len(identifiers) // _LOOKED_AT)]))
        if text
    ]
    return sum(map(bool, map(re.compile(pattern).fullmatch, texts))) / len(texts) if texts else 0.0


def check_duplicates(identifiers: np.ndarray, label: str, name: str, *, refuse: bool) -> int:
    """Return how many rows repeat the Ensembl ID of an earlier one, unless they are refused.

    Raises
    ------
    ValueError
        There are some, and they are refused.
    """
    upper = [str(name).upper() for name in identifiers]
    if len(set(upper)) == len(upper):
        return 0
    series = pd.Series(upper, dtype=object)
    ids = series[series.str.fullmatch(ENSEMBL_ID).to_numpy(dtype=bool)]
    times = ids.value_counts()
    if len(times) == 0 or times.iloc[0] == 1:
        return 0
    if refuse:
        raise ValueError(
            f"{name}: {times.index[0]} occurs {times.iloc[0]} times in {label} ({int((times > 1).sum()):,} "
            "duplicated Ensembl IDs). Keep one row of each gene, or pass --sum-duplicates to add their "
            "counts up"
        )
    return int(len(ids) - len(times))


def identifier_candidates(var: pd.DataFrame, gene_column: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield where the gene identifiers may be, most likely first, as (name, ``(n_genes,)`` str).

    With `gene_column`, only that one (``index`` means ``var_names``). Otherwise ``ensembl_id``, ``var_names``
    where most are Ensembl IDs, ``gene_ids``, any other column of Ensembl IDs, ``var_names`` as symbols,
    columns that usually hold symbols.

    Raises
    ------
    ValueError
        `gene_column` is not a column of var.
    """
    if gene_column is not None:
        if gene_column not in var.columns and gene_column not in {"index", var.index.name}:
            raise ValueError(
                f"var has no column {gene_column!r}; columns there: "
                f"{', '.join(map(str, var.columns)) or 'none'} (and index, the var_names)"
            )
        yield _named(var, gene_column)
        return
    yielded = set()
    ensembl = [str(name) for name in var.columns if _mostly_ensembl(var[name])]
    names_first = ["index"] if _mostly_ensembl(var.index.to_series()) else []
    order = ["ensembl_id", *names_first, "gene_ids", *ensembl, "index", *SYMBOL_COLUMNS]
    for name in order:
        if name not in yielded and (name == "index" or name in var.columns):
            yielded.add(name)
            yield _named(var, name)


def _named(var: pd.DataFrame, name: str) -> tuple[str, np.ndarray]:
    values = var[name] if name in var.columns else var.index.to_series()
    label = f"var[{name!r}]" if name in var.columns else "var_names"
    texts = values.astype(object).where(values.notna().to_numpy(), "")
    return label, texts.astype(str).to_numpy(dtype=object)


def _mostly_ensembl(values: pd.Series) -> bool:
    if values.dtype.kind in "biufc":
        return False
    sample = values.iloc[:: max(1, len(values) // 1000)].astype(str).str.upper()
    return bool(sample.str.fullmatch(ENSEMBL_ID).mean() > 0.5)

"""From the identifiers in a file or typed by a user to tokens, with a count of what was lost on the way.

Every identifier is looked at on its own, so files that mix Ensembl IDs and symbols need no option. A
vocabulary that brings its own aliases (an imported one) is mapped by these alone, as the reference method
does, with one addition: an ID that differs by its version suffix only is found, where the reference drops it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary

Naming = Literal["ensembl", "symbol", "mixed"]

# ENSG00000182378, ENSG00000182378.15, ENSG00000182378.15_PAR_Y, and ENSGR0000182378, as releases before 76
# wrote the copies on the Y chromosome's pseudo-autosomal regions.
_ENSEMBL = re.compile(r"ENSG[0R](\d{10})(?:\.\d+)?(?:_PAR_Y)?")
_N_NAMED = 5  # identifiers shown in reports and messages
_N_SUGGESTED = 3


@dataclass(frozen=True, eq=False)
class GeneMapping:
    """The tokens of a file's genes.

    Parameters
    ----------
    tokens
        ``(n_genes_in,)`` int32; token of each identifier, -1 where it is not in the vocabulary.
    naming
        How the matched identifiers were given (all of them, where none matched).
    report
        ``n_genes``, ``n_matched``, ``n_lost`` (not in the vocabulary), ``n_summed`` (identifiers whose token
        an earlier identifier has: their counts are added up), ``n_ambiguous`` (matched by a name that several
        genes carry), ``naming``, and ``first_lost``, ``first_summed``: the first few of them.
    """

    tokens: np.ndarray
    naming: Naming
    report: dict[str, Any]


def map_genes(identifiers: Sequence[str], vocabulary: GeneVocabulary) -> GeneMapping:
    """Map Ensembl IDs (with or without version, retired ones too) and symbols to the tokens of a vocabulary.

    Parameters
    ----------
    identifiers
        ``(n_genes_in,)`` names as a file has them, in any case.
    vocabulary
        With `aliases`, these decide alone (upper-case identifier -> Ensembl ID; an empty mapping is the
        identity); without, the package's gene table does.

    Returns
    -------
    GeneMapping
        One token or -1 per identifier, and the report.

    Examples
    --------
    >>> map_genes(["CD74", "ENSG00000019582.16"], vocabulary).tokens  # doctest: +SKIP
    array([371, 371], dtype=int32)
    """
    token_for = _token_lookup(vocabulary)
    names = [str(name).strip().upper() for name in identifiers]
    tokens = np.array([token_for(name) for name in names], dtype=np.int32)
    matched = np.flatnonzero(tokens >= 0)
    _, first = np.unique(tokens[matched], return_index=True)
    summed = np.delete(matched, first)
    lost = np.flatnonzero(tokens < 0)
    naming = _naming([names[i] for i in matched] or names)
    ambiguous = frozenset[str]() if vocabulary.aliases is not None else load_gene_table().ambiguous
    report = {
        "n_genes": len(names),
        "n_matched": len(matched),
        "n_lost": len(lost),
        "n_summed": len(summed),
        "n_ambiguous": sum(names[i] in ambiguous for i in matched),
        "naming": naming,
        "first_lost": [str(identifiers[i]) for i in lost[:_N_NAMED]],
        "first_summed": [str(identifiers[i]) for i in summed[:_N_NAMED]],
    }
    return GeneMapping(tokens=tokens, naming=naming, report=report)


def present_genes(identifiers: Sequence[str]) -> list[str]:
    """Return the Ensembl IDs of the package's gene table that `identifiers` name, ascending."""
    table = load_gene_table()
    found = {_table_gene(str(name).strip().upper()) for name in identifiers}
    return sorted(gene for gene in found if gene in table.symbol_of)


def lookup(names: Sequence[str], vocabulary: GeneVocabulary) -> tuple[list[int], list[str]]:
    """Return the tokens of the genes that a user typed, in their order, and the names that are unknown.

    Other than for files, the gene table helps out where an imported vocabulary's own aliases know no answer.

    Parameters
    ----------
    names
        Symbols or Ensembl IDs, in any case.
    vocabulary
        The genes to find them among.

    Returns
    -------
    tuple of list
        One token per known name (a gene typed twice is there twice), and the other names as typed.
    """
    token_for = _token_lookup(vocabulary)
    token_named = _tokens_by_symbol(vocabulary)
    tokens: list[int] = []
    unknown: list[str] = []
    for name in names:
        upper = str(name).strip().upper()
        token = token_for(upper)
        if token < 0:
            token = token_named.get(upper, vocabulary.token_of.get(_table_gene(upper), -1))
        if token < 0:
            unknown.append(str(name))
        else:
            tokens.append(token)
    return tokens, unknown


def find_genes(names: Sequence[str], vocabulary: GeneVocabulary) -> list[int]:
    """Return the tokens of genes that a user typed, see :func:`lookup`; all of them must be known.

    Raises
    ------
    ValueError
        Some names are no gene of the vocabulary; the message lists them with the nearest symbols.
    """
    tokens, unknown = lookup(names, vocabulary)
    if unknown:
        symbols = list(_tokens_by_symbol(vocabulary))
        shown = "; ".join(_describe_unknown(name, symbols) for name in unknown[:_N_NAMED])
        more = f"; and {len(unknown) - _N_NAMED} more" if len(unknown) > _N_NAMED else ""
        raise ValueError(
            f"{len(unknown)} of {len(names)} genes are not in the vocabulary of "
            f"{len(vocabulary) - vocabulary.n_special:,} genes: {shown}{more}. Give symbols or Ensembl IDs."
        )
    return tokens


def _tokens_by_symbol(vocabulary: GeneVocabulary) -> dict[str, int]:
    """Return upper-case symbol -> gene token."""
    genes = range(vocabulary.n_special, len(vocabulary))
    return {str(vocabulary.symbols[token]).upper(): token for token in genes}


def _token_lookup(vocabulary: GeneVocabulary) -> Callable[[str], int]:
    """Return the function from an upper-case identifier to its gene token, or -1."""
    gene_tokens = {
        gene: token for gene, token in vocabulary.token_of.items() if token >= vocabulary.n_special
    }
    aliases = vocabulary.aliases
    if aliases is not None:

        def by_aliases(name: str) -> int:
            plain = _plain_id(name) or name
            targets = (aliases.get(name), aliases.get(plain)) if aliases else (name, plain)
            return next((gene_tokens[gene] for gene in targets if gene in gene_tokens), -1)

        return by_aliases

    # Symbols that only the vocabulary knows (one built from other tables than ours) are the last resort.
    own_symbols = dict(
        zip((str(s).upper() for s in vocabulary.symbols), vocabulary.token_of.values(), strict=True)
    )
    known = load_gene_table().ensembl_of

    def by_table(name: str) -> int:
        plain = _plain_id(name)
        if plain is not None and plain in gene_tokens:
            return gene_tokens[plain]
        token = gene_tokens.get(_table_gene(name), -1)
        if token < 0 and name not in known:
            token = own_symbols.get(name, -1)
        return token if token >= vocabulary.n_special else -1

    return by_table


def _plain_id(name: str) -> str | None:
    """Return a human Ensembl gene ID without version and copy suffix, or None for anything else."""
    found = _ENSEMBL.fullmatch(name)
    return f"ENSG0{found.group(1)}" if found else None


def _table_gene(name: str) -> str:
    """Return what an upper-case identifier means by the gene table: its present Ensembl ID, else itself."""
    table = load_gene_table()
    plain = _plain_id(name)
    if plain is not None:
        return table.retired.get(plain, plain)
    return table.ensembl_of.get(name, name)


def _naming(names: Sequence[str]) -> Naming:
    """Return whether upper-case identifiers are Ensembl IDs, symbols or both."""
    n_ids = sum(_plain_id(name) is not None for name in names)
    if n_ids == len(names):
        return "ensembl"
    return "mixed" if n_ids else "symbol"


def _describe_unknown(name: str, symbols: list[str]) -> str:
    """Return a name that was not found, with what the gene table knows of it or the nearest symbols."""
    upper = name.strip().upper()
    gene = _table_gene(upper)
    if gene in load_gene_table().symbol_of:
        return f"{name!r} (a known gene, {gene}, but not among these)"
    near = difflib.get_close_matches(upper, symbols, n=_N_SUGGESTED)
    return f"{name!r} (nearest: {', '.join(near)})" if near else f"{name!r}"

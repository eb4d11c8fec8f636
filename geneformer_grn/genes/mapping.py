"""From the identifiers in a file or typed by a user to tokens, with a count of what was lost on the way.

Every identifier is looked at on its own, so files that mix Ensembl IDs and symbols need no option. A
vocabulary that brings its own aliases (an imported one) is mapped by these alone, as the reference method
does, with one addition: an ID that differs by its version suffix only is found, where the reference drops it.
Mouse genes go through the gene table to their one-to-one human orthologs, and from there as human ones. What
a vocabulary knows is put into one dictionary the first time it is asked (about 40 ms), and kept.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary, Setting

Naming = Literal["ensembl", "symbol", "mixed"]
Species = Literal["human", "mouse"]

# ENSG00000182378, ENSG00000182378.15, ENSG00000182378.15_PAR_Y, and ENSGR0000182378, as releases before 76
# wrote the copies on the Y chromosome's pseudo-autosomal regions; ENSMUSG00000024610.7 in mouse.
_ENSEMBL = {
    "human": re.compile(r"(ENSG)[0R](\d{10})(?:\.\d+)?(?:_PAR_Y)?", re.ASCII),
    "mouse": re.compile(r"(ENSMUSG)0(\d{10})(?:\.\d+)?", re.ASCII),
}
_ID_PREFIXES = {"human": ("ENSG0", "ENSGR0"), "mouse": ("ENSMUSG0",)}
_ID_LENGTH = {"human": 15, "mouse": 18}  # without version
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
        genes carry), ``naming``, ``species``, and ``first_lost``, ``first_summed``: the first few of them.
        For mouse also ``n_without_ortholog``: those among the lost that the gene table knows no one-to-one
        human ortholog of (its others are lost because the ortholog is not in the vocabulary).
    """

    tokens: np.ndarray
    naming: Naming
    report: dict[str, Any]


@dataclass(frozen=True)
class WholeTable:
    """The package's gene table in the place of a vocabulary, for work that comes before there is one.

    Its tokens are places in ``list(load_gene_table().symbol_of)``: more than uint16 can count, and never
    written anywhere.

    Parameters
    ----------
    setting
        Of the vocabulary to come; it decides where total counts are looked for.
    """

    setting: Setting = "default"
    n_special = 0

    def __len__(self) -> int:
        return len(load_gene_table())


def map_genes(
    identifiers: Sequence[str], vocabulary: GeneVocabulary | WholeTable, *, species: Species = "human"
) -> GeneMapping:
    """Map Ensembl IDs (with or without version, retired ones too) and symbols to the tokens of a vocabulary.

    Parameters
    ----------
    identifiers
        ``(n_genes_in,)`` names as a file has them, in any case.
    vocabulary
        With `aliases`, these decide alone (upper-case identifier -> Ensembl ID; an empty mapping is the
        identity); without, the package's gene table does. A :class:`WholeTable`: its own places.
    species
        Whose genes the identifiers are. ``mouse``: Ensembl IDs and symbols of mouse genes stand for their
        one-to-one human orthologs by the gene table, whose Ensembl IDs are then looked up in `vocabulary`.

    Returns
    -------
    GeneMapping
        One token or -1 per identifier, and the report.

    Raises
    ------
    ValueError
        The species is neither of the two.

    Examples
    --------
    >>> map_genes(["CD74", "ENSG00000019582.16"], vocabulary).tokens  # doctest: +SKIP
    array([371, 371], dtype=int32)
    >>> map_genes(["Cd74", "ENSMUSG00000024610"], vocabulary, species="mouse").tokens  # doctest: +SKIP
    array([371, 371], dtype=int32)
    """
    return _mapped(tuple(map(str, identifiers)), vocabulary, species)


# The files of a lab name the same genes, and a file is opened more than once.
@lru_cache(maxsize=8)
def _mapped(
    identifiers: tuple[str, ...], vocabulary: GeneVocabulary | WholeTable, species: Species
) -> GeneMapping:
    if isinstance(vocabulary, WholeTable):
        mapping = _resolve(identifiers, _table_place_of_name(species), species, own_names=False)
    else:
        own = vocabulary.aliases is not None and species == "human"
        mapping = _resolve(identifiers, _token_of_name(vocabulary, species), species, own_names=own)
    mapping.tokens.flags.writeable = False  # since it is shared
    return mapping


def _resolve(
    identifiers: Sequence[str], number_of: dict[str, int], species: Species, *, own_names: bool
) -> GeneMapping:
    """Return the number of each identifier, how they are named, and the report."""
    names = [str(name).strip().upper() for name in identifiers]
    is_id = np.array([name.startswith(_ID_PREFIXES[species]) for name in names], dtype=bool)
    found = [number_of.get(name, -1) for name in names]
    for place in np.flatnonzero(is_id).tolist():
        name = names[place]
        if found[place] < 0 and (len(name) > _ID_LENGTH[species] or name.startswith("ENSGR")):
            found[place] = number_of.get(_plain_id(name, species) or "", -1)
    numbers = np.array(found, dtype=np.int32)
    matched = np.flatnonzero(numbers >= 0)
    _, first = np.unique(numbers[matched], return_index=True)
    summed = np.delete(matched, first)
    lost = np.flatnonzero(numbers < 0)
    naming = _naming(is_id[matched] if len(matched) else is_id)
    table = load_gene_table()
    shared = frozenset[str]() if own_names else table.ambiguous_of[species]
    report: dict[str, Any] = {
        "n_genes": len(names),
        "n_matched": len(matched),
        "n_lost": len(lost),
        "n_summed": len(summed),
        "n_ambiguous": sum(names[i] in shared for i in matched),
        "naming": naming,
        "species": species,
        "first_lost": [str(identifiers[i]) for i in lost[:_N_NAMED]],
        "first_summed": [str(identifiers[i]) for i in summed[:_N_NAMED]],
    }
    if species == "mouse":
        known = table.human_of_mouse
        report["n_without_ortholog"] = sum(
            (_plain_id(names[i], species) or names[i]) not in known for i in lost
        )
    return GeneMapping(tokens=numbers, naming=naming, report=report)


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
    token_of_name = _token_of_name(vocabulary, "human")
    token_named = _tokens_by_symbol(vocabulary)
    tokens: list[int] = []
    unknown: list[str] = []
    for name in names:
        upper = str(name).strip().upper()
        token = token_of_name.get(upper, token_of_name.get(_plain_id(upper) or upper, -1))
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


# By the object and not by its fingerprint, which leaves symbols out.
@lru_cache(maxsize=8)
def _token_of_name(vocabulary: GeneVocabulary, species: Species) -> dict[str, int]:
    """Return upper-case identifier (without version) -> gene token."""
    genes = {gene: token for gene, token in vocabulary.token_of.items() if token >= vocabulary.n_special}
    if species != "human":
        human = _token_of_name(vocabulary, "human")
        return {name: human[gene] for name, gene in _orthologs(species).items() if gene in human}
    if vocabulary.aliases is not None:
        aliases = vocabulary.aliases or dict(zip(genes, genes, strict=True))
        return {name: genes[gene] for name, gene in aliases.items() if gene in genes}
    table = load_gene_table()
    # Symbols that only the vocabulary knows (one built from other tables than ours) are the last resort.
    own = zip(
        (str(symbol).upper() for symbol in vocabulary.symbols), vocabulary.token_of.values(), strict=True
    )
    tokens = {
        name: token for name, token in own if token >= vocabulary.n_special and name not in table.ensembl_of
    }
    for names in (table.retired, table.ensembl_of):
        tokens |= {name: genes[gene] for name, gene in names.items() if gene in genes}
    return tokens | {gene: token for gene, token in genes.items() if gene not in table.ensembl_of}


@lru_cache(maxsize=2)
def _table_place_of_name(species: Species) -> dict[str, int]:
    """Return upper-case identifier (without version) -> place in the gene table."""
    table = load_gene_table()
    places = {gene: place for place, gene in enumerate(table.symbol_of)}
    named = {**table.ensembl_of, **table.retired} if species == "human" else _orthologs(species)
    found = {name: places[gene] for name, gene in named.items()}
    return found | places if species == "human" else found


def _orthologs(species: str) -> dict[str, str]:
    if species != "mouse":
        raise ValueError(f"species {species!r} is unknown; use human or mouse")
    return load_gene_table().human_of_mouse


def _plain_id(name: str, species: Species = "human") -> str | None:
    """Return an Ensembl gene ID without version and copy suffix, or None for anything else."""
    found = _ENSEMBL[species].fullmatch(name)
    return f"{found.group(1)}0{found.group(2)}" if found else None


def _table_gene(name: str) -> str:
    """Return what an upper-case identifier means by the gene table: its present Ensembl ID, else itself."""
    table = load_gene_table()
    plain = _plain_id(name)
    if plain is not None:
        return table.retired.get(plain, plain)
    return table.ensembl_of.get(name, name)


def _naming(is_id: np.ndarray) -> Naming:
    """Return whether identifiers are Ensembl IDs, symbols or both."""
    if is_id.all():
        return "ensembl"
    return "mixed" if is_id.any() else "symbol"


def _describe_unknown(name: str, symbols: list[str]) -> str:
    """Return a name that was not found, with what the gene table knows of it or the nearest symbols."""
    upper = name.strip().upper()
    gene = _table_gene(upper)
    if gene in load_gene_table().symbol_of:
        return f"{name!r} (a known gene, {gene}, but not among these)"
    near = difflib.get_close_matches(upper, symbols, n=_N_SUGGESTED)
    return f"{name!r} (nearest: {', '.join(near)})" if near else f"{name!r}"

"""Which gene sets a perturbation is asked for: names resolved, and combined as the options say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.mapping import find_genes, lookup
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.perturb_options import REGULATORS

if TYPE_CHECKING:
    from geneformer_grn.workflows.perturb_options import PerturbOptions


def gene_sets(
    options: PerturbOptions, vocabulary: GeneVocabulary, ranked: RankedCells, rows: np.ndarray
) -> tuple[list[tuple[int, ...]], list[str]]:
    """Return the gene sets to perturb as tokens, and the names that are unknown.

    Parameters
    ----------
    options
        The genes, and how they are combined: one at a time, together, in pairs or with an anchor.
    vocabulary
        The model's.
    ranked, rows
        The cells, and which of them are perturbed: where all genes or all regulators are asked for, those
        that these cells express.

    Raises
    ------
    ValueError
        No gene is known, a set or the anchor is not, or too few genes are left to combine.
    """
    from geneformer_grn.perturbation.combinations import anchored_sets, pair_sets

    unknown: list[str] = []
    if isinstance(options.genes, str):
        tokens = _present_genes(options.genes, vocabulary, ranked, rows).tolist()
    else:
        tokens, unknown = _named_genes(options.genes, vocabulary, needs_all=options.together)
    if options.anchor is not None:
        (anchor,) = find_genes([options.anchor], vocabulary)
        return anchored_sets(int(anchor), tokens), unknown
    if options.pairs:
        return pair_sets(tokens), unknown
    return ([tuple(tokens)] if options.together else [(token,) for token in tokens]), unknown


def _named_genes(
    names: tuple[str, ...], vocabulary: GeneVocabulary, *, needs_all: bool
) -> tuple[list[int], list[str]]:
    """Return the tokens of the known among `names`, and the unknown."""
    found, unknown = lookup(names, vocabulary)
    if unknown and (needs_all or not found):
        find_genes(names, vocabulary)  # raises, naming them: a set without a member is another set
    if unknown:
        logger.warning("%d genes not in the vocabulary, left out: %s", len(unknown), ", ".join(unknown[:10]))
    return list(dict.fromkeys(int(token) for token in found)), unknown


def _present_genes(
    which: str, vocabulary: GeneVocabulary, ranked: RankedCells, rows: np.ndarray
) -> np.ndarray:
    """Return the ascending tokens of all genes, or all regulators, that the model sees in the cells."""
    room = vocabulary.max_length - vocabulary.n_wrapping
    seen = np.zeros(len(vocabulary), dtype=bool)
    for row in rows:
        seen[ranked.cell(row)[:room]] = True
    if which == REGULATORS:
        seen &= vocabulary.is_regulator
    if not seen.any():
        raise ValueError(f"genes {which!r}: none is expressed in these {len(rows):,} cells")
    return np.flatnonzero(seen)

"""Gene labels that ship with the package: regulators against non-regulators of the same expression.

Regulators are expressed lower than other genes, so most of what tells the two apart in a raw list is how much
of them is seen. Each regulator is therefore paired with the protein-coding non-regulator that is detected in
nearly as many cells; what is left to learn is what else the model knows of a gene.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.supervision import Task

CLASSES = ("other", "regulator")
_PER_CENT = 1  # of the cells: genes detected in fewer are not labelled


def regulator_task(name: str, counts: CellCounts, vocabulary: GeneVocabulary, *, seed: int) -> Task:
    """Return regulators and as many protein-coding genes detected in as many cells.

    Genes found in fewer than 1 % of the cells (at least 5) are left out. Pairs are made greedily in random
    order: the free non-regulator nearest in log detected cells, then in log mean count.

    Parameters
    ----------
    name
        Name of the task.
    counts
        Where detection is counted. No label of a cell is looked at.
    vocabulary
        Says which genes are regulators.
    seed
        Seed of the order of pairing.

    Raises
    ------
    ValueError
        Fewer than ten regulators are detected.
    """
    from geneformer_grn.genes.table import load_gene_table

    detected = counts.matrix.getnnz(axis=0)
    mean = np.asarray(counts.matrix.mean(axis=0)).ravel()
    floor = max(5, _PER_CENT * len(counts) // 100)
    tokens = counts.column_tokens.astype(np.int64)
    biotype_of = load_gene_table().biotype_of
    coding = np.array([biotype_of.get(gene, "protein_coding") == "protein_coding"
                       for gene in vocabulary.ensembl_ids[tokens]])  # fmt: skip
    usable = (detected >= floor) & coding
    regulators = np.flatnonzero(usable & vocabulary.is_regulator[tokens])
    others = np.flatnonzero(usable & ~vocabulary.is_regulator[tokens])
    if len(regulators) < 10 or len(others) < len(regulators):
        raise ValueError(
            f"{len(regulators)} regulators and {len(others)} other protein-coding genes are detected in "
            f"at least {floor} of {len(counts):,} cells; matching takes at least 10 and as many others: use "
            "more cells"
        )
    traits = np.column_stack([np.log(np.maximum(detected, 1)), 0.1 * np.log(np.maximum(mean, 1e-9))])
    free = np.ones(len(others), dtype=bool)
    partners = []
    for gene in np.random.default_rng(seed).permutation(regulators):
        distance = np.where(free, np.abs(traits[others] - traits[gene]).sum(axis=1), np.inf)
        nearest = int(np.argmin(distance))
        free[nearest] = False
        partners.append(others[nearest])
    genes = np.sort(np.concatenate([regulators, partners]))
    values = vocabulary.is_regulator[tokens[genes]].astype(np.int64)
    return Task(name, "gene", "classification", values, CLASSES, gene_tokens=tokens[genes])


def gene_families(tokens: np.ndarray, vocabulary: GeneVocabulary) -> np.ndarray:
    """Return ``(n,)`` str family of genes, by the stem of their symbols."""
    return np.array([symbol_stem(str(symbol)) for symbol in vocabulary.symbols[tokens]], dtype=object)


def symbol_stem(symbol: str) -> str:
    """Return what the symbols of a gene family share: the letters before the first digit.

    A rule of thumb on the safe side: genes named alike by chance stay together. A member's letter (A to D) at
    the end goes with the digits where three letters remain; a name without digits is a family of its own.

    Examples
    --------
    >>> [symbol_stem(symbol) for symbol in ("ZNF12", "HOXA1", "HOXB13", "GATA3", "CREBBP")]
    ['ZNF', 'HOX', 'HOX', 'GAT', 'CREBBP']
    """
    place = next((place for place, letter in enumerate(symbol) if letter.isdigit()), None)
    if not place:
        return symbol
    head = symbol[:place]
    return head[:-1] if len(head) > 3 and head[-1] in "ABCD" else head

"""Gene labels that ship with the package: regulators against non-regulators of the same expression.

Regulators are expressed lower than other genes, so most of what tells the two apart in a raw list is how much
of them is seen. Each regulator is therefore paired with the protein-coding non-regulator that is detected in
nearly as many cells; what is left to learn is what else the model knows of a gene.

The two of a pair belong to one part of a split: nearly the same gene with the other label, on the other side,
would teach the wrong answer. Pairs chain families to each other, all of them through a few large ones, so
families are dealt to blocks first and pairs made within a block. That costs some closeness of the pairs.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.supervision import Task

CLASSES = ("other", "regulator")
_PER_CENT = 1  # of the cells: genes detected in fewer are not labelled
_BLOCKS = 20  # at most: enough for even parts, few enough to leave a choice of partners
_BLOCK_REGULATORS = 10  # at least, on average


def regulator_task(
    name: str, counts: CellCounts, vocabulary: GeneVocabulary, *, whole_families: bool, seed: int
) -> tuple[Task, np.ndarray]:
    """Return regulators paired with genes detected in as many cells, and what a split keeps whole.

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
    whole_families
        Whether groups hold gene families whole, too.
    seed
        Seed of blocks and of the order of pairing.

    Returns
    -------
    task : Task
        Genes in the order of their tokens.
    groups : ndarray
        ``(n_genes,)`` str: the pair, or the block of families that both of a pair are in.

    Raises
    ------
    ValueError
        Fewer than ten regulators are detected.
    """
    usable, traits = _usable_genes(counts, vocabulary)
    tokens = counts.column_tokens.astype(np.int64)[usable]
    is_regulator = vocabulary.is_regulator[tokens]
    generator = np.random.default_rng(seed)
    blocks = np.zeros(len(tokens), dtype=np.int64)
    if whole_families:
        blocks = _dealt_families(gene_families(tokens, vocabulary), is_regulator, generator)
    pairs = np.concatenate([
        _pairs(np.flatnonzero((blocks == block) & is_regulator),
               np.flatnonzero((blocks == block) & ~is_regulator), traits, generator)
        for block in range(blocks.max() + 1)
    ])  # fmt: skip
    if unmatched := int(is_regulator.sum()) - len(pairs):
        logger.warning("%d regulators have no free partner in their block and are left out", unmatched)
    genes = pairs.ravel()
    groups = blocks[genes] if whole_families else np.repeat(np.arange(len(pairs)), 2)
    order = np.argsort(genes)
    genes, groups = genes[order], groups[order]
    values = is_regulator[genes].astype(np.int64)
    task = Task(name, "gene", "classification", values, CLASSES, gene_tokens=tokens[genes])
    return task, groups.astype(str).astype(object)


def _usable_genes(counts: CellCounts, vocabulary: GeneVocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of genes that may be labelled, and ``(n, 2)`` in what pairs should be alike."""
    from geneformer_grn.genes.table import load_gene_table

    detected = counts.matrix.getnnz(axis=0)
    mean = np.asarray(counts.matrix.mean(axis=0)).ravel()
    floor = max(5, _PER_CENT * len(counts) // 100)
    tokens = counts.column_tokens.astype(np.int64)
    biotype_of = load_gene_table().biotype_of
    coding = np.array([biotype_of.get(gene, "protein_coding") == "protein_coding"
                       for gene in vocabulary.ensembl_ids[tokens]])  # fmt: skip
    usable = np.flatnonzero((detected >= floor) & coding)
    n_regulators = int(vocabulary.is_regulator[tokens[usable]].sum())
    n_others = len(usable) - n_regulators
    if n_regulators < 10 or n_others < n_regulators:
        raise ValueError(
            f"{n_regulators} regulators and {n_others} other protein-coding genes are detected in "
            f"at least {floor} of {len(counts):,} cells; matching takes at least 10 and as many others: use "
            "more cells"
        )
    traits = np.column_stack([np.log(np.maximum(detected, 1)), 0.1 * np.log(np.maximum(mean, 1e-9))])
    return usable, traits[usable]


def _pairs(
    regulators: np.ndarray, others: np.ndarray, traits: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return ``(m, 2)`` regulators with their partners; those for which none is left are not among them."""
    free = np.ones(len(others), dtype=bool)
    found = []
    for gene in generator.permutation(regulators)[: len(others)]:
        distance = np.where(free, np.abs(traits[others] - traits[gene]).sum(axis=1), np.inf)
        nearest = int(np.argmin(distance))
        free[nearest] = False
        found.append((gene, others[nearest]))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _dealt_families(
    families: np.ndarray, is_regulator: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return the ``(n,)`` block of each gene: families whole, regulators even, others in proportion."""
    names, members = np.unique(families.astype(str), return_inverse=True)
    table = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(table, (members, is_regulator.astype(np.int64)), 1)
    n_blocks = min(
        _BLOCKS, max(int(is_regulator.sum()) // _BLOCK_REGULATORS, 3), int((table[:, 1] > 0).sum())
    )
    held = np.zeros((n_blocks, 2), dtype=np.int64)
    place = np.empty(len(names), dtype=np.int64)
    shuffled = generator.permutation(len(names))
    for family in shuffled[np.lexsort((-table[shuffled, 0], -table[shuffled, 1]))]:
        wanting = held[:, 1] if table[family, 1] else held[:, 0] / np.maximum(held[:, 1], 1)
        place[family] = np.argmin(wanting)
        held[place[family]] += table[family]
    return place[members]


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

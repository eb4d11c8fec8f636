"""Driver genes of a class: attributions averaged over its cells, and how far the list can be trusted.

A gene that a cell lacks has said nothing there and counts 0, so that a gene held by one cell leads no list.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import hypergeom, spearmanr

from geneformer_grn.explanation.attributions import Attributions
from geneformer_grn.genes.vocabulary import GeneVocabulary

DRIVER_COLUMNS = (
    "method", "class", "rank", "gene", "gene_symbol", "score", "ci_low", "ci_high", "score_where_held",
    "n_cells", "share_of_cells", "stability",
)  # fmt: skip


def driver_genes(
    attributions: Attributions,
    names: Sequence[str],
    vocabulary: GeneVocabulary,
    *,
    n_top: int = 50,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what each gene adds to each class, on average over the class's cells.

    Parameters
    ----------
    attributions
        Of cells of the classes, each explained for its own.
    names
        ``(C,)`` names of the classes that ``attributions.targets`` count.
    vocabulary
        What the tokens mean.
    n_top
        Length of the list whose stability is measured.
    n_bootstrap
        Resamples of each class's cells.
    seed
        Seed of them.

    Returns
    -------
    `DRIVER_COLUMNS`, the largest score of a class first. ``score``: mean over all cells of the class;
    ``ci_low`` to ``ci_high``: 95 % of its bootstrap means over cells, NaN for a class of one cell;
    ``score_where_held``: mean over the ``n_cells`` that hold the gene; ``stability``: share of resamples in
    which the gene is among the first `n_top`.
    """
    rng = np.random.default_rng(seed)
    table = _matrix(attributions, len(vocabulary))
    held = _matrix(attributions.with_scores(np.ones(len(attributions.scores))), len(vocabulary))
    parts = []
    for number in np.unique(attributions.targets):
        rows = np.flatnonzero(attributions.targets == number)
        genes = np.unique(held[rows].indices)
        scores, n_cells = table[rows][:, genes], np.asarray(held[rows][:, genes].sum(axis=0)).ravel()
        mean = np.asarray(scores.sum(axis=0)).ravel() / len(rows)
        low, high, stability = _resampled(scores, n_top, n_bootstrap, rng)
        order = np.argsort(-mean, kind="stable")
        found = pd.DataFrame(
            {
                "method": attributions.method,
                "class": names[number],
                "rank": 0,
                "gene": vocabulary.ensembl_ids[genes],
                "gene_symbol": vocabulary.symbols[genes],
                "score": mean,
                "ci_low": low,
                "ci_high": high,
                "score_where_held": mean * len(rows) / n_cells,
                "n_cells": n_cells.astype(np.int64),
                "share_of_cells": n_cells / len(rows),
                "stability": stability,
            }
        ).iloc[order]
        parts.append(found.assign(rank=np.arange(1, len(found) + 1)))
    return pd.concat(parts, ignore_index=True)


def fold_agreement(tables: Sequence[pd.DataFrame], *, n_top: int = 50) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how far the driver genes of several fine-tuned models agree.

    Parameters
    ----------
    tables
        `driver_genes` of each model, by the same method.
    n_top
        Length of the lists compared.

    Returns
    -------
    genes
        ``class``, ``gene``, ``fold_share``: share of the models with the gene among their first `n_top`.
    classes
        ``class``, ``jaccard`` (of the lists) and ``spearman`` (of the scores of all genes), each the mean
        over pairs of models; NaN with one model.
    """
    genes, classes = [], []
    for name in dict.fromkeys(tables[0]["class"]):
        scores = pd.DataFrame(
            {i: part[part["class"] == name].set_index("gene")["score"] for i, part in enumerate(tables)}
        ).fillna(0.0)
        top = scores.rank(ascending=False, method="first") <= n_top
        share = top.mean(axis=1).rename("fold_share").rename_axis("gene").reset_index()
        genes.append(share.assign(**{"class": name}))
        pairs = list(itertools.combinations(scores, 2))
        jaccard = [(top[a] & top[b]).sum() / (top[a] | top[b]).sum() for a, b in pairs]
        alike = [float(spearmanr(scores[a], scores[b]).statistic) for a, b in pairs if len(scores) > 1]
        classes.append(
            {
                "class": name,
                "jaccard": float(np.mean(jaccard)) if jaccard else float("nan"),
                "spearman": float(np.mean(alike)) if alike else float("nan"),
            }
        )
    return pd.concat(genes, ignore_index=True)[["class", "gene", "fold_share"]], pd.DataFrame(classes)


def list_overlap(drivers: pd.DataFrame, listed: pd.DataFrame, *, n_top: int = 50) -> pd.DataFrame:
    """Return how many of each class's leading drivers lead another list, such as differential expression.

    Parameters
    ----------
    drivers
        `driver_genes`, one method.
    listed
        ``class``, ``gene``, ``rank`` (1 the first), the same genes or more.
    n_top
        Length of both lists; of genes that both tables have, and at most half of them.

    Returns
    -------
    ``class``, ``n_genes`` compared, ``n_top``, ``overlap`` (shared genes), ``expected`` by chance and
    ``p_value``: the chance of sharing as many where the lists have nothing to do with each other
    (hypergeometric).
    """
    rows = []
    for name, part in drivers.groupby("class", sort=False):
        other = listed[listed["class"] == name].set_index("gene")["rank"]
        both = part[part["gene"].isin(other.index)].set_index("gene")["rank"]
        length = min(n_top, len(both) // 2)
        ours = set(both.nsmallest(length).index)
        shared = len(ours & set(other.loc[both.index].nsmallest(length).index))
        by_chance = hypergeom(len(both), length, length)
        rows.append(
            {
                "class": name,
                "n_genes": len(both),
                "n_top": length,
                "overlap": shared,
                "expected": length * length / len(both) if len(both) else float("nan"),
                "p_value": float(by_chance.sf(shared - 1)) if length else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def crossed_class_scores(attributions: Attributions, n_tokens: int, *, seed: int = 0) -> Attributions:
    """Return each gene's mean score over cells of the same class in the other half of the cells.

    What judges a class's driver genes must not be the cells they were found in. Cells of each class are
    halved at random; a gene that the other half never held, and all genes of a class of one cell, score 0.
    """
    rng = np.random.default_rng(seed)
    table = _matrix(attributions, n_tokens)
    scores = np.zeros(len(attributions.scores))
    for number in np.unique(attributions.targets):
        rows = rng.permutation(np.flatnonzero(attributions.targets == number))
        halves = rows[::2], rows[1::2]
        for mine, other in (halves, halves[::-1]):
            if not len(other):
                continue
            mean = np.asarray(table[other].mean(axis=0)).ravel()
            for row in mine:
                part = slice(attributions.offsets[row], attributions.offsets[row + 1])
                scores[part] = mean[attributions.tokens[part]]
    return attributions.with_scores(scores)


def _matrix(attributions: Attributions, n_tokens: int) -> sparse.csr_matrix:
    """Return the scores as ``(n, V)``, 0 where a cell lacks the gene."""
    shape = (len(attributions), n_tokens)
    return sparse.csr_matrix((attributions.scores, attributions.tokens, attributions.offsets), shape=shape)


def _resampled(
    scores: sparse.csr_matrix, n_top: int, n_bootstrap: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each gene the ends of its interval, and how often it is among the first `n_top`."""
    n_cells, n_genes = scores.shape
    if n_cells < 2:
        unknown = np.full(n_genes, np.nan)
        return unknown, unknown, unknown
    weights = rng.multinomial(n_cells, np.full(n_cells, 1 / n_cells), size=n_bootstrap) / n_cells
    means = np.asarray((scores.T @ weights.T).T)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    if n_top >= n_genes:
        return low, high, np.ones(n_genes)
    first = np.argpartition(-means, n_top - 1, axis=1)[:, :n_top]
    return low, high, np.bincount(first.ravel(), minlength=n_genes) / n_bootstrap

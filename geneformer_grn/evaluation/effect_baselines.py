"""What effects have to beat: co-expression, ridge, expression itself, and what other perturbations did.

All but the last need unperturbed cells only, the same that a model is given. The last knows measured
responses to other perturbations, which no model here has seen: some genes respond to everything, and a method
that cannot beat that list has said nothing about this perturbation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn.evaluation.effects import Measured
from geneformer_grn.network.inference import cross_correlation, mean_and_sd, ridge_edges

TRAITS = ("mean_expression", "detection")
RAISING = frozenset({"overexpress", "activate"})
_MAX_RIDGE = 1000  # perturbed genes regressed on together: the cost grows with their cube


@dataclass(frozen=True, eq=False, kw_only=True)
class Baselines:
    """Scores from unperturbed cells.

    Parameters
    ----------
    genes
        Index: Ensembl ID; columns ``mean_expression``, ``variance``, ``detection``.
    pairs
        ``coexpression`` and ``ridge`` -> frame of perturbed genes × genes (signed); 0 where a gene is
        constant.
    """

    genes: pd.DataFrame
    pairs: dict[str, pd.DataFrame]

    def traits(self) -> pd.DataFrame:
        """Return what genes are matched on."""
        return self.genes[list(TRAITS)]

    def strength(self, gene: str) -> pd.DataFrame:
        """Return the scores by which a perturbed gene (or set, joined by ``+``) would move each gene."""
        pairs = {name: self._of_pairs(name, gene) for name in self.pairs}
        scores = {name: values.abs() for name, values in pairs.items()}
        if "coexpression" in pairs:
            scores["coexpression_signed"] = pairs["coexpression"]
        return pd.DataFrame(scores, index=self.genes.index).join(self.genes)

    def direction(self, gene: str, kind: str) -> pd.DataFrame:
        """Return where each gene would go: with the perturbed one, which `kind` raises or lowers."""
        sign = 1.0 if kind in RAISING else -1.0
        return pd.DataFrame(
            {name: sign * self._of_pairs(name, gene) for name in self.pairs}, index=self.genes.index
        )

    def _of_pairs(self, name: str, gene: str) -> pd.Series:
        members = self.pairs[name].reindex(gene.split("+")).fillna(0.0)
        return members.mean(axis=0)


def baselines_of(expression: sparse.csr_matrix, gene_ids: np.ndarray, perturbed: Sequence[str]) -> Baselines:
    """Return what unperturbed cells say.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised expression.
    gene_ids
        ``(g,)`` Ensembl IDs of its columns.
    perturbed
        Genes perturbed; those that are no column score 0 with every gene.

    Notes
    -----
    Ridge regresses every gene on all perturbed genes together (see `network.inference.ridge_edges`); it is
    left out with more than 1,000 of them.
    """
    mean, sd = mean_and_sd(expression)
    detection = np.asarray((expression > 0).mean(axis=0)).ravel()
    genes = pd.DataFrame(
        {"mean_expression": mean, "variance": sd**2, "detection": detection}, index=pd.Index(gene_ids)
    )
    rows = np.flatnonzero(np.isin(gene_ids, list(perturbed)))
    pairs = {}
    if len(rows):
        correlation, _ = cross_correlation(expression, rows, np.arange(len(gene_ids)))
        pairs["coexpression"] = pd.DataFrame(correlation, index=gene_ids[rows], columns=genes.index)
    if 0 < len(rows) <= _MAX_RIDGE:
        ids = np.asarray(gene_ids, dtype=object)
        found = ridge_edges(expression, ids, regulators=list(ids[rows]), targets=list(ids))
        weights = np.nan_to_num(found.weights.astype(np.float64))
        pairs["ridge"] = pd.DataFrame(weights, index=gene_ids[rows], columns=genes.index)
    return Baselines(genes=genes, pairs=pairs)


def other_perturbations(measured: Sequence[Measured]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how genes responded to perturbations of other genes, as measured.

    Parameters
    ----------
    measured
        Perturbations of two genes or more.

    Returns
    -------
    tuple of DataFrame
        Perturbed genes × genes: the share of the other perturbed genes to which a gene responded, and its
        mean effect there (each perturbed gene counting once, over its contrasts). NaN where none of the
        others measured the gene.
    """
    responds = _by_gene(measured, [pd.Series(one.responds, one.affected, dtype=float) for one in measured])
    effect = _by_gene(measured, [pd.Series(one.effect, one.affected, dtype=float) for one in measured])
    return _mean_of_others(responds), _mean_of_others(effect)


def _by_gene(measured: Sequence[Measured], values: Sequence[pd.Series]) -> pd.DataFrame:
    """Return the mean of each perturbed gene's measurements, perturbed genes × genes."""
    frame = pd.DataFrame(list(values))
    return frame.groupby(np.array([one.gene for one in measured], dtype=object)).mean()


def _mean_of_others(frame: pd.DataFrame) -> pd.DataFrame:
    known = frame.notna()
    total, count = frame.fillna(0.0).sum(axis=0), known.sum(axis=0)
    others = (total - frame.fillna(0.0)) / (count - known).where(lambda n: n > 0)
    return pd.DataFrame(others)

"""What a combination knows of a pair of genes: every source's score as ranks, and traits of the two genes.

Scores of different methods have different units; ranks do not. Three are taken: among all pairs, among the
target's regulators and among the regulator's targets (as in CLR, where a pair stands out against its own
genes rather than against all others).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from geneformer_grn.network.cross_products import Expression, mean_and_sd
from geneformer_grn.network.scored import ScoredPairs

PLANES = 3
"""Ranks of each source among the planes of `PairFeatures`, the one among all pairs first."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GeneTraits:
    """What expression says of single genes.

    Parameters
    ----------
    genes
        ``(g,)`` names.
    mean, variance, detection
        ``(g,)`` float64 of log-normalised expression: mean, variance, share of cells that express the gene.
    """

    genes: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    detection: np.ndarray

    def of(self, genes: np.ndarray) -> np.ndarray:
        """Return ``(3, n)`` float32 of some genes, as ranks between 0 and 1 among all; 0.5 where unknown."""
        place = {gene: number for number, gene in enumerate(self.genes.tolist())}
        where = np.array([place.get(gene, -1) for gene in genes.tolist()], dtype=np.int64)
        ranks = np.stack([_unit_ranks(values) for values in (self.mean, self.variance, self.detection)])
        return np.where(where >= 0, ranks[:, where], 0.5).astype(np.float32)


def gene_traits(expression: Expression, gene_ids: np.ndarray) -> GeneTraits:
    """Return mean, variance and detection of every gene.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised expression, dense or CSR.
    gene_ids
        ``(g,)`` names of the columns.

    Examples
    --------
    >>> gene_traits(np.array([[0.0, 1.0], [0.0, 3.0]]), np.array(["A", "B"])).variance.tolist()
    [0.0, 1.0]
    """
    mean, sd = mean_and_sd(expression)
    detection = np.asarray((expression > 0).mean(axis=0), dtype=np.float64).ravel()
    return GeneTraits(genes=np.asarray(gene_ids), mean=mean, variance=sd**2, detection=detection)


def require_same_pairs(sources: Mapping[str, ScoredPairs]) -> ScoredPairs:
    """Return the first source; all must cover the same regulators and targets.

    Raises
    ------
    ValueError
        There is none, or one covers other pairs.
    """
    if not sources:
        raise ValueError("a combination needs at least one method's scores, got none")
    first_name, first = next(iter(sources.items()))
    for name, pairs in sources.items():
        same = np.array_equal(first.regulators, pairs.regulators)
        if not (same and np.array_equal(first.targets, pairs.targets)):
            raise ValueError(
                f"{first_name} covers {_size(first)} pairs and {name} {_size(pairs)}, or others; methods "
                "are combined over the same pairs"
            )
    return first


def _size(pairs: ScoredPairs) -> str:
    return f"{len(pairs.regulators):,} × {len(pairs.targets):,}"


def global_ranks(pairs: ScoredPairs) -> np.ndarray:
    """Return ``(R, T)`` float32 ranks of the strengths among all pairs, from 0 to 1.

    Ties share their mean rank; pairs that were not scored tie for the last place.
    """
    return _unit_ranks(strengths(pairs)).astype(np.float32)


def strengths(pairs: ScoredPairs) -> np.ndarray:
    """Return ``(R, T)`` float64 ``|weight|``, -1 where a pair was not scored."""
    return np.where(pairs.scored, np.abs(pairs.weights.astype(np.float64)), -1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class PairFeatures:
    """Features of all pairs, put together for the pairs asked for.

    Parameters
    ----------
    planes
        ``(F, R, T)`` float32, what differs from pair to pair.
    of_regulator, of_target
        ``(m, R)`` and ``(k, T)`` float32, traits of the genes.
    """

    planes: np.ndarray
    of_regulator: np.ndarray
    of_target: np.ndarray

    def matrix(self, row: np.ndarray, column: np.ndarray, more: np.ndarray) -> np.ndarray:
        """Return ``(n, F + m + k + e)`` float32 of pairs, `more` ``(n, e)`` last."""
        parts = [
            self.planes[:, row, column].T,
            self.of_regulator[:, row].T,
            self.of_target[:, column].T,
            more,
        ]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def pair_features(sources: Mapping[str, ScoredPairs], traits: GeneTraits | None = None) -> PairFeatures:
    """Turn scores and traits into features.

    Parameters
    ----------
    sources
        Method -> scores, all over the same pairs.
    traits
        Of the genes; None: no traits but whether a target is a regulator, too.

    Notes
    -----
    A rank u becomes -log(1 - u): the few strongest pairs are told apart, the many weak ones are not.
    """
    first = require_same_pairs(sources)
    planes = []
    for pairs in sources.values():
        strength = strengths(pairs)
        ranks = (_unit_ranks(strength), _unit_ranks(strength, axis=0), _unit_ranks(strength, axis=1))
        planes += [_stretched(rank) for rank in ranks]
    is_regulator = np.isin(first.targets.astype(str), first.regulators.astype(str)).astype(np.float32)[None]
    if traits is None:
        nothing = np.empty((0, len(first.regulators)), dtype=np.float32)
        return PairFeatures(planes=np.stack(planes), of_regulator=nothing, of_target=is_regulator)
    return PairFeatures(
        planes=np.stack(planes),
        of_regulator=traits.of(first.regulators),
        of_target=np.concatenate([traits.of(first.targets), is_regulator]),
    )


def _stretched(ranks: np.ndarray) -> np.ndarray:
    return -np.log1p(-ranks * (1 - 1 / (ranks.size + 1))).astype(np.float32)


def _unit_ranks(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Return ranks between 0 and 1, over all values or along an axis; ties share their mean rank."""
    ranks = rankdata(values, axis=axis).reshape(values.shape)
    n = values.size if axis is None else values.shape[axis]
    return np.asarray((ranks - 1) / max(n - 1, 1))

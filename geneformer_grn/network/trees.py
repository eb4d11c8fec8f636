"""Ensembles of trees: every target predicted from the regulators, which are weighed by what they explain.

GENIE3 (Huynh-Thu et al. 2010) grows many deep, independent trees; GRNBoost (Moerman et al. 2019) few and
shallow ones, each on what the others leave over. Both see interactions and effects that are no straight
lines, and both are dearer than a regression by orders of magnitude: a tree is grown on 2,000 cells at most,
so that the cost depends on genes and not on cells. Weights say how much, not in which direction: they have
no sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geneformer_grn.network.cross_products import Expression
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.tree_targets import Importances, by_target, require_at_least_one, seed_of

_LARGEST_SPLIT = 50


@dataclass(frozen=True, kw_only=True)
class ForestSettings:
    """How GENIE3 grows its trees.

    Parameters
    ----------
    n_trees
        For each target.
    kind
        ``extra_trees`` (thresholds drawn at random, all cells) or ``random_forest`` (best thresholds, a
        bootstrap sample of the cells for each tree; two to three times as dear).
    max_features
        Regulators tried at a split; None: a third of them, but no more than 50. More weighs the best of
        several correlated regulators higher; GENIE3's own default is the square root.
    min_leaf
        Cells in a leaf, at least.
    max_cells
        Where there are more, each tree is grown on a bootstrap sample of this many.
    """

    n_trees: int = 50
    kind: Literal["extra_trees", "random_forest"] = "extra_trees"
    max_features: int | None = None
    min_leaf: int = 1
    max_cells: int = 2_000

    def __post_init__(self) -> None:
        if self.kind not in ("extra_trees", "random_forest"):
            raise ValueError(f"a forest is of extra_trees or random_forest, not {self.kind!r}")
        require_at_least_one(self, "n_trees", "max_features", "min_leaf", "max_cells")


def genie3_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    settings: ForestSettings | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> ScoredPairs:
    """Score pairs by the variance of the target that splits on the regulator explain, in a forest (GENIE3).

    Huynh-Thu, Irrthum, Wehenkel & Geurts (2010), PLoS ONE 5, e12776: targets are scaled to unit variance,
    each is predicted from all regulators but itself, and importances are not normalised within a tree, so
    that a target that is explained well has larger ones.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    settings
        See `ForestSettings`.
    seed
        Of everything random; results do not depend on `threads`.
    threads
        Targets grown at a time; None: one for each core.

    Returns
    -------
    ScoredPairs
        Unsigned weights: shares of the target's variance, 0 or more. No p-values.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, or there are fewer than 20 cells.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).normal(size=(200, 3))
    >>> cells[:, 2] = np.abs(cells[:, 0])  # no straight line sees this
    >>> pairs = genie3_edges(cells, np.array(["A", "B", "C"]), regulators=["A", "B"], targets=["C"])
    >>> (pairs.weights > 0.5).tolist()
    [[True], [False]]
    """
    settings = settings or ForestSettings()
    grow = forest_importances(settings, seed)
    return by_target(expression, gene_ids, regulators, targets, grow, method="genie3", threads=threads)


def forest_importances(settings: ForestSettings, seed: int) -> Importances:
    """Return the function that grows the trees of one target, scikit-learn's.

    One tree at a time: its forests spend longer on starting than small trees take to grow.
    """
    from sklearn.tree import DecisionTreeRegressor, ExtraTreeRegressor

    kinds = {"extra_trees": ExtraTreeRegressor, "random_forest": DecisionTreeRegressor}

    def grow(inputs: np.ndarray, target: np.ndarray, number: int) -> np.ndarray:
        n_cells, n_inputs = inputs.shape
        a_third = min(-(-n_inputs // 3), _LARGEST_SPLIT)
        drawn = min(n_cells, settings.max_cells)
        found = np.zeros(n_inputs)
        for tree in range(settings.n_trees):
            tree_seed = seed_of(seed, number, tree)
            times = None
            if settings.kind == "random_forest" or drawn < n_cells:
                chosen = np.random.default_rng(tree_seed).integers(n_cells, size=drawn)
                times = np.bincount(chosen, minlength=n_cells).astype(np.float64)
            grown = kinds[settings.kind](
                max_features=min(settings.max_features or a_third, n_inputs),
                min_samples_leaf=settings.min_leaf,
                random_state=tree_seed,
            ).fit(inputs, target, sample_weight=times, check_input=False)
            found += grown.tree_.compute_feature_importances(normalize=False)
        return found / settings.n_trees

    return grow

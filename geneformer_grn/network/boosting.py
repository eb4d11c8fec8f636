"""GRNBoost: shallow trees, each grown on what the others leave over (Moerman et al. 2019).

See `geneformer_grn.network.trees` for how it compares with a forest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geneformer_grn.network.cross_products import Expression
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.tree_targets import Importances, by_target, require_at_least_one, seed_of


@dataclass(frozen=True, kw_only=True)
class BoostingSettings:
    """How GRNBoost grows its trees.

    Parameters
    ----------
    max_trees
        For each target; fewer where `patience` trees in turn make the cells that were held out no better.
    patience
        See above.
    rate
        Share of a tree's prediction that is added.
    leaves
        Of a tree; 8 allow for interactions of a few regulators.
    min_gain
        What a split must take off the sum of squared errors, in units of the target's variance. A split on
        noise takes off 1 on average, the best of many several.
    bagged
        Share of the cells that a tree is grown on, drawn for each.
    max_cells
        At most this many cells for a tree.
    held_out
        Share of the cells that only say when to stop, the same for all targets.
    """

    max_trees: int = 500
    patience: int = 25
    rate: float = 0.05
    leaves: int = 8
    min_gain: float = 6.0
    bagged: float = 0.9
    max_cells: int = 2_000
    held_out: float = 0.1

    def __post_init__(self) -> None:
        require_at_least_one(self, "max_trees", "patience", "max_cells")
        if self.leaves < 2 or self.min_gain < 0:
            raise ValueError(
                f"trees have 2 leaves or more and a gain of 0 or more, got {self.leaves} and {self.min_gain}"
            )
        if not (0 < self.rate <= 1 and 0 < self.bagged <= 1 and 0 < self.held_out < 1):
            raise ValueError(
                "rate and bagged lie above 0 and up to 1, held_out below 1; got "
                f"{self.rate}, {self.bagged} and {self.held_out}"
            )


def grnboost_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    settings: BoostingSettings | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> ScoredPairs:
    """Score pairs by the variance of the target that splits on the regulator explain, in boosted trees.

    In the manner of GRNBoost2 (Moerman et al. 2019, Bioinformatics 35, 2159) with LightGBM (the extra
    ``trees``): targets of unit variance, a small rate, and as many trees as cells that were held out ask for.
    GRNBoost2 tries a tenth of the regulators at a split, and stops by the cells that a tree leaves out; here
    all are tried, and a split must be worth its `min_gain`.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    settings
        See `BoostingSettings`.
    seed, threads
        As in `geneformer_grn.network.trees.genie3_edges`.

    Returns
    -------
    ScoredPairs
        Unsigned weights: the share of the target's variance that splits on the regulator explain in the cells
        that trees were grown on, less `min_gain` for each; exactly 0 where no split uses it. No p-values.

    Raises
    ------
    ImportError
        LightGBM is not installed.
    ValueError
        A gene is not in `gene_ids`, or there are fewer than 20 cells.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).normal(size=(400, 3))
    >>> cells[:, 2] = np.abs(cells[:, 0])
    >>> pairs = grnboost_edges(cells, np.array(["A", "B", "C"]), regulators=["A", "B"], targets=["C"])
    >>> (pairs.weights > 0.5).tolist()
    [[True], [False]]
    """
    settings = settings or BoostingSettings()
    grow = boosted_importances(settings, seed)
    return by_target(expression, gene_ids, regulators, targets, grow, method="grnboost", threads=threads)


def boosted_importances(settings: BoostingSettings, seed: int) -> Importances:
    """Return the function that boosts the trees of one target with LightGBM.

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError(
            'grnboost needs LightGBM, which is not installed: pip install "geneformer-grn[trees]", '
            "or use genie3"
        ) from error

    def grow(inputs: np.ndarray, target: np.ndarray, number: int) -> np.ndarray:
        n_cells = len(inputs)
        shuffled = np.random.default_rng([seed, n_cells]).permutation(n_cells)
        n_held = max(1, round(settings.held_out * n_cells))
        held, kept = np.sort(shuffled[:n_held]), np.sort(shuffled[n_held:])
        how: dict[str, Any] = {
            "objective": "l2", "learning_rate": settings.rate, "num_leaves": settings.leaves,
            "min_gain_to_split": settings.min_gain, "bagging_freq": 1,
            "bagging_fraction": min(settings.bagged, settings.max_cells / len(kept)),
            "min_data_in_leaf": max(3, min(20, n_cells // 20)), "feature_pre_filter": False,
            "seed": seed_of(seed, number), "deterministic": True, "force_row_wise": True, "num_threads": 1,
            "verbosity": -1,
        }  # fmt: skip
        data = lightgbm.Dataset(inputs[kept], target[kept], params=how)
        model = lightgbm.train(
            how,
            data,
            num_boost_round=settings.max_trees,
            valid_sets=[data.create_valid(inputs[held], target[held])],
            callbacks=[lightgbm.early_stopping(settings.patience, verbose=False)],
        )
        gain = model.feature_importance("gain", iteration=model.best_iteration)
        taken = settings.rate * (2.0 - settings.rate)  # of a full step's gain, by a step of this length
        return gain * taken / (how["bagging_fraction"] * len(kept))

    return grow

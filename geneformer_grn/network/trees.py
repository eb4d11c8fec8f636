"""Ensembles of trees: every target predicted from the regulators, which are weighed by what they explain.

GENIE3 (Huynh-Thu et al. 2010) grows many deep, independent trees; GRNBoost (Moerman et al. 2019) few and
shallow ones, each on what the others leave over. Both see interactions and effects that are no straight
lines, and both are dearer than a regression by orders of magnitude: a tree is grown on 2,000 cells at most,
so that the cost depends on genes and not on cells. Weights say how much, not in which direction: they have
no sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import sparse

from geneformer_grn._runtime import n_cores, progress
from geneformer_grn.network.cross_products import Expression, cross_correlation
from geneformer_grn.network.pairing import pair_up
from geneformer_grn.network.scored import ScoredPairs

Importances = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""``(n, k)`` float32 regulators, ``(n,)`` float64 target, its number -> ``(k,)`` importances."""

MIN_CELLS = 20
"""Fewest cells that trees are grown on."""

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
        _require_at_least_one(self, "n_trees", "max_features", "min_leaf", "max_cells")


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
        _require_at_least_one(self, "max_trees", "patience", "max_cells")
        if self.leaves < 2 or self.min_gain < 0:
            raise ValueError(
                f"trees have 2 leaves or more and a gain of 0 or more, got {self.leaves} and {self.min_gain}"
            )
        if not (0 < self.rate <= 1 and 0 < self.bagged <= 1 and 0 < self.held_out < 1):
            raise ValueError(
                "rate and bagged lie above 0 and up to 1, held_out below 1; got "
                f"{self.rate}, {self.bagged} and {self.held_out}"
            )


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
    return _by_target(expression, gene_ids, regulators, targets, grow, method="genie3", threads=threads)


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
            tree_seed = _seed_of(seed, number, tree)
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
        As in `genie3_edges`.

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
    return _by_target(expression, gene_ids, regulators, targets, grow, method="grnboost", threads=threads)


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
            "seed": _seed_of(seed, number), "deterministic": True, "force_row_wise": True, "num_threads": 1,
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


def _by_target(
    expression: Expression,
    gene_ids: np.ndarray,
    regulators: Sequence[str],
    targets: Sequence[str],
    grow: Importances,
    *,
    method: str,
    threads: int | None,
) -> ScoredPairs:
    """Grow the trees of every target, several targets at a time."""
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    if pairing.n_cells < MIN_CELLS:
        raise ValueError(f"{method} needs at least {MIN_CELLS} cells, got {pairing.n_cells}")
    _, support = cross_correlation(expression, pairing.rows, pairing.columns)
    by_gene = sparse.csc_matrix(expression) if sparse.issparse(expression) else np.asarray(expression)
    inputs = _dense(by_gene, pairing.rows).astype(np.float32)
    weights = np.full(pairing.unscored.shape, np.nan)

    def run(target: int) -> None:
        column = pairing.columns[target]
        used = np.flatnonzero(~pairing.unscored[:, target])
        values = _dense(by_gene, [column])[:, 0]
        weights[used, target] = grow(inputs[:, used], (values - values.mean()) / values.std(), int(column))

    wanted = np.flatnonzero(pairing.varying).tolist()
    with ThreadPoolExecutor(threads or n_cores()) as pool:
        for _ in progress(pool.map(run, wanted), total=len(wanted), desc=method, unit="target"):
            pass
    return pairing.scored(weights, support, method=method, signed=False)


def _dense(by_gene: np.ndarray | sparse.csc_matrix, columns: Sequence[int] | np.ndarray) -> np.ndarray:
    part = by_gene[:, columns]
    return np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)


def _seed_of(*numbers: int) -> int:
    """Return the seed of one target, or one of its trees, whatever the others are."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def _require_at_least_one(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

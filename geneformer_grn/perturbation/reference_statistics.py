"""The reference's four statistics, under the name ``reference``, for comparison with published analyses.

They answer the reference's questions with the reference's tests, on the tables the engine writes. Two of them
are rank-sum tests whose unit is the cell: cells of one donor are no replicates, so their p-values shrink with
the number of cells, whatever the gene does. The column ``unit`` says so. The p-values to believe are those of
`geneformer_grn.perturbation.effects`, whose unit is the gene.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.special import ndtr

from geneformer_grn.statistics import benjamini_hochberg

PSEUDO_REPLICATED = "cell (pseudo-replicated)"
GOAL_STATE_COLUMNS = (
    "gene", "kind", "group", "readout", "state", "shift", "n_cells", "n_pool", "p_value", "q_value", "unit",
)  # fmt: skip
AGAINST_NULL_COLUMNS = (
    "gene", "kind", "group", "readout", "state", "shift", "null_shift", "difference", "n_cells",
    "n_null_cells", "p_value", "q_value", "unit",
)  # fmt: skip
MIXTURE_COLUMNS = (
    "gene", "kind", "group", "readout", "state", "shift", "n_cells", "impact", "impact_cells",
)  # fmt: skip
_POOL = 100_000
_FAMILY = ["kind", "group", "readout", "state"]


def goal_state(cells: pd.DataFrame, *, pool: int = _POOL, seed: int = 0) -> pd.DataFrame:
    """Return whether each gene's shifts towards a state differ from those of all genes.

    Parameters
    ----------
    cells
        `geneformer_grn.perturbation.engine.CELL_COLUMNS`; the rows of the readout ``state``. The test makes
        sense where many genes were perturbed.
    pool
        At most this many shifts of all genes are sampled to compare with.
    seed
        Seed of that sample.

    Returns
    -------
    `GOAL_STATE_COLUMNS`, a row per gene, group and state, largest shift first within a state. ``p_value`` is
    the two-sided rank-sum (normal approximation, ties by average rank) of the gene's shifts against the
    ``n_pool`` pooled ones, its own included; ``q_value`` Benjamini-Hochberg over the genes of a group and
    state.

    Raises
    ------
    ValueError
        No row of the readout ``state``; a missing column.

    Notes
    -----
    Theodoris et al. (2023), Transfer learning enables predictions in network biology, Nature 618.

    Examples
    --------
    >>> goal_state(pd.read_parquet("out/cells.parquet")).query("state == 'healthy'")  # doctest: +SKIP
    """
    _require(cells, "gene", "shift", *_FAMILY)
    cells = cells[cells["readout"] == "state"]
    if cells["shift"].notna().sum() == 0:
        raise ValueError("no shift towards a state: perturb with a start and a goal state first")
    rng = np.random.default_rng(seed)
    parts = []
    for key, genes, of_gene, shifts in _families(cells):
        sample = shifts if len(shifts) <= pool else rng.choice(shifts, pool, replace=False)
        p_values = _rank_sum_p(shifts, of_gene, sample)
        n_cells = np.bincount(of_gene)
        found = {
            "gene": genes, **key, "shift": np.bincount(of_gene, weights=shifts) / n_cells,
            "n_cells": n_cells, "n_pool": len(sample), "p_value": p_values,
            "q_value": benjamini_hochberg(p_values), "unit": PSEUDO_REPLICATED,
        }  # fmt: skip
        parts.append(pd.DataFrame(found).sort_values("shift", ascending=False, kind="stable"))
    return pd.concat(parts, ignore_index=True)[list(GOAL_STATE_COLUMNS)]


def against_null(cells: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Return whether each gene's shifts differ from its shifts in another set of perturbed cells.

    Parameters
    ----------
    cells, null
        `CELL_COLUMNS`: the same genes in the cells of interest and in cells to compare with (another
        dataset, other cells, labels shuffled). Genes of `cells` that `null` lacks have NaN.

    Returns
    -------
    `AGAINST_NULL_COLUMNS`, a row per gene, group, readout and state, largest ``difference`` (of the mean
    shifts) first within a readout and state. ``p_value`` is the two-sided rank-sum, as in `goal_state`.

    Raises
    ------
    ValueError
        The tables share no gene of the same kind, group, readout and state; a missing column.
    """
    _require(cells, "gene", "shift", *_FAMILY)
    _require(null, "gene", "shift", *_FAMILY)
    compared = {
        (tuple(key.values()), gene): values
        for key, genes, of_gene, shifts in _families(null)
        for gene, values in zip(genes, _split(shifts, of_gene), strict=True)
    }
    parts, n_shared = [], 0
    for key, genes, of_gene, shifts in _families(cells):
        rows = []
        for gene, own in zip(genes, _split(shifts, of_gene), strict=True):
            other = compared.get((tuple(key.values()), gene), np.empty(0))
            n_shared += len(other) > 0
            if len(other):
                null_shift, p_value = other.mean(), _rank_sum_p(own, np.zeros(len(own), dtype=int), other)[0]
            else:
                null_shift = p_value = np.nan
            shift = own.mean()
            rows.append((gene, shift, null_shift, shift - null_shift, len(own), len(other), p_value))
        names = ["gene", "shift", "null_shift", "difference", "n_cells", "n_null_cells", "p_value"]
        found = pd.DataFrame(rows, columns=names).assign(**key, unit=PSEUDO_REPLICATED)
        found["q_value"] = benjamini_hochberg(found["p_value"].to_numpy())
        parts.append(found.sort_values("difference", ascending=False, kind="stable"))
    if not n_shared:
        raise ValueError(
            "the null table holds none of the genes with the same kind, group, readout and state"
        )
    return pd.concat(parts, ignore_index=True)[list(AGAINST_NULL_COLUMNS)]


def mixture(cells: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Return which genes, and what share of their cells, fall into the component with an impact.

    A Gaussian mixture of two components is fitted to the genes' mean shifts. The component of impact is the
    one with the larger mean; the reference takes whichever the fit numbers 0.

    Parameters
    ----------
    cells
        `CELL_COLUMNS`.
    seed
        Seed of the fit.

    Returns
    -------
    `MIXTURE_COLUMNS`, a row per gene, group, readout and state, largest shift first within a readout and
    state. ``impact`` (bool): the gene's mean shift belongs to the component of impact; ``impact_cells``: the
    share of its cells whose shift does. As in the reference a shift beyond the mean of either component
    belongs to it, and between the means the likelier one decides. With fewer than two distinct means there
    is nothing to split: ``impact`` is False and ``impact_cells`` NaN.

    Raises
    ------
    ValueError
        No shift at all; a missing column.
    """
    from sklearn.mixture import GaussianMixture

    _require(cells, "gene", "shift", *_FAMILY)
    parts = []
    for key, genes, of_gene, shifts in _families(cells):
        n_cells = np.bincount(of_gene)
        means = np.bincount(of_gene, weights=shifts) / n_cells
        impact, impact_cells = np.zeros(len(genes), dtype=bool), np.full(len(genes), np.nan)
        if len(np.unique(means)) > 1:
            # In units of their spread: the fit adds 1e-6 to variances, and knock-out shifts can be as small.
            scale = means.std()
            fitted = GaussianMixture(n_components=2, random_state=seed).fit(means[:, None] / scale)
            impact = _has_impact(means / scale, fitted)
            impact_cells = np.bincount(of_gene, weights=_has_impact(shifts / scale, fitted)) / n_cells
        found = {
            "gene": genes, **key, "shift": means, "n_cells": n_cells, "impact": impact,
            "impact_cells": impact_cells,
        }  # fmt: skip
        parts.append(pd.DataFrame(found).sort_values("shift", ascending=False, kind="stable"))
    if not parts:
        raise ValueError("no shift to fit a mixture to: no cell holds any of the genes")
    return pd.concat(parts, ignore_index=True)[list(MIXTURE_COLUMNS)]


def aggregate(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean, standard deviation and number of the cosines of each gene, or of each pair of genes.

    Parameters
    ----------
    table
        One row per value, with ``gene``, ``cosine``, any of ``kind``, ``group``, ``readout``, ``state``, and
        for gene shifts ``affected``: `CELL_COLUMNS`, or the cosine of an affected gene in a cell.

    Returns
    -------
    The columns it is grouped by, ``cosine``, ``sd`` (population: 0 for a single value) and ``n_cells``;
    smallest cosine, that is the strongest effect, first.

    Raises
    ------
    ValueError
        A missing column.
    """
    _require(table, "gene", "cosine")
    by = [name for name in ("gene", "affected", *_FAMILY) if name in table]
    values = table.dropna(subset=["cosine"]).groupby(by, sort=False, observed=True, dropna=False)["cosine"]
    found = values.agg(cosine="mean", n_cells="size")
    found.insert(1, "sd", values.std(ddof=0))
    return found.reset_index().sort_values("cosine", kind="stable", ignore_index=True)


def reference_tables(
    cells: pd.DataFrame,
    *,
    gene_shifts: pd.DataFrame | None = None,
    null: pd.DataFrame | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Return those of the four statistics that the tables allow, by name.

    Parameters
    ----------
    cells
        `CELL_COLUMNS`, as in ``cells.parquet``.
    gene_shifts
        As in ``gene_shifts.parquet``; None: not asked for.
    null
        The same of cells to compare with; None: without ``against_null``.
    seed
        Seed of the pooled sample and of the fit.

    Returns
    -------
    ``aggregate`` and ``mixture``; ``goal_state`` where there are shifts towards states, ``against_null``
    with `null`, ``aggregate_gene_shifts`` with `gene_shifts` (``sd`` NaN without their ``shift_sd``). Empty
    where no cell holds any of the genes.

    Raises
    ------
    ValueError
        A missing column; a null table of other genes.
    """
    _require(cells, "gene", "cosine", "shift", *_FAMILY)
    known = cells[cells["shift"].notna()]
    if known.empty:
        return {}
    tables = {"aggregate": aggregate(known), "mixture": mixture(known, seed=seed)}
    if (known["readout"] == "state").any():
        tables["goal_state"] = goal_state(known, seed=seed)
    if null is not None:
        tables["against_null"] = against_null(known, null)
    if gene_shifts is not None:
        pairs = gene_shifts.assign(cosine=1.0 - gene_shifts["shift"], sd=gene_shifts.get("shift_sd", np.nan))
        columns = ["gene", "affected", "kind", "group", "cosine", "sd", "n_cells"]
        tables["aggregate_gene_shifts"] = pairs[columns].sort_values("cosine", ignore_index=True)
    return tables


def _families(
    cells: pd.DataFrame,
) -> Iterator[tuple[dict[str, str], np.ndarray, np.ndarray, np.ndarray]]:
    """Yield per family its labels, ``(g,)`` genes, and of each row the number of its gene and its shift."""
    known = cells[cells["shift"].notna()]
    for key, part in known.groupby(_FAMILY, sort=False, observed=True):
        of_gene, genes = pd.factorize(part["gene"].astype(object))
        labels = {name: str(label) for name, label in zip(_FAMILY, key, strict=True)}
        yield labels, np.asarray(genes), of_gene, part["shift"].to_numpy(dtype=np.float64)


def _split(shifts: np.ndarray, of_gene: np.ndarray) -> list[np.ndarray]:
    """Return the shifts of each gene, by its number."""
    return np.split(shifts[np.argsort(of_gene, kind="stable")], np.cumsum(np.bincount(of_gene))[:-1])


def _rank_sum_p(values: np.ndarray, group: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return the ``(g,)`` two-sided rank-sum p-values of each group of `values` against one `pool`.

    The pool is sorted once for all groups: a value's rank among the pool and its group is that among the
    pool plus that among the group.
    """
    ordered = np.sort(pool)
    below = np.searchsorted(ordered, values, "left")
    among_pool = (below + np.searchsorted(ordered, values, "right")) / 2
    # Ranks within groups cancel in Mann-Whitney's U, which counts the pool only.
    n_values = np.bincount(group)
    u = np.bincount(group, weights=among_pool)
    expected = n_values * len(pool) / 2
    sd = np.sqrt(n_values * len(pool) * (n_values + len(pool) + 1) / 12)
    return np.asarray(2 * ndtr(-np.abs((u - expected) / sd)))


def _has_impact(values: np.ndarray, fitted: object) -> np.ndarray:
    """Return which of ``(n,)`` values belong to the component with the larger mean."""
    means = fitted.means_.ravel()  # type: ignore[attr-defined]
    strong = int(np.argmax(means))
    likelier = fitted.predict(values[:, None]) == strong  # type: ignore[attr-defined]
    return np.asarray((values > means[strong]) | (likelier & (values >= means[1 - strong])))


def _require(table: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"the table lacks {', '.join(missing)}; it has {', '.join(map(str, table.columns))}. "
            "Pass the cells table of a perturbation (cells.parquet)."
        )

"""Which edges change between two groups of cells, by every method that the network was scored by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.extraction.methods import METHODS as FROM_MODEL
from geneformer_grn.network.differences import edge_differences
from geneformer_grn.network.methods import MODEL_FREE
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.workflows.grouping import UNLABELLED
from geneformer_grn.workflows.network_scorers import NetworkCells, Scorer, scorers
from geneformer_grn.workflows.network_settings import NetworkSettings
from geneformer_grn.workflows.regulators import detected

COLUMNS = ("source", "target", "weight_a", "weight_b", "difference", "low", "high", "support_a", "support_b",
           "p_value", "q_value", "method", "group_a", "group_b")  # fmt: skip
"""Columns of a table of differences, in order."""

_OF_NO_CELLS = frozenset({"embedding"})  # weights of the model, in which cells play no part
_QUICK = frozenset({"correlation", "spearman", "partial_correlation", "ridge", "lasso", "elastic_net"})
_DEPTH_RATIO = 1.25  # of the median counts of the cells of two groups, beyond which it is mentioned


def compare_groups(
    cells: NetworkCells,
    labels: np.ndarray,
    groups: tuple[str, str],
    *,
    genes: tuple[np.ndarray, np.ndarray],
    methods: Collection[str],
    settings: NetworkSettings,
    n_splits: int = 50,
) -> pd.DataFrame:
    """Compare the networks of two groups, pair by pair.

    A difference is one of weights, whatever makes it. Correlation falls with depth: where one group was
    sequenced deeper, its correlations are larger, which is said in the log.

    Parameters
    ----------
    cells
        The cells, and the model where a method needs it.
    labels
        ``(n,)`` str group of each cell.
    groups
        The two to compare.
    genes
        Tokens of regulators and targets; those that too few cells of a group express are left out.
    methods
        To compare by; of those that score pairs on their own, others are left out with a warning. So are
        slow ones that were not asked for by name: each runs twice a split and group.
    settings
        How pairs are scored; ``top`` rows are kept per method.
    n_splits
        See `geneformer_grn.network.differences.edge_differences`.

    Returns
    -------
    DataFrame
        `COLUMNS`: see `geneformer_grn.network.differences.edge_differences`; ``group_a`` is the first.

    Raises
    ------
    ValueError
        A group does not exist or is too small, or no method can be compared.
    """
    rows = group_pair(labels, groups, min_cells=settings.min_cells)
    enough = [detected(cells.expression, cells.counts, part, settings.min_support) for part in rows]
    in_both = enough[0] & enough[1]
    regulators, targets = (np.array([gene for gene in part if gene in in_both], np.int64) for part in genes)
    if not len(regulators) or not len(targets):
        raise ValueError(
            f"no {'target' if len(regulators) else 'regulator'} is expressed in {settings.min_support} cells "
            f"of both {groups[0]!r} and {groups[1]!r}, so that no edge can be compared"
        )
    alone = {*MODEL_FREE, *FROM_MODEL} - _OF_NO_CELLS
    compared = [method for method in methods if method in alone]
    left_out = [method for method in methods if method not in compared]
    if not compared:
        raise ValueError(f"none of {', '.join(methods)} can be compared between groups; name another method")
    if settings.lenient and (quick := [method for method in compared if method in _QUICK]):
        left_out += [method for method in compared if method not in quick]
        compared = quick
    if left_out:
        logger.warning(
            "not compared between groups: %s%s", ", ".join(left_out),
            "; slow ones are by name (--methods)" if settings.lenient else "",
        )  # fmt: skip
    logger.info(
        "%s (%d cells) against %s (%d): %d regulators × %d targets, %d splits, %s",
        groups[0], len(rows[0]), groups[1], len(rows[1]),
        len(regulators), len(targets), n_splits, ", ".join(compared),
    )  # fmt: skip
    _warn_of_depth(cells, rows, groups)
    halved = replace(
        settings,
        min_support=max(settings.min_support // 2, 1),
        cells_per_regulator=max(settings.cells_per_regulator // 2, 1),
    )
    whole, half = (scorers(cells, how, tuple(compared)) for how in (settings, halved))
    tables = []
    for method in compared:
        table = edge_differences(
            partial(_score, whole[method], regulators, targets), *rows,
            score_half=partial(_score, half[method], regulators, targets),
            n_splits=n_splits, seed=settings.seed,
        )  # fmt: skip
        tables.append(table.head(settings.top).assign(method=method))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(group_a=groups[0], group_b=groups[1])[list(COLUMNS)]


def group_pair(
    labels: np.ndarray | None, groups: tuple[str, str], *, min_cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two groups.

    Raises
    ------
    ValueError
        There are no groups, one does not exist or is too small, or the two are one.
    """
    if labels is None:
        raise ValueError("groups are compared within a column; name it by --groups")
    known = sorted(set(labels) - {UNLABELLED})
    unknown = [group for group in groups if group not in known]
    if unknown:
        raise ValueError(
            f"there is no group {', '.join(map(repr, unknown))}; the cells have {', '.join(map(repr, known))}"
        )
    if groups[0] == groups[1]:
        raise ValueError(f"{groups[0]!r} cannot be compared with itself; name two groups")
    rows = np.flatnonzero(labels == groups[0]), np.flatnonzero(labels == groups[1])
    few = [
        f"{group!r} ({len(part)})" for group, part in zip(groups, rows, strict=True) if len(part) < min_cells
    ]
    if few:
        raise ValueError(f"too few cells to compare: {', '.join(few)}; {min_cells} are needed (--min-cells)")
    return rows


def split_groups(text: str, labels: np.ndarray | None) -> tuple[str, str]:
    """Return the two groups named in ``A,B``; names may hold commas themselves.

    Raises
    ------
    ValueError
        `text` holds no comma, or could be two pairs of groups.
    """
    parts = text.split(",")
    ways = [(",".join(parts[:cut]).strip(), ",".join(parts[cut:]).strip()) for cut in range(1, len(parts))]
    known = set() if labels is None else set(labels)
    fitting = [way for way in ways if set(way) <= known]
    if len(fitting) > 1:
        raise ValueError(f"{text!r} could be {' or '.join(map(str, fitting))}; rename a group")
    if not ways:
        raise ValueError(f"two groups are compared, with a comma between them; got {text!r}")
    return (fitting or ways)[0]


def _score(score: Scorer, regulators: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> ScoredPairs:
    (pairs,) = score(rows, regulators, targets).values()
    return pairs


def _warn_of_depth(cells: NetworkCells, rows: tuple[np.ndarray, np.ndarray], groups: tuple[str, str]) -> None:
    depth = [float(np.median(cells.counts.n_counts[part])) for part in rows]
    if max(depth) > _DEPTH_RATIO * min(depth):
        logger.warning(
            "a cell of %r holds %.0f counts and one of %r %.0f (medians): correlations grow with depth, and "
            "so do their differences",
            groups[0], depth[0], groups[1], depth[1],
        )  # fmt: skip

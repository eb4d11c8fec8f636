"""The table of effects: a mean, an interval and a p-value per perturbed gene set, group, readout and state.

Shifts are read in slices of requests, so that memory is bounded by a slice of cells and by a few numbers per
request, however many cells the run had. Of every request, tested or null, the means over its first cells are
kept: a gene is compared with null genes over as many cells as it has itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.perturbation.screen import Screen
from geneformer_grn.report.figures import SIGNIFICANT
from geneformer_grn.report.words import effects_sentence
from geneformer_grn.statistics import (
    Alternative,
    benjamini_hochberg,
    hierarchical_bootstrap,
    matched_null_p,
    traits_in_reach,
    without_trend,
)

EFFECT_COLUMNS = (
    "gene", "kind", "group", "readout", "state", "shift", "n_cells", "ci_low", "ci_high",
    "p_value", "q_value", "n_null", "null_mean", "null_low", "null_high", "p_value_raw",
    "shift_compared", "compared_low", "compared_high",
)  # fmt: skip
RESAMPLES = 2000  # enough for the outer quantiles that few donors ask for
_TREND_FROM = 20  # null genes: fewer cannot tell a trend in three traits from noise
_SLICE = 1_000_000  # (request, cell) pairs read at a time

Reader = Callable[[np.ndarray], pd.DataFrame]
"""Takes ``(n,)`` request numbers, ascending; returns their rows ``request, cell_id, readout, state, shift``:
the cells of a request in its own order, NaN where a cell lacks the gene, ``cell_id`` the row of the cell."""


def reader_of(cells: pd.DataFrame) -> Reader:
    """Return a reader of a table in memory: the engine's cells table with its column ``request``."""

    def read(numbers: np.ndarray) -> pd.DataFrame:
        return cells[np.isin(cells["request"].to_numpy(), numbers)]

    return read


def effects_table(
    screen: Screen,
    names: np.ndarray,
    read: Reader,
    *,
    donors: pd.Series | None = None,
    traits: np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Summarise the cells of a screen into effects.

    Parameters
    ----------
    screen
        The screen; its tested requests become rows.
    names
        ``(n_requests,)`` names of the gene sets.
    read
        Gives the shifts of some requests; it is asked for every request once, in slices.
    donors
        Donor of each ``cell_id``; None where they are not known.
    traits
        ``(n_requests, t)`` what genes are matched on; None: p-values compare the means as they are.
    seed
        Seed of the bootstrap.

    Returns
    -------
    `EFFECT_COLUMNS`, with donors also ``n_donors``. ``shift`` is the mean over the ``n_cells`` cells that
    hold the genes, ``ci_low`` to ``ci_high`` its 95 % bootstrap interval (NaN below two cells): over donors
    and cells within them, over cells alone where donors are not known or only one is. ``shift_compared`` is
    the mean over the first of these cells, at most as many as a null gene has, ``compared_low`` to
    ``compared_high`` its interval. ``p_value_raw`` ranks it among the means of the ``n_null`` null sets over
    equally many cells: larger is extreme without states, either direction with them. ``p_value`` does the
    same with all means less their linear trend in `traits`, and is ``p_value_raw`` below 20 null sets. A
    trait in which the gene lies apart from all its null genes is left out, as those cannot tell the trend
    that far; the log says for how many tests. ``null_mean`` and ``null_low`` to
    ``null_high`` (2.5 to 97.5 %) describe the null's means as they are. ``q_value`` is Benjamini-Hochberg of
    ``p_value`` over the gene sets of all groups, for each readout and state: where nothing is to be found,
    more groups do not mean more discoveries.

    Raises
    ------
    ValueError
        The donor of a cell is missing.
    """
    outcomes: dict[tuple[str, str], _Outcome] = {}
    for numbers in request_slices(screen):
        for (readout, state), part in read(numbers).groupby(["readout", "state"], sort=False, observed=True):
            outcome = outcomes.setdefault((str(readout), str(state)), _Outcome(screen))
            outcome.add(numbers, part, donors, seed=seed)
    rows = []
    for (readout, state), outcome in outcomes.items():
        for number in screen.nulls:
            request, values = screen.requests[number], outcome.row(number, traits, two_sided=bool(state))
            rows.append((names[number], request.kind, request.group, readout, state, *values))
    n_apart = sum(outcome.n_apart for outcome in outcomes.values())
    if n_apart:
        logger.info(
            "in %d of %d tests the gene lies apart from all its null genes in rank, detection or expression: "
            "that trend could not be taken out", n_apart, len(rows),
        )  # fmt: skip
    effects = pd.DataFrame(rows, columns=[*EFFECT_COLUMNS, "n_donors"])
    if donors is None:
        effects = effects.drop(columns="n_donors")
    if len(effects):
        by_family = effects.groupby(["readout", "state"], sort=False)["p_value"]
        effects["q_value"] = by_family.transform(lambda p: benjamini_hochberg(p.to_numpy()))
    return effects


def request_slices(screen: Screen, numbers: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield request numbers (None: all), as many at a time as have about a million cells between them."""
    numbers = np.arange(len(screen.requests)) if numbers is None else numbers
    sizes = np.array([len(screen.requests[number].cells) for number in numbers], dtype=np.int64)
    slice_of = (np.cumsum(sizes) - sizes) // _SLICE
    cuts = np.flatnonzero(np.diff(slice_of)) + 1
    yield from (part for part in np.split(numbers, cuts) if len(part))


class _Outcome:
    """What is known of every request in one readout and state.

    Parameters
    ----------
    screen
        The screen; its tested requests get an interval.
    """

    def __init__(self, screen: Screen) -> None:
        n = len(screen.requests)
        self._nulls = screen.nulls
        self._first = np.full((n, screen.cells_per_gene), np.nan)  # mean over the first 1, 2, ... cells
        self._interval = np.full((n, 3), np.nan)  # mean over all cells, lower and upper end
        self._compared = np.full((n, 2), np.nan)  # ends of the interval of the mean over the first cells
        self._n = np.zeros((n, 2), dtype=np.int64)  # cells, donors
        self.n_apart = 0  # rows whose gene lies apart from its null genes in a trait

    def add(self, numbers: np.ndarray, part: pd.DataFrame, donors: pd.Series | None, *, seed: int) -> None:
        """Take in the shifts of requests `numbers`."""
        part = part[part["shift"].notna()]
        request = part["request"].to_numpy()
        by_request = np.argsort(request, kind="stable")
        cuts = np.searchsorted(request[by_request], numbers[1:])
        shifts = np.split(part["shift"].to_numpy(dtype=np.float64)[by_request], cuts)
        donor: list[np.ndarray] | list[None] = [None] * len(numbers)
        if donors is not None:
            donor = np.split(part["cell_id"].map(donors).to_numpy()[by_request], cuts)
        for number, values, of_donor in zip(numbers.tolist(), shifts, donor, strict=True):
            if not len(values):
                continue
            first = values[: self._first.shape[1]]
            self._first[number, : len(first)] = np.cumsum(first) / np.arange(1, len(first) + 1)
            self._first[number, len(first) :] = self._first[number, len(first) - 1]
            if number in self._nulls:
                rng = np.random.default_rng([seed, number])
                interval = hierarchical_bootstrap(values, of_donor, rng=rng, n=RESAMPLES)
                self._interval[number] = values.mean(), *interval
                if len(first) < len(values):
                    donor_of_first = None if of_donor is None else of_donor[: len(first)]
                    interval = hierarchical_bootstrap(first, donor_of_first, rng=rng, n=RESAMPLES)
                self._compared[number] = interval
                self._n[number] = len(values), 0 if of_donor is None else len(pd.unique(of_donor))

    def row(self, number: int, traits: np.ndarray | None, *, two_sided: bool) -> tuple[float | int, ...]:
        """Return the row of a tested request, from ``shift`` on; ``q_value`` is left open."""
        null = self._nulls[number]
        n_cells, n_donors = self._n[number].tolist()
        compared = max(min(n_cells, self._first.shape[1]), 1) - 1
        own, null_means = float(self._first[number, compared]), self._first[null, compared]
        alternative: Alternative = "two-sided" if two_sided else "greater"
        raw = p_value = matched_null_p(own, null_means, alternative=alternative)
        if traits is not None:
            near = np.vstack([traits[number], traits[null]])
            own_rest, null_rest, n_left_out = _adjusted(own, null_means, near)
            p_value = matched_null_p(own_rest, null_rest, alternative=alternative)
            self.n_apart += n_left_out > 0
        known = null_means[~np.isnan(null_means)]
        null_low, null_high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        null_mean = float(known.mean()) if len(known) else np.nan
        mean, low, high = self._interval[number].tolist()
        return (
            mean, n_cells, low, high, p_value, np.nan, len(known), null_mean, null_low, null_high, raw,
            own, *self._compared[number].tolist(), n_donors,
        )  # fmt: skip


def _adjusted(own: float, null: np.ndarray, traits: np.ndarray) -> tuple[float, np.ndarray, int]:
    """Return a mean and its null means without their trend, and how many traits that leaves out.

    `traits` are those of the gene, then of its null genes. With few null means all stays as it is.
    """
    known = ~np.isnan(null)
    if np.isnan(own) or np.count_nonzero(known) < _TREND_FROM:
        return own, null, 0
    traits = traits[np.append(True, known)]
    kept = traits_in_reach(traits)
    without = without_trend(np.append(own, null[known]), traits[:, kept])
    return float(without[0]), without[1:], int(np.count_nonzero(~kept))


def effects_summary(effects: pd.DataFrame) -> str:
    """Return in a sentence or two how many effects exceed those of matched genes, or that none does.

    Parameters
    ----------
    effects
        `EFFECT_COLUMNS`.
    """
    tested = effects[effects["p_value"].notna()]
    if tested.empty:
        return effects_sentence(effects)
    fewest, most = int(tested["n_null"].min()), int(tested["n_null"].max())
    smallest = 1 / (1 + most)
    number = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    text = (
        f"{effects_sentence(effects)} Each was compared with {number} matched genes, so that no p-value can "
        f"be below {smallest:.2g}."
    )
    together = int(tested.groupby(["readout", "state"], sort=False).size().max())
    if smallest * together > SIGNIFICANT:
        text += (
            f" With {together:,} tests at once a single one that far out is expected by chance and is no "
            "discovery: test fewer genes, or compare with more."
        )
    return text

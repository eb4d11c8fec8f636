"""In-silico perturbation of a count file: genes and states resolved, cells ranked, the screen run.

What both faces call: ``geneformer-grn perturb`` and ``gg.tl.perturb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geneformer_grn._runtime import logger, package_version
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.workflows.gene_sets import ALL, REGULATORS, gene_sets
from geneformer_grn.workflows.grouping import column_labels

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.perturbation.effects import PerturbationResult
    from geneformer_grn.perturbation.requests import PerturbSettings, Pooling
    from geneformer_grn.perturbation.screen import PerturbationPlan


@dataclass(frozen=True, kw_only=True)
class PerturbOptions:
    """What a user may choose.

    Parameters
    ----------
    genes
        Symbols or Ensembl IDs; ``all``: every gene of the cells; ``regulators``: those of the vocabulary.
    kind
        ``delete``, ``overexpress``, ``inhibit``, ``activate`` or ``knockout``.
    quartiles
        How many quartiles of the ranking ``inhibit`` and ``activate`` move a gene, 1 to 3.
    together
        Perturb the named genes as one set.
    pairs
        Perturb each named gene, and all pairs of them, and compare each pair with the sum of its genes.
    anchor
        Symbol or Ensembl ID of a gene perturbed first, and with each of the others.
    groups
        obs column of cell groups; None: all cells are one group.
    states
        obs column of cell states; only cells in the start state are perturbed then.
    start, goal, alternatives
        Values of that column.
    readouts
        Of ``cell``, ``state``, ``genes``; None: ``cell``, with states also ``state``. ``genes`` alone comes
        with ``cell``, which costs nothing more.
    n_null, null_cells
        Null genes per perturbed gene, and cells that each is perturbed in.
    max_passes
        Upper bound on passes through the model; None: as many as it takes.
    encoder_layer, pooling, token_budget
        See `geneformer_grn.perturbation.requests.PerturbSettings`.
    seed
        Seed of the null's cells and of the bootstrap.
    """

    genes: tuple[str, ...] | Literal["all", "regulators"]
    kind: str = "delete"
    quartiles: int = 1
    together: bool = False
    pairs: bool = False
    anchor: str | None = None
    groups: str | None = None
    states: str | None = None
    start: str | None = None
    goal: str | None = None
    alternatives: tuple[str, ...] = ()
    readouts: tuple[str, ...] | None = None
    n_null: int = 40
    null_cells: int = 10
    max_passes: int | None = None
    encoder_layer: int = -1
    pooling: Pooling | None = None
    token_budget: int = 16_384
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("states", "start", "goal") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise ValueError(
                f"only {' and '.join(given)} given: states need the obs column, a start and a goal state"
            )
        if self.alternatives and not given:
            raise ValueError("alternative states need the obs column, a start state and a goal state too")
        self._check_combination()
        named = [self.start, self.goal, *self.alternatives]
        if given and len(set(named)) < len(named):
            raise ValueError(f"a state is named twice: {', '.join(map(str, named))}")

    def _check_combination(self) -> None:
        """Raise ValueError where ways of combining genes contradict each other or what is perturbed."""
        ways = {"together": self.together, "pairs": self.pairs, "an anchor": self.anchor is not None}
        chosen = [way for way, is_chosen in ways.items() if is_chosen]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} combine genes in different ways; choose one")
        if (self.together or self.pairs) and isinstance(self.genes, str):
            raise ValueError(f"{chosen[0]!r} combines named genes; {self.genes!r} names none")
        if self.quartiles != 1 and self.kind not in {"inhibit", "activate"}:
            raise ValueError(
                f"kind {self.kind!r} moves no gene by {self.quartiles} quartiles; inhibit and activate do"
            )


def split_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in text with commas, without blanks around them; those of a list as they are."""
    if not isinstance(text, str):
        return tuple(text)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_genes(text: str | Sequence[str]) -> tuple[str, ...] | Literal["all", "regulators"]:
    """Return gene names from a list or from text with commas; ``all`` and ``regulators`` pass through.

    Raises
    ------
    ValueError
        No gene is named.
    """
    if isinstance(text, str) and text.strip().lower() in {ALL, REGULATORS}:
        return "all" if text.strip().lower() == ALL else "regulators"
    parts = split_names(text)
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise ValueError("no gene to perturb; give symbols or Ensembl IDs, 'all' or 'regulators'")
    return names


def perturb_counts(encoder: Encoder, counts: CellCounts, options: PerturbOptions) -> PerturbationResult:
    """Perturb genes in silico in the cells of a count file.

    Parameters
    ----------
    encoder
        The model.
    counts
        Cells read with its vocabulary.
    options
        What to do.

    Returns
    -------
    Effects, cells (``cell_id`` are the obs names) and gene shifts; ``facts`` also lists the genes that are
    unknown.

    Raises
    ------
    ValueError
        No known gene, an unknown kind, column, state or readout, or a bound on passes that is too low.
    """
    from geneformer_grn.perturbation.combinations import BEYOND_ANCHOR, INTERACTION, with_contrasts
    from geneformer_grn.perturbation.effects import run_screen
    from geneformer_grn.perturbation.requests import PerturbSettings

    settings = PerturbSettings(
        encoder_layer=options.encoder_layer,
        pooling=options.pooling,
        token_budget=options.token_budget,
        readouts=_readouts(options),
        quartiles=options.quartiles,
    )
    labels = np.full(len(counts), ALL, dtype=object)
    if options.groups is not None:
        labels = column_labels(counts.obs, options.groups).astype(object)
    plan = _plan(options)
    ranked = rank_cells(counts, encoder.vocabulary)
    states = None
    if options.states is not None:
        of_state = _state_rows(counts, options)
        labels[np.setdiff1d(np.arange(len(counts)), of_state[str(options.start)])] = None
        states = _mean_embeddings(encoder, ranked, of_state, settings)
    used = np.flatnonzero([label is not None for label in labels])
    sets, unknown = gene_sets(options, encoder.vocabulary, ranked, used)
    result = run_screen(encoder, ranked, labels, sets, plan, settings=settings, states=states)
    if options.pairs or options.anchor is not None:
        result = with_contrasts(result, INTERACTION if options.pairs else BEYOND_ANCHOR, seed=options.seed)
    names = counts.obs.index.to_numpy(dtype=object)
    cells = result.cells.assign(cell_id=names[result.cells["cell_id"].to_numpy()])
    lacking = _never_held(result)
    if lacking:
        logger.warning("no cell holds the genes of %d perturbations (first: %s)", len(lacking), lacking[0])
    facts: dict[str, Any] = {
        **result.facts,
        "pooling": settings.pooling_for(encoder.vocabulary),
        "readouts": list(settings.readouts),
        "n_cells": len(used),
        "n_gene_sets": len(sets),
        "genes_unknown": unknown,
        "n_without_cells": len(lacking),
    }
    return replace(result, cells=cells, facts=facts)


def record(
    encoder: Encoder, counts: CellCounts, options: PerturbOptions, result: PerturbationResult
) -> dict[str, Any]:
    """Return what was run on what, in single values (lists as text with commas, nothing unset) by section."""

    def single(facts: dict[str, Any]) -> dict[str, Any]:
        joined = {
            key: ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            for key, value in facts.items()
        }
        return {key: value for key, value in joined.items() if isinstance(value, str | bool | int | float)}

    return {
        "package_version": package_version(),
        "model": encoder.name,
        "vocabulary_fingerprint": encoder.vocabulary.fingerprint,
        "parameters": single({**asdict(options), "precision": encoder.precision}),
        "found": single(result.facts),
        "cells": single(counts.report),
    }


def _plan(options: PerturbOptions) -> PerturbationPlan:
    """Return the screen's plan: named genes in every cell (NaN where lacking), others where held."""
    from geneformer_grn.perturbation.screen import PerturbationPlan

    everywhere = not isinstance(options.genes, str)
    if options.genes == REGULATORS:
        everywhere = options.kind == "overexpress"
    return PerturbationPlan(
        kind=options.kind,
        cells_per_gene=options.null_cells,
        tested_cells="all" if everywhere else "holders",
        n_null=options.n_null,
        max_passes=options.max_passes,
        seed=options.seed,
    )


def _readouts(options: PerturbOptions) -> tuple[str, ...]:
    """Return the readouts asked for, or those that fit."""
    if options.readouts is None:
        return ("cell", "state") if options.states is not None else ("cell",)
    return ("cell", "genes") if set(options.readouts) == {"genes"} else options.readouts


def _state_rows(counts: CellCounts, options: PerturbOptions) -> dict[str, np.ndarray]:
    """Return state -> rows of its cells, for the start state, the goal state and the alternatives."""
    if options.states is None or options.states not in counts.obs.columns:
        known = ", ".join(map(str, counts.obs.columns)) or "none"
        raise ValueError(f"no obs column {options.states!r} for states; the cells have: {known}")
    labels = column_labels(counts.obs, options.states)
    rows = {str(state): np.flatnonzero(labels == str(state)) for state in _named_states(options)}
    empty = [state for state, members in rows.items() if not len(members)]
    if empty:
        present = ", ".join(map(repr, list(dict.fromkeys(labels))[:10]))
        raise ValueError(
            f"no cell is in state {', '.join(map(repr, empty))}; column {options.states!r} holds {present}"
        )
    return rows


def _named_states(options: PerturbOptions) -> list[str]:
    return [str(options.start), str(options.goal), *options.alternatives]


def _mean_embeddings(
    encoder: Encoder, ranked: RankedCells, rows: dict[str, np.ndarray], settings: PerturbSettings
) -> dict[str, np.ndarray]:
    """Return state -> ``(d,)`` float64 mean embedding of its cells, layer and pooling as in `settings`."""
    from geneformer_grn.embedding import EmbedSettings, embed_cells

    how = EmbedSettings(
        pooling=settings.pooling_for(encoder.vocabulary),
        encoder_layer=settings.encoder_layer,
        token_budget=settings.token_budget,
    )
    means = {}
    for state, members in rows.items():
        embedded = embed_cells(encoder, _take(ranked, members), how)
        means[state] = np.asarray(np.nanmean(embedded, axis=0, dtype=np.float64))
    return means


def _take(ranked: RankedCells, rows: np.ndarray) -> RankedCells:
    """Return the ranked cells of `rows`, in their order."""
    cells = [ranked.cell(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64)
    return RankedCells(tokens=np.concatenate(cells), offsets=offsets, n_counts=ranked.n_counts[rows])


def _never_held(result: PerturbationResult) -> list[str]:
    """Return the perturbed genes that no cell of any group held."""
    most = result.effects.groupby("gene", sort=False)["n_cells"].max()
    return most.index[most == 0].astype(str).tolist()

"""A perturbation before the model is asked: names resolved, cells ranked, the screen planned.

The same counts and options give the same job on every machine, so that many can share the work and one can
finish it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import package_version, plain_json
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.gene_sets import gene_sets
from geneformer_grn.workflows.grouping import column_labels
from geneformer_grn.workflows.perturb_options import ALL, REGULATORS, PerturbOptions

if TYPE_CHECKING:
    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.perturbation.axes import GeneAxes
    from geneformer_grn.perturbation.effects import Prepared
    from geneformer_grn.perturbation.parts import PartList
    from geneformer_grn.perturbation.requests import PerturbSettings, Request


@dataclass(frozen=True, eq=False, kw_only=True)
class PerturbJob:
    """What is to be done in which cells.

    Parameters
    ----------
    counts, ranked
        The cells.
    vocabulary
        The model's.
    options
        What was asked for.
    settings
        The same for the engine.
    prepared
        The screen.
    rows
        ``(n,)`` rows of the cells that are perturbed.
    state_rows
        State -> rows of its cells; the start state, the goal state and the alternatives in this order.
    unknown
        Names of genes that the vocabulary lacks.
    """

    counts: CellCounts
    ranked: RankedCells
    vocabulary: GeneVocabulary
    options: PerturbOptions
    settings: PerturbSettings
    prepared: Prepared
    rows: np.ndarray
    state_rows: Mapping[str, np.ndarray]
    unknown: list[str]

    @property
    def requests(self) -> list[Request]:
        """Tested and null perturbations."""
        return self.prepared.screen.requests

    @property
    def states(self) -> list[str]:
        """The states that are measured towards; none without that readout."""
        return list(self.state_rows) if "state" in self.settings.readouts else []

    @property
    def passes_a_pair(self) -> int:
        """Passes that one tested perturbation of one cell takes at most."""
        return 2 + self.settings.n_folds if "expression" in self.settings.readouts else 1

    @property
    def n_passes(self) -> int:
        """Passes of the screen at most, those of the readout ``expression`` counted, too."""
        more = self.passes_a_pair - 1
        n_tested = sum(len(request.cells) for request in self.requests if not request.is_null)
        n_whole = len(self.rows) * (self.settings.n_folds if more else 0)
        return self.prepared.screen.n_passes + more * n_tested + n_whole

    @cached_property
    def parts(self) -> PartList:
        """The work, cut up."""
        from geneformer_grn.perturbation.parts import PartList

        part_tokens = max(self.options.part_tokens // self.passes_a_pair, 1)
        return PartList(self.ranked, self.requests, self.vocabulary, part_tokens=part_tokens)

    def digest(self) -> str:
        """Return the sha256 of the cells: counts, names, groups, states and donors."""
        matrix, obs = self.counts.matrix, self.counts.obs
        columns = [self.options.groups, self.options.states, self.options.donors]
        known = {column: obs[column].astype(str).tolist() for column in columns if column is not None}
        digest = hashlib.sha256(json.dumps([obs.index.astype(str).tolist(), known]).encode())
        for array in (matrix.data, matrix.indices, matrix.indptr, self.counts.n_counts):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return what the job is, for a comparison with another by name; plain values."""
        return plain_json(
            {
                "package_version": package_version(),
                **asdict(self.options),
                "cells": self.digest(),
                "vocabulary": self.vocabulary.fingerprint,
                "n_pairs": self.parts.n_pairs,
                "n_parts": len(self.parts),
            }
        )  # type: ignore[no-any-return]  # a dictionary stays one


def make_job(counts: CellCounts, vocabulary: GeneVocabulary, options: PerturbOptions) -> PerturbJob:
    """Resolve the names of a perturbation and plan its screen.

    Parameters
    ----------
    counts
        Cells read with the vocabulary.
    vocabulary
        The model's.
    options
        What to do.

    Raises
    ------
    ValueError
        No known gene, an unknown kind, column, state or readout, or a bound on passes that is too low.
    """
    job = _planned(counts, vocabulary, options)
    if options.max_passes is not None and job.n_passes > options.max_passes:
        # The plan gives up null genes to fit, which the many passes of `expression` are not made for.
        raise ValueError(
            f"with the readout expression this takes up to {job.n_passes:,} passes, {job.passes_a_pair} for "
            f"each gene and cell; at most {options.max_passes:,} are allowed. Allow more, take fewer cells "
            "(--cells), or leave the readout out"
        )
    return job


def _planned(counts: CellCounts, vocabulary: GeneVocabulary, options: PerturbOptions) -> PerturbJob:
    """Return the job, whatever it costs."""
    from geneformer_grn.perturbation.effects import CellFacts, prepare
    from geneformer_grn.perturbation.requests import PerturbSettings
    from geneformer_grn.perturbation.screen import PerturbationPlan

    settings = PerturbSettings(
        encoder_layer=options.encoder_layer,
        pooling=options.pooling,
        token_budget=options.token_budget,
        readouts=_readouts(options),
        quartiles=options.quartiles,
        fold_seed=options.seed,
    )
    settings.pooling_for(vocabulary)
    if "state" in settings.readouts and options.states is None:
        raise ValueError("the readout 'state' needs the obs column of states, a start and a goal state")
    labels = np.full(len(counts), ALL, dtype=object)
    if options.groups is not None:
        labels = column_labels(counts.obs, options.groups).astype(object)
    plan = PerturbationPlan(
        kind=options.kind,
        cells_per_gene=options.null_cells,
        tested_cells="all" if _everywhere(options) else "holders",
        n_null=options.n_null,
        max_passes=options.max_passes,
        seed=options.seed,
    )
    donors = None if options.donors is None else _donors(counts, options.donors)
    ranked = rank_cells(counts, vocabulary)
    state_rows = _state_rows(counts, options) if options.states is not None else {}
    if state_rows:
        labels[np.setdiff1d(np.arange(len(counts)), state_rows[str(options.start)])] = None
    rows = np.flatnonzero([label is not None for label in labels])
    sets, unknown = gene_sets(options, vocabulary, ranked, rows)
    known = CellFacts(counts=counts, donors=donors)
    return PerturbJob(
        counts=counts,
        ranked=ranked,
        vocabulary=vocabulary,
        options=options,
        settings=settings,
        prepared=prepare(ranked, labels, sets, vocabulary, plan, known),
        rows=rows,
        state_rows=state_rows,
        unknown=unknown,
    )


def mean_embeddings(encoder: Encoder, job: PerturbJob) -> np.ndarray:
    """Return the ``(s, d)`` float64 mean embedding of each state's cells, layer and pooling as the job's."""
    from geneformer_grn.embedding import EmbedSettings, embed_cells
    from geneformer_grn.perturbation.axes import take_cells

    how = EmbedSettings(
        pooling=job.settings.pooling_for(encoder.vocabulary),
        encoder_layer=job.settings.encoder_layer,
        token_budget=job.settings.token_budget,
    )
    embedded = [
        embed_cells(encoder, take_cells(job.ranked, job.state_rows[state]), how) for state in job.states
    ]
    return np.stack([np.nanmean(cells, axis=0, dtype=np.float64) for cells in embedded])


def axes_of_genes(encoder: Encoder, job: PerturbJob) -> GeneAxes:
    """Return the axes that signed gene shifts are taken along."""
    from geneformer_grn.perturbation.axes import gene_axes

    return gene_axes(
        encoder, job.ranked, cells=job.rows, encoder_layer=job.settings.encoder_layer,
        token_budget=job.settings.token_budget, seed=job.options.seed,
    )  # fmt: skip


def measured_noise(encoder: Encoder, job: PerturbJob) -> dict[str, float]:
    """Return the noise floor of bf16 on the job's cells, by name: the floor, the effect, and their ratio."""
    from geneformer_grn.perturbation.noise import noise_floor

    states = dict(zip(job.states, mean_embeddings(encoder, job), strict=True)) if job.states else None
    noise = noise_floor(encoder, job.ranked, job.requests, job.settings, states=states, seed=job.options.seed)
    return {
        "bf16_noise": noise.floor,
        "median_effect": noise.median_effect,
        "bf16_noise_share": noise.share,
        "n_noise_pairs": noise.n_pairs,
    }


def _everywhere(options: PerturbOptions) -> bool:
    """Return whether genes are perturbed in every cell (NaN where lacking), or only where they are held."""
    if options.genes == REGULATORS:
        return options.kind == "overexpress"
    return not isinstance(options.genes, str)


def _readouts(options: PerturbOptions) -> tuple[str, ...]:
    """Return the readouts asked for, or those that fit."""
    if options.readouts is None:
        return ("cell", "state") if options.states is not None else ("cell",)
    has_effects = not {"cell", "state"}.isdisjoint(options.readouts)
    return options.readouts if has_effects else ("cell", *options.readouts)


def _donors(counts: CellCounts, column: str) -> np.ndarray:
    """Return the donor of each cell as text."""
    if column not in counts.obs.columns:
        known = ", ".join(map(str, counts.obs.columns)) or "none"
        raise ValueError(f"no obs column {column!r} for --donors; the file has: {known}")
    values = counts.obs[column]
    if n_missing := int(values.isna().sum()):
        raise ValueError(
            f"{n_missing:,} of {len(values):,} cells have no donor in the obs column {column!r}; leave them "
            "out with --where, or leave --donors out"
        )
    return values.astype(str).to_numpy(dtype=object)


def _state_rows(counts: CellCounts, options: PerturbOptions) -> dict[str, np.ndarray]:
    """Return state -> rows of its cells, for the start state, the goal state and the alternatives."""
    if options.states is None or options.states not in counts.obs.columns:
        known = ", ".join(map(str, counts.obs.columns)) or "none"
        raise ValueError(f"no obs column {options.states!r} for states; the cells have: {known}")
    labels = column_labels(counts.obs, options.states)
    names = [str(options.start), str(options.goal), *options.alternatives]
    rows = {name: np.flatnonzero(labels == name) for name in names}
    empty = [state for state, members in rows.items() if not len(members)]
    if empty:
        present = ", ".join(map(repr, list(dict.fromkeys(labels))[:10]))
        raise ValueError(
            f"no cell is in state {', '.join(map(repr, empty))}; column {options.states!r} holds {present}"
        )
    return rows

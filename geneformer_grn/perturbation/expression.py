"""The readout ``expression``: how a perturbation changes what the model expects of every other gene.

A gene is masked, and the model asked twice which gene it is: in the cell as it is, and in the perturbed cell.
``delta_nats`` is the change in log-probability of the gene at the place where it was measured: below 0, the
cell now speaks against that rank, whatever the direction. ``delta_rank`` has a direction: where among the
masked places the model would put the gene, and how many ranks further to the front it would put it after the
perturbation. Positive means up: higher expressed relative to the other genes.

The genes of a cell are masked in folds, about 15 % at a time as in training, because one at a time would cost
a thousand passes a cell. The price: what is expected of a gene cannot use the others of its fold. Folds are
dealt from seed and gene and are the same in every perturbation of a cell, so unperturbed passes are shared.
Only the fold of the perturbed gene itself needs an unperturbed pass of its own, in which that gene is seen:
masked there, it could have no effect on its fold. Where only some genes are asked for, only they are ever
masked, and so many fewer folds are needed; the head is then run for their places alone. Its softmax is over
the whole vocabulary all the same: places are weighed against each other by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from geneformer_grn.cells.batches import pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.edits import InputLayout
from geneformer_grn.perturbation.expectations import Expectation, expectations
from geneformer_grn.perturbation.readouts import flat_index
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.sums import PairSums, mean_and_sd, pair_columns
from geneformer_grn.perturbation.tasks import Task, chunks, make_tasks

EXPRESSION_COLUMNS = (
    "gene", "affected", "kind", "group", "delta_nats", "delta_nats_sd", "delta_rank", "delta_rank_sd",
    "n_cells",
)  # fmt: skip
_SUMS = ("delta_nats", "delta_nats_squared", "delta_rank", "delta_rank_squared")
_CHUNK_BATCHES = 8  # batches whose tasks are held together
_Key = tuple[tuple[int, bytes], bytes]


@dataclass(frozen=True, eq=False)
class _Fold:
    """Genes of one task that are masked together.

    Parameters
    ----------
    task
        The task.
    before, after
        ``(M,)`` int64 positions of the genes in the unperturbed and in the perturbed input.
    places
        ``(M,)`` int64 ranks of the genes in the whole unperturbed cell, 0 the front. They stand for the
        places before and after, so that moving up with all others is no change of rank.
    """

    task: Task
    before: np.ndarray
    after: np.ndarray
    places: np.ndarray

    @property
    def key(self) -> _Key:
        """What identifies the unperturbed pass: the input, and what is masked in it."""
        return self.task.original, self.before.tobytes()

    def asked(self, *, perturbed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return input ``(L,)``, not masked yet, position ids ``(L,)`` and positions to mask ``(M,)``."""
        if perturbed:
            return self.task.edit.input_ids, self.task.edit.position_ids, self.after
        ids = self.task.original_ids()
        return ids, np.arange(len(ids), dtype=np.int64), self.before

    def length(self, *, perturbed: bool) -> int:
        """Return the tokens of the input."""
        edit = self.task.edit
        return len(edit.input_ids) if perturbed else len(self.task.cell_ids) - len(edit.original_dropped)


class ExpressionSums:
    """Sums over cells of the changes in expectation, for every (perturbed, affected) pair.

    Parameters
    ----------
    encoder
        The model; all its layers are run.
    settings
        Batch size, share masked at a time, seed of the folds.
    asked_for
        ``(n,)`` int tokens whose expectation is wanted; the others are never masked. None: all genes.

    Attributes
    ----------
    n_passes
        Cells encoded so far, unperturbed ones included: about `folds_of` for each cell, and one more than
        that for each task.
    """

    def __init__(
        self, encoder: Encoder, settings: PerturbSettings, *, asked_for: np.ndarray | None = None
    ) -> None:
        self.n_passes = 0
        self._encoder = encoder
        self._settings = settings
        self._layout = InputLayout.of(encoder.vocabulary)
        self._deal = np.random.default_rng(settings.fold_seed).permutation(len(encoder.vocabulary))
        self._asked_for = np.full(len(encoder.vocabulary), asked_for is None)
        if asked_for is not None:
            self._asked_for[asked_for] = True
        self._sums = PairSums(len(encoder.vocabulary), _SUMS)
        self._originals: dict[_Key, Expectation] = {}

    def add(self, tasks: Sequence[Task]) -> None:
        """Take the tasks of some cells; those of null perturbations are passed over.

        What was expected of unperturbed cells is kept until the next call, so that a cell may be cut in two.
        """
        folds = [fold for task in tasks if task.counted for fold in self._folds(task)]
        needed = {fold.key: fold for fold in folds}
        self._originals = {key: found for key, found in self._originals.items() if key in needed}
        missing = [fold for key, fold in needed.items() if key not in self._originals]
        for i, found in self._expectations(missing, perturbed=False):
            self._originals[missing[i].key] = found
        for i, after in self._expectations(folds, perturbed=True):
            fold, before = folds[i], self._originals[folds[i].key]
            nats, ranks = after.nats - before.nats, before.place - after.place
            genes = fold.task.edit.input_ids[fold.after]
            request = np.full(len(genes), fold.task.request, dtype=np.int64)
            self._sums.add(request, genes, np.column_stack([nats, nats**2, ranks, ranks**2]))

    def frame(self) -> pd.DataFrame:
        """Return the sums of each pair, sorted by ``request`` and ``affected``; they add over parts of a run.

        Columns ``request``, ``affected`` (token), ``n_cells``, ``delta_nats``, ``delta_nats_squared``,
        ``delta_rank`` and ``delta_rank_squared``.
        """
        return self._sums.frame()

    def _folds(self, task: Task) -> Iterator[_Fold]:
        """Yield the folds of a task that hold an unperturbed gene that is asked for."""
        positions = self._layout.genes(len(task.cell_ids))
        n_genes = len(positions)
        positions = positions[self._asked_for[task.cell_ids[positions]]]
        n_folds = folds_of(len(positions), n_genes, self._settings)
        fold_of = np.full(len(task.cell_ids), -1, dtype=np.int64)
        dealt = positions[np.argsort(self._deal[task.cell_ids[positions]])]
        fold_of[dealt] = np.arange(len(dealt)) % max(n_folds, 1)
        places = np.arange(len(task.cell_ids)) - self._layout.n_front
        edit = task.edit
        fold_of, places = (
            np.delete(values, edit.original_dropped)[edit.original_index] for values in (fold_of, places)
        )
        for fold in range(n_folds):
            (members,) = np.nonzero(fold_of == fold)
            if len(members):
                yield _Fold(
                    task, edit.original_index[members], edit.perturbed_index[members], places[members]
                )

    def _expectations(self, folds: Sequence[_Fold], *, perturbed: bool) -> Iterator[tuple[int, Expectation]]:
        """Yield number and expectation of each fold, encoded in packed batches."""
        mask = self._encoder.vocabulary.token_of["<mask>"]
        lengths = [fold.length(perturbed=perturbed) for fold in folds]
        for group in plan_by_budget(lengths, self._settings.token_budget):
            asked = [folds[i].asked(perturbed=perturbed) for i in group]
            inputs = [ids.copy() for ids, _, _ in asked]
            for hidden, (_, _, masked) in zip(inputs, asked, strict=True):
                hidden[masked] = mask
            batch = pack(inputs, position_ids=[positions for _, positions, _ in asked])
            states = self._encoder.hidden_states(batch, encoder_layer=0)
            self.n_passes += len(group)
            rows, _ = flat_index([masked for _, _, masked in asked], batch.cu_seqlens[:-1].numpy())
            found = expectations(
                self._encoder,
                states[torch.from_numpy(rows).to(states.device)],
                [ids[masked] for ids, _, masked in asked],
                [folds[i].places for i in group],
            )
            yield from zip(group, found, strict=True)


def folds_of(n_asked: int, n_genes: int, settings: PerturbSettings) -> int:
    """Return the passes in which each gene of a cell that is asked for is masked once.

    Parameters
    ----------
    n_asked, n_genes
        Genes of the cell that are asked for, and all of them.
    settings
        Says into how many folds all genes are dealt; a fold of some of them is no larger.

    Examples
    --------
    >>> folds_of(200, 800, PerturbSettings(masked_share=0.15)), folds_of(800, 800, PerturbSettings())
    (2, 7)
    """
    return min(-(-settings.n_folds * n_asked // max(n_genes, 1)), n_asked)


def expression_sums(encoder: Encoder, tasks: Sequence[Task], settings: PerturbSettings) -> pd.DataFrame:
    """Return the sums over cells of the changes in expectation, as `ExpressionSums.frame` has them.

    Parameters
    ----------
    encoder, settings
        As in `ExpressionSums`.
    tasks
        Perturbed cells; those of one cell together, or its unperturbed passes are repeated.
    """
    sums = ExpressionSums(encoder, settings)
    sums.add(tasks)
    return sums.frame()


def expression_table(
    sums: pd.DataFrame, names: np.ndarray, kinds: np.ndarray, groups: np.ndarray, vocabulary: GeneVocabulary
) -> pd.DataFrame:
    """Return the table of changes in expectation: one row per request and affected gene.

    Parameters
    ----------
    sums
        As `ExpressionSums.frame` gives them, added over all parts.
    names, kinds, groups
        ``(n,)`` str: name of the gene set, kind and cell group of each request.
    vocabulary
        What the affected tokens mean.

    Returns
    -------
    pd.DataFrame
        `EXPRESSION_COLUMNS`. ``delta_nats``: mean change in log-probability of the affected gene at its own
        place, in nats. ``delta_rank``: mean change of its expected rank; positive is towards the front, up.
        ``*_sd``: standard deviations over cells (divided by n).
    """
    nats, nats_sd = mean_and_sd(sums, "delta_nats")
    rank, rank_sd = mean_and_sd(sums, "delta_rank")
    columns = pair_columns(sums, names, kinds, groups, vocabulary) | {
        "delta_nats": nats,
        "delta_nats_sd": nats_sd,
        "delta_rank": rank,
        "delta_rank_sd": rank_sd,
        "n_cells": sums["n_cells"].to_numpy(),
    }
    return pd.DataFrame(columns)[list(EXPRESSION_COLUMNS)]


def expression_changes(
    encoder: Encoder, ranked: RankedCells, requests: Sequence[Request], settings: PerturbSettings
) -> pd.DataFrame:
    """Return the readout ``expression`` of some requests, in memory and without any other readout.

    Parameters
    ----------
    encoder, ranked, requests, settings
        As in `engine.perturb_cells`.

    Returns
    -------
    As `expression_table`.

    Examples
    --------
    >>> request = Request(genes=(token,), kind="knockout", cells=np.arange(50))  # doctest: +SKIP
    >>> table = expression_changes(encoder, ranked, [request], PerturbSettings())  # doctest: +SKIP
    >>> table.nlargest(5, "delta_rank")  # doctest: +SKIP
    """
    vocabulary = encoder.vocabulary
    request_of = np.repeat(np.arange(len(requests)), [len(request.cells) for request in requests])
    cell_of = np.concatenate([np.empty(0, dtype=np.int64), *(request.cells for request in requests)])
    sums = ExpressionSums(encoder, settings)
    tasks = make_tasks(vocabulary, ranked, requests, (request_of, cell_of), quartiles=settings.quartiles)
    for chunk, _ in chunks(tasks, _CHUNK_BATCHES * settings.token_budget):
        sums.add(chunk)
    kinds = np.array([request.kind for request in requests], dtype=object)
    groups = np.array([request.group for request in requests], dtype=object)
    ids = vocabulary.ensembl_ids
    names = np.array(["+".join(ids[list(request.genes)]) for request in requests], dtype=object)
    return expression_table(sums.frame(), names, kinds, groups, vocabulary)

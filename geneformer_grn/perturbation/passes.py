"""The passes themselves: chunks of tasks, encoded in packed batches, read off.

A pass is one cell through the encoder. Memory is bounded by the chunk: its edits, and the states of the
unperturbed cells they are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from geneformer_grn.cells.batches import pack, plan_by_budget
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.axes import GeneAxes
from geneformer_grn.perturbation.edits import InputLayout
from geneformer_grn.perturbation.first_layer import SharedFirstLayer, shared_groups
from geneformer_grn.perturbation.readouts import (
    GeneShifts,
    affected_genes,
    aligned_cosines,
    flat_index,
    pooled_states,
    segment_means,
    signed_shifts,
    state_cosines,
)
from geneformer_grn.perturbation.requests import PerturbSettings
from geneformer_grn.perturbation.tasks import Task

_CPU_TOKENS = 2_048  # in a batch on a CPU: more do not stay in its cache
_SHARED_STATES = 1 << 23  # numbers of the first layer's attention held for perturbations of one cell together


class PassEncoder:
    """Encodes chunks of tasks and reads them off, keeping the unperturbed states between batches of a chunk.

    Parameters
    ----------
    encoder, settings
        As in `perturb_cells`.
    states
        ``(s, d)`` float64 mean states, or empty.
    axes
        Each gene's own axis, for signed gene shifts; None: gene shifts by cosine only.

    Raises
    ------
    ValueError
        The model has no such encoder layer.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: PerturbSettings,
        states: np.ndarray,
        axes: GeneAxes | None = None,
    ) -> None:
        self.n_encoded = 0
        self.gene_shifts = GeneShifts(len(encoder.vocabulary))
        self._encoder = encoder
        self._settings = settings
        self._pooling = settings.pooling_for(encoder.vocabulary)
        self._layout = InputLayout.of(encoder.vocabulary)
        self._states = states
        self._directions = None if axes is None else torch.from_numpy(axes.directions).to(encoder.device)
        self._originals: dict[tuple[int, bytes], torch.Tensor] = {}
        self._n_layers = encoder.require_layer(settings.encoder_layer)
        on_cpu = encoder.device.type == "cpu"
        self._token_budget = min(settings.token_budget, _CPU_TOKENS) if on_cpu else settings.token_budget
        self._shares = on_cpu and self._n_layers > 0

    def run(self, chunk: Sequence[Task]) -> Iterator[tuple[list[Task], np.ndarray]]:
        """Yield each batch's tasks with their values ``(n, 1 + s)``: cell cosine, state differences."""
        needed = {task.original for task in chunk}
        self._originals = {key: states for key, states in self._originals.items() if key in needed}
        groups, alone = shared_groups(chunk) if self._shares else ([], list(chunk))
        for moves, removed, tasks in groups:
            yield from self._run_shared(tasks, removed, alone, moves=moves)
        self._encode_originals(alone)
        lengths = np.array([len(task.edit.input_ids) for task in alone], dtype=np.int64)
        for group in plan_by_budget(lengths, self._token_budget):
            part = [alone[i] for i in group]
            edits = [task.edit for task in part]
            after, starts = self._encode(
                [edit.input_ids for edit in edits], [edit.position_ids for edit in edits]
            )
            yield part, self._read(part, after, starts)

    def _run_shared(
        self, tasks: list[Task], removed: list[int], alone: list[Task], *, moves: bool
    ) -> Iterator[tuple[list[Task], np.ndarray]]:
        """Yield as `run` does for perturbations of one cell that share their first layer.

        Tasks that cannot are added to `alone`.
        """
        layers, ids = self._encoder.inference, torch.from_numpy(tasks[0].cell_ids).to(self._encoder.device)
        length = len(ids) - 1
        with torch.inference_mode():
            first = SharedFirstLayer(layers, ids, moves=moves)
            if tasks[0].original not in self._originals:
                states = self._remaining_layers(first.unperturbed(), 1)
                self._originals[tasks[0].original] = states
        size = max(1, self._token_budget // length)
        together = size * max(1, _SHARED_STATES // (size * length * self._encoder.hidden_size))
        for group in range(0, len(tasks), together):
            places = removed[group : group + together]
            with torch.inference_mode():
                mixed = first.attend(places)
            if mixed is None:
                alone += tasks[group : group + together]
                continue
            for start in range(0, len(places), size):
                part = tasks[group + start : group + start + size]
                with torch.inference_mode():
                    states = first.finish(places[start : start + size], mixed[start : start + size])
                    after = self._remaining_layers(states, len(part))
                yield part, self._read(part, after, np.arange(len(part), dtype=np.int64) * length)

    def _remaining_layers(self, states: torch.Tensor, n_cells: int) -> torch.Tensor:
        """Return the states ``(n L, d)`` of equally long cells, given those behind the first layer."""
        self.n_encoded += n_cells
        length = len(states) // n_cells
        boundaries = torch.arange(0, len(states) + 1, length, dtype=torch.int32)
        layers = range(1, self._n_layers)
        return self._encoder.inference.run(states, boundaries, length, layers=layers)

    def _encode(
        self, sequences: list[np.ndarray], position_ids: list[np.ndarray] | None = None
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Return the ``(T, d)`` states of packed sequences and the ``(n,)`` start of each."""
        batch = pack(sequences, position_ids=position_ids).to(self._encoder.device)
        states = self._encoder.hidden_states(batch, encoder_layer=self._settings.encoder_layer)
        self.n_encoded += len(sequences)
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        return states, np.cumsum(lengths) - lengths

    def _encode_originals(self, chunk: Sequence[Task]) -> None:
        """Hold the unperturbed states that `chunk` needs."""
        needed = {task.original: task for task in chunk}
        missing = [task for key, task in needed.items() if key not in self._originals]
        inputs = [task.original_ids() for task in missing]
        lengths = np.array([len(ids) for ids in inputs], dtype=np.int64)
        for group in plan_by_budget(lengths, self._token_budget):
            states, starts = self._encode([inputs[i] for i in group])
            for i, start in zip(group, starts, strict=True):
                self._originals[missing[i].original] = states[start : start + lengths[i]]

    def _read(self, part: list[Task], after: torch.Tensor, starts: np.ndarray) -> np.ndarray:
        """Return the values ``(n, 1 + s)`` of one encoded batch, and add to the gene shifts."""
        keys = list(dict.fromkeys(task.original for task in part))
        before = torch.cat([self._originals[key] for key in keys])
        sizes = np.array([len(self._originals[key]) for key in keys], dtype=np.int64)
        start_of = dict(zip(keys, np.cumsum(sizes) - sizes, strict=True))
        before_starts = np.array([start_of[task.original] for task in part], dtype=np.int64)
        edits = [task.edit for task in part]
        values = np.empty((len(part), 1 + len(self._states)))
        if self._pooling == "mean" or "genes" in self._settings.readouts:
            before_index, segment = flat_index([edit.original_index for edit in edits], before_starts)
            after_index, _ = flat_index([edit.perturbed_index for edit in edits], starts)
            cosines = aligned_cosines(before, after, before_index, after_index)
            values[:, 0] = segment_means(cosines, segment, len(part))
            if "genes" in self._settings.readouts:
                self._count_genes(part, (before, after), (before_index, after_index), segment, cosines)
        if self._pooling == "cls":
            values[:, 0] = aligned_cosines(before, after, before_starts, starts)
        if len(self._states):
            genes = [self._layout.genes(len(edit.input_ids)) for edit in edits]
            pooled_after = self._pool(after, genes, starts)
            pooled_before = self._pool(before, [edit.original_pool for edit in edits], before_starts)
            towards = state_cosines(pooled_after, self._states)
            values[:, 1:] = towards - state_cosines(pooled_before, self._states)
        return values

    def _pool(self, states: torch.Tensor, genes: list[np.ndarray], starts: np.ndarray) -> np.ndarray:
        """Return the ``(n, d)`` float64 pooled states: the mean over `genes`, or ``<cls>``."""
        first = [np.zeros(1, dtype=np.int64)] * len(genes)
        return pooled_states(states, first if self._pooling == "cls" else genes, starts)

    def _count_genes(
        self,
        part: list[Task],
        states: tuple[torch.Tensor, torch.Tensor],
        rows: tuple[np.ndarray, np.ndarray],
        segment: np.ndarray,
        cosines: np.ndarray,
    ) -> None:
        """Add to the gene shifts what `part`, whose aligned `states` are at `rows`, says of each gene."""
        counted = np.array([task.counted for task in part], dtype=bool)[segment]
        request = np.array([task.request for task in part], dtype=np.int64)[segment][counted]
        affected = affected_genes([task.edit for task in part])[counted]
        signed = None
        if self._directions is not None:
            pairs = (rows[0][counted], rows[1][counted])
            signed = signed_shifts(*states, *pairs, self._directions, affected)
        self.gene_shifts.add(request, affected, cosines[counted], signed)

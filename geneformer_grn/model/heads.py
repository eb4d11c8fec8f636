"""A fine-tuned model: an encoder with its heads, and what it says of cells and of genes.

Cells are pooled first; genes are read token by token, and a gene's prediction is the mean over the cells that
hold it. What `Finetuned.predict` does is fast and without gradients; `Finetuned.outputs` is differentiable,
also with respect to the tokens' embeddings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM

from geneformer_grn._runtime import progress
from geneformer_grn.cells.packing import PackedBatch, pack, plan_by_budget
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.model.task_head import HeadSpec, TaskHead

__all__ = ["Finetuned", "HeadSpec", "TaskHead", "embed_tokens", "inference_batches", "run_layers"]


@dataclass(frozen=True, eq=False)
class Finetuned:
    """An encoder with its heads, in eval mode.

    Parameters
    ----------
    encoder
        What gives the states.
    heads
        One `TaskHead` for each of `specs`, in that order, on the encoder's device.
    specs
        What the heads predict; names differ.
    max_length
        Longest model input, specials included; None: the vocabulary's.
    """

    encoder: Encoder
    heads: nn.ModuleList
    specs: tuple[HeadSpec, ...]
    max_length: int | None = None

    def spec(self, name: str) -> HeadSpec:
        """Return the spec of a task.

        Raises
        ------
        ValueError
            There is no such task.
        """
        return self.specs[self._place(name)]

    def head(self, name: str) -> TaskHead:
        """Return the head of a task; raises `ValueError` where there is none."""
        return cast("TaskHead", self.heads[self._place(name)])

    def token_embeddings(self, batch: PackedBatch) -> Tensor:
        """Return what `outputs` takes as `inputs_embeds`: ``(1, T, d)`` embeddings of the tokens alone."""
        tables = cast("Any", self.encoder.model).bert.embeddings
        return cast("Tensor", tables.word_embeddings(batch.to(self.encoder.device).input_ids))

    def outputs(self, batch: PackedBatch, *, inputs_embeds: Tensor | None = None) -> dict[str, Tensor]:
        """Return the outputs of all heads, differentiably.

        Parameters
        ----------
        batch
            Packed cells; moved to the encoder's device if they are elsewhere.
        inputs_embeds
            ``(1, T, d)`` in place of the tokens' embeddings, from `token_embeddings`; positions are added.

        Returns
        -------
        dict of Tensor
            By task: ``(N, n_outputs)`` float32 of cells, ``(T, n_outputs)`` of genes, one row a token.
            Logits of a classification, values of a regression, places of an ordinal label.
        """
        encoder = self.encoder
        batch = batch.to(encoder.device)
        with _autocast(encoder):
            embedded = embed_tokens(encoder.model, batch, inputs_embeds)
            states = run_layers(encoder.model, embedded, batch)[0].float()
        n_special = encoder.vocabulary.n_special
        return {
            spec.name: head(cast("TaskHead", head).pool(states, batch, n_special))
            for spec, head in zip(self.specs, self.heads, strict=True)
        }

    def predict(
        self,
        ranked: RankedCells,
        *,
        token_budget: int = 16_384,
        tasks: Sequence[str] | None = None,
        cells: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Return what the heads say of cells and genes.

        Parameters
        ----------
        ranked
            Cells ranked with the encoder's vocabulary.
        token_budget
            Tokens in one packed batch.
        tasks
            Names; None: all.
        cells
            ``(m,)`` indices of the cells to run; None: all.

        Returns
        -------
        dict of numpy.ndarray
            By task, float64. Cells: probabilities ``(m, n_classes)`` or values ``(m,)`` in the order of
            `cells`; NaN for a cell without genes. Genes: ``(V, n_classes)`` or ``(V,)`` by vocabulary
            index, means over the cells that hold the gene; NaN where none does.

        Raises
        ------
        ValueError
            There is no such task.

        Examples
        --------
        >>> load_finetuned("cell_type").predict(ranked)["cell_type"].shape  # doctest: +SKIP
        (559, 8)
        """
        names = [spec.name for spec in self.specs] if tasks is None else list(tasks)
        heads = [self.head(name) for name in names]
        cells = np.arange(len(ranked)) if cells is None else np.asarray(cells, dtype=np.int64)
        vocabulary = self.encoder.vocabulary
        tables = [_Table(head.spec, len(cells), len(vocabulary)) for head in heads]
        batches = inference_batches(
            ranked, vocabulary, token_budget=token_budget, max_length=self.max_length, cells=cells
        )
        with torch.inference_mode():
            for batch in batches:
                moved = batch.to(self.encoder.device)
                states = self.encoder.hidden_states(moved, encoder_layer=0)
                for head, table in zip(heads, tables, strict=True):
                    outputs = head(head.pool(states, moved, vocabulary.n_special)).cpu().double()
                    table.add(batch, head.probabilities(outputs))
        return {name: table.values() for name, table in zip(names, tables, strict=True)}

    def _place(self, name: str) -> int:
        names = [spec.name for spec in self.specs]
        if name not in names:
            raise ValueError(f"the model has no task {name!r}; it has {', '.join(names)}")
        return names.index(name)


def embed_tokens(model: BertForMaskedLM, batch: PackedBatch, inputs_embeds: Tensor | None = None) -> Tensor:
    """Return the embedding ``(1, T, d)`` of a batch, differentiably.

    Parameters
    ----------
    model
        With packed attention, on the batch's device.
    batch
        Packed cells.
    inputs_embeds
        ``(1, T, d)`` in place of the tokens' own embeddings.
    """
    tables = cast("Any", model).bert.embeddings
    tokens = {"input_ids": batch.input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    return cast("Tensor", tables(**tokens, position_ids=batch.position_ids))


def run_layers(model: BertForMaskedLM, states: Tensor, batch: PackedBatch, *, first: int = 0) -> Tensor:
    """Return the states ``(1, T, d)`` after the last layer, given those before layer `first`, differentiably.

    Raises
    ------
    ValueError
        A cell is longer than the model has positions.
    """
    limit = model.config.max_position_embeddings
    if batch.max_seqlen > limit:
        raise ValueError(
            f"a cell of {batch.max_seqlen:,} tokens does not fit the model's {limit:,} positions"
        )
    for layer in cast("Any", model).bert.encoder.layer[first:]:
        states = layer(states, cu_seqlens=batch.cu_seqlens, max_seqlen=batch.max_seqlen)
    return states


def inference_batches(
    ranked: RankedCells,
    vocabulary: GeneVocabulary,
    *,
    token_budget: int,
    max_length: int | None = None,
    cells: np.ndarray | None = None,
) -> Iterator[PackedBatch]:
    """Yield packed batches of the cells that hold a gene, longest first.

    Parameters
    ----------
    ranked
        Cells ranked with `vocabulary`.
    vocabulary
        Says which special tokens there are, and the longest input.
    token_budget
        Tokens in one batch.
    max_length
        Longest input; None: the vocabulary's.
    cells
        ``(m,)`` indices of the cells; None: all. ``cell_index`` of a batch counts along it.
    """
    cells = np.arange(len(ranked)) if cells is None else cells
    longest = vocabulary.max_length if max_length is None else max_length
    lengths = np.minimum(ranked.lengths[cells], longest - vocabulary.n_wrapping) + vocabulary.n_wrapping
    filled = np.flatnonzero(ranked.lengths[cells] > 0)
    for group in progress(plan_by_budget(lengths[filled], token_budget), desc="predicting", unit="batch"):
        chosen = filled[group]
        inputs = [model_input(ranked.cell(cell), vocabulary, max_length=longest) for cell in cells[chosen]]
        yield pack(inputs, cell_index=chosen)


class _Table:
    """Predictions of one task, filled in batch by batch."""

    def __init__(self, spec: HeadSpec, n_cells: int, n_tokens: int) -> None:
        self._spec = spec
        columns = 1 if spec.kind == "regression" else len(spec.classes)
        rows = n_cells if spec.level == "cell" else n_tokens
        start = np.nan if spec.level == "cell" else 0.0
        self._values = np.full((rows, columns), start)
        self._counts = np.zeros(n_tokens, dtype=np.int64)

    def add(self, batch: PackedBatch, predicted: Tensor) -> None:
        rows = predicted.reshape(len(predicted), -1).numpy()
        if self._spec.level == "cell":
            self._values[batch.cell_index.numpy()] = rows
            return
        tokens = batch.input_ids[0].numpy()
        for column in range(rows.shape[1]):
            self._values[:, column] += np.bincount(tokens, rows[:, column], len(self._values))
        self._counts += np.bincount(tokens, minlength=len(self._counts))

    def values(self) -> np.ndarray:
        if self._spec.level == "gene":
            with np.errstate(invalid="ignore"):
                self._values = self._values / self._counts[:, None]
        return self._values[:, 0] if self._spec.kind == "regression" else self._values


def _autocast(encoder: Encoder) -> contextlib.AbstractContextManager[Any]:
    if encoder.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(encoder.device.type, dtype=torch.bfloat16)

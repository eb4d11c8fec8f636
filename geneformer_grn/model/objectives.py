"""Training objectives: masked-gene modelling, with the language-model head only where a gene is masked.

The head is half of a small model's arithmetic, and the loss reads it at 15 % of the positions. Sums and
counts are returned apart, since the mean has to be taken over the masked tokens of all ranks and accumulation
steps together.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import BertForMaskedLM

from geneformer_grn.cells.batches import PackedBatch
from geneformer_grn.cells.masking import IGNORED
from geneformer_grn.model.encoder import packed_states
from geneformer_grn.model.head_loss import head_loss
from geneformer_grn.model.layout import AttentionLayout


def masked_language_loss(
    model: BertForMaskedLM, batch: PackedBatch, layout: AttentionLayout | None = None
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of the masked genes and how many there are.

    Equals the sum that the full head gives at the same labels; nothing here waits for the device, and shapes
    are those of the batch, so that it compiles as one graph.

    Parameters
    ----------
    model
        With packed attention (`geneformer_grn.model.encoder.new_model`, or `load_encoder`'s), on the batch's
        device.
    batch
        ``masked_index`` ``(M,)`` int64 names the positions scored; entries of -100 pad it and are ignored,
        and so are positions whose label is -100.
    layout
        Which attention runs, prepared for this batch; None: the device's usual one.

    Returns
    -------
    tuple
        The loss in nats, float32 ``()``, and the number of positions it sums over, int64 ``()``.
    """
    states = packed_states(model, batch, layout=layout)[0]
    labels = masked_labels(batch)
    return _masked_loss(model, states, batch, labels), (labels != IGNORED).sum()


def masked_language_and_cell_loss(
    model: BertForMaskedLM, batch: PackedBatch, layout: AttentionLayout | None = None, *, n_special: int
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of the masked genes, once token by token and once from the cell alone.

    The second reads one vector a cell: the mean of the states of its visible genes after the last layer but
    one, which is the embedding that `geneformer_grn.embedding` gives. Its inner products with the gene
    embeddings, plus the head's bias, say how likely each hidden gene is, wherever it stood. Nothing is added
    to the model, and nothing about ranks can answer it. (Predicting genes from the cell's vector is one of
    the objectives of scGPT: Cui et al., Nature Methods 2024; here it is a softmax over the vocabulary, as in
    a topic model.)

    Parameters
    ----------
    model, batch, layout
        As in `masked_language_loss`.
    n_special
        Tokens below it are special, and no part of a cell.

    Returns
    -------
    tuple
        Both losses in nats, float32 ``()``, each a sum over the masked positions.
    """
    labels = masked_labels(batch)
    before_last = len(cast("Any", model).bert.encoder.layer) - 1
    states = packed_states(model, batch, n_layers=before_last, layout=layout)
    cell_of = torch.bucketize(
        torch.arange(batch.n_tokens, device=states.device), batch.cu_seqlens[1:], right=True
    )
    visible = (batch.input_ids[0] >= n_special) & (batch.labels[0] == IGNORED)
    with torch.autocast(states.device.type, enabled=False):
        weight = visible.to(states.dtype)[:, None]
        n_cells = len(batch.cu_seqlens) - 1
        sums = torch.zeros(n_cells, states.shape[2], dtype=states.dtype, device=states.device)
        sums = sums.index_add(0, cell_of, states[0] * weight)
        counts = torch.zeros(n_cells, 1, dtype=states.dtype, device=states.device).index_add(
            0, cell_of, weight
        )
        cells = sums / counts.clamp(min=1.0)
        decoder = cast("Any", model).cls.predictions.decoder
        shares = torch.log_softmax(torch.nn.functional.linear(cells, decoder.weight, decoder.bias), dim=1)
        asked = shares[cell_of[batch.masked_index.clamp(min=0)], labels.clamp(min=0)]
        of_cells = -torch.where(labels == IGNORED, 0.0, asked).sum()
    last = packed_states(model, batch, layout=layout, after=(before_last, states))[0]
    return _masked_loss(model, last, batch, labels), of_cells


def masked_labels(batch: PackedBatch) -> Tensor:
    """Return the label of each masked position, ``(M,)`` int64, -100 where there is none."""
    labels = batch.labels[0].index_select(0, batch.masked_index.clamp(min=0))
    return torch.where(batch.masked_index < 0, IGNORED, labels)


def _masked_loss(model: BertForMaskedLM, states: Tensor, batch: PackedBatch, labels: Tensor) -> Tensor:
    head = cast("Any", model).cls.predictions
    at = states.index_select(0, batch.masked_index.clamp(min=0))
    return head_loss(head.transform(at), head.decoder.weight, head.decoder.bias, labels, ignored=IGNORED)


def recompute_activations(model: BertForMaskedLM) -> None:
    """Keep only each layer's input for the backward pass, which computes the rest again.

    Memory falls from all that a layer computes to one state a token and layer, for a third more arithmetic.
    In train mode only; `transformers` has a method for this, under a name that differs between its versions.
    """
    for layer in cast("Any", model).bert.encoder.layer:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)

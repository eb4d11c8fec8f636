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
    labels = batch.labels[0].index_select(0, batch.masked_index.clamp(min=0))
    labels = torch.where(batch.masked_index < 0, IGNORED, labels)
    states = packed_states(model, batch, layout=layout)[0].index_select(0, batch.masked_index.clamp(min=0))
    head = cast("Any", model).cls.predictions
    loss = head_loss(head.transform(states), head.decoder.weight, head.decoder.bias, labels, ignored=IGNORED)
    return loss, (labels != IGNORED).sum()


def recompute_activations(model: BertForMaskedLM) -> None:
    """Keep only each layer's input for the backward pass, which computes the rest again.

    Memory falls from all that a layer computes to one state a token and layer, for a third more arithmetic.
    In train mode only; `transformers` has a method for this, under a name that differs between its versions.
    """
    for layer in cast("Any", model).bert.encoder.layer:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)

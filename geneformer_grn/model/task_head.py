"""One task head: from the states of packed cells to logits, values or places.

The ``cls`` head is exactly that of ``BertForSequenceClassification`` and the gene head that of
``BertForTokenClassification``, so that those load anywhere; the price is that a head knows no layer but the
last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geneformer_grn.cells.packing import PackedBatch
from geneformer_grn.model.pooling import Pooling, pool_attention, pool_cls, pool_mean

Level = Literal["cell", "gene"]
Kind = Literal["classification", "ordinal", "regression"]


@dataclass(frozen=True)
class HeadSpec:
    """What a head predicts, and from what.

    Parameters
    ----------
    name
        What is predicted, such as ``cell_type``.
    level
        ``cell`` or ``gene``.
    kind
        ``classification``, ``ordinal`` (classes in ascending order) or ``regression``.
    classes
        Names, in the order of the outputs; empty for a regression.
    pooling
        ``mean`` over gene tokens, the ``cls`` state, or ``attention`` over gene tokens; of no meaning for
        genes.
    """

    name: str
    level: Level
    kind: Kind
    classes: tuple[str, ...] = ()
    pooling: Pooling = "mean"

    @property
    def n_outputs(self) -> int:
        """Numbers the head gives: one per class, or one (a value; of an ordinal label its place)."""
        return len(self.classes) if self.kind == "classification" else 1


class TaskHead(nn.Module):
    """One head: a pool, a linear layer (``cls``: a dense layer with tanh before it), thresholds if ordinal.

    Ordinal labels follow the cumulative-link model (McCullagh 1980): ``P(label <= k) = sigmoid(t_k - s)``
    with the head's one output `s` and rising thresholds `t`.

    Parameters
    ----------
    spec
        What it predicts.
    hidden_size
        Width of a state.
    dropout
        Of what the linear layer reads, in training.

    Notes
    -----
    `centre` and `scale` standardise what the head reads while it learns: states of cells differ little
    beside what they share, and a linear layer would learn slowly from them. `fold` takes them into the
    weights.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, spec: HeadSpec, hidden_size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        is_cls = spec.level == "cell" and spec.pooling == "cls"
        self.dense = nn.Linear(hidden_size, hidden_size) if is_cls else None
        is_attention = spec.level == "cell" and spec.pooling == "attention"
        self.attend = nn.Linear(hidden_size, 1) if is_attention else None
        self.classifier = nn.Linear(hidden_size, spec.n_outputs)
        is_ordinal = spec.kind == "ordinal"
        self.steps = nn.Parameter(torch.zeros(len(spec.classes) - 1)) if is_ordinal else None
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("centre", torch.zeros(hidden_size))
        self.register_buffer("scale", torch.ones(hidden_size))
        if self.attend is not None:  # begins as a mean
            nn.init.zeros_(self.attend.weight)
            nn.init.zeros_(self.attend.bias)

    @property
    def thresholds(self) -> Tensor:
        """Rising thresholds ``(n_classes - 1,)`` of an ordinal label."""
        steps = cast("Tensor", self.steps)
        return torch.cat([steps[:1], steps[:1] + functional.softplus(steps[1:]).cumsum(0)])

    def pool(self, states: Tensor, batch: PackedBatch, n_special: int) -> Tensor:
        """Return what the head reads: ``(N, d)`` of cells, ``(T, d)`` of genes, float32.

        Parameters
        ----------
        states
            ``(T, d)`` of the last layer.
        batch
            The packed cells, on the device of `states`.
        n_special
            Token ids below this one are special, and no gene.
        """
        if self.spec.level == "gene":
            return states.float()
        if self.spec.pooling == "cls":
            return pool_cls(states, batch).float()
        if self.attend is not None:
            scores = functional.linear(states.float(), self.attend.weight, self.attend.bias)[:, 0]
            return pool_attention(states.float(), scores, batch, n_special)
        return pool_mean(states.float(), batch, n_special)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the outputs ``(N, n_outputs)`` for pooled states ``(N, d)``; logits, places or values."""
        pooled = (pooled - self.centre) / self.scale
        if self.dense is not None:
            pooled = torch.tanh(self.dense(pooled))
        return cast("Tensor", self.classifier(self.dropout(pooled)))

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return probabilities ``(N, n_classes)`` of outputs, or the values ``(N,)`` of a regression."""
        if self.spec.kind == "regression":
            return outputs[:, 0]
        if self.spec.kind == "classification":
            return outputs.softmax(dim=1)
        below = torch.sigmoid(self.thresholds.to(outputs) - outputs)
        edges = [torch.zeros_like(outputs), below, torch.ones_like(outputs)]
        return torch.cat(edges, dim=1).diff(dim=1)

    @torch.no_grad()
    def start_at(self, labels: np.ndarray) -> None:
        """Set the thresholds of an ordinal head to the shares of `labels`, int64 class indices."""
        sizes = np.bincount(labels, minlength=len(self.spec.classes)) + 0.5
        below = np.cumsum(sizes)[:-1] / sizes.sum()
        places = np.log(below / (1.0 - below))
        gaps = np.diff(places)
        start = np.concatenate([places[:1], np.log(np.expm1(gaps))])  # softplus gives the gaps back
        cast("Tensor", self.steps).copy_(torch.from_numpy(start))

    @torch.no_grad()
    def fold(self, *, mean: float = 0.0, deviation: float = 1.0) -> None:
        """Take the standardisation of states, and of values if given, into the weights.

        Parameters
        ----------
        mean, deviation
            Of the values a regression was taught with; outputs then come in their unit.
        """
        first = self.classifier if self.dense is None else self.dense
        weight = first.weight.double() / self.scale.double()
        bias = first.bias.double() - weight @ self.centre.double()
        first.weight.copy_(weight)
        first.bias.copy_(bias)
        self.centre.zero_()
        self.scale.fill_(1.0)
        self.classifier.weight.mul_(deviation)
        self.classifier.bias.mul_(deviation).add_(mean)

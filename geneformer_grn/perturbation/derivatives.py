"""How the states of one cell change to first order: derivatives by its tokens' gates and by their positions.

One forward pass is kept and differentiated in several directions of the states, a backward pass each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.gated import embed, gated_states


class CellRun:
    """One cell run through the encoder, to be differentiated.

    Parameters
    ----------
    encoder
        The model; it runs in fp32.
    ids
        ``(L,)`` int64 model input.
    encoder_layer
        Whose states; 0 is the last layer, -1 the one before.

    Attributes
    ----------
    states
        ``(L, d)`` float32 states.

    Raises
    ------
    ValueError
        The model has no such layer.
    """

    def __init__(self, encoder: Encoder, ids: np.ndarray, encoder_layer: int) -> None:
        tokens = torch.from_numpy(ids).to(encoder.device)
        positions = torch.arange(len(ids), device=encoder.device)
        with torch.no_grad():
            embedded = embed(encoder.model, tokens, positions)
            self._up = embed(encoder.model, tokens, (positions - 1).clamp(min=0)) - embedded
        self._embedded = embedded.requires_grad_()
        self._gates = torch.ones(len(ids), device=encoder.device, requires_grad=True)
        with torch.enable_grad():
            n_layers = encoder.require_layer(encoder_layer)
            self._output = gated_states(encoder.model, self._embedded, self._gates, n_layers=n_layers)
        self.states = self._output.detach()

    def changes(self, direction: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return to first order how the states of `rows` change along `direction`, for each token ``(L,)``.

        First when its gate is shut, second when all tokens behind it move up by one.
        """
        whole = torch.zeros_like(self.states)
        whole[rows] = direction
        inputs = (self._embedded, self._gates)
        by_input, by_gate = torch.autograd.grad(
            self._output, inputs, whole, retain_graph=True, materialize_grads=True
        )
        moved = (by_input * self._up).sum(dim=1).double()
        behind = moved.flip(0).cumsum(0).flip(0) - moved
        return -by_gate.double().cpu().numpy(), behind.cpu().numpy()


def projections(states: Tensor, n: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield ``(k, d)`` Gaussian directions.

    Their squared product with a small change of `states` is one minus the mean cosine, on average.
    """
    length = states.norm(dim=1, keepdim=True)
    unit = states / length
    for _ in range(n):
        drawn = torch.from_numpy(rng.standard_normal(tuple(states.shape), dtype=np.float32)).to(states.device)
        tangential = drawn - (drawn * unit).sum(dim=1, keepdim=True) * unit
        yield tangential / length / (2.0 * len(states)) ** 0.5


def towards_state(states: Tensor, state: np.ndarray) -> Tensor:
    """Return the ``(k, d)`` gradient by `states` of the cosine of their mean with a mean state."""
    mean = states.mean(dim=0)
    goal = torch.from_numpy(state).to(mean)
    unit, length = mean / mean.norm(), mean.norm()
    along = functional.normalize(goal, dim=0)
    gradient = (along - (along * unit).sum() * unit) / length / len(states)
    return gradient.expand(len(states), -1)

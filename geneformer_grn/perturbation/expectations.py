"""What the language-model head expects of masked genes: how likely each is at its place, where it belongs.

The head's logits are the largest tensor here, so a slice of them lives at a time. Slices are cut across
passes: of a short cell only a few genes are masked, and the head's weights would be read anew for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from geneformer_grn.model.encoder import Encoder
from geneformer_grn.model.head_loss import SLICE_VALUES


class Expectation(NamedTuple):
    """What the model expects of the M genes masked in one pass.

    Parameters
    ----------
    nats
        ``(M,)`` float64 log-probability of each gene at its own place.
    place
        ``(M,)`` float64 expected place of each gene among the masked places, 0 the front.
    """

    nats: np.ndarray
    place: np.ndarray


def expectations(
    encoder: Encoder, states: torch.Tensor, tokens: Sequence[np.ndarray], places: Sequence[np.ndarray]
) -> list[Expectation]:
    """Return what the head expects of genes that were masked together, for n passes.

    Parameters
    ----------
    encoder
        The model; its head runs in float32 whatever the precision of the encoder.
    states
        ``(sum M_i, d)`` float32 states of the last layer at the masked positions, pass after pass.
    tokens
        n arrays ``(M_i,)`` int64: the gene that was masked at each.
    places
        n arrays ``(M_i,)``: the rank of each position, 0 the front.

    Returns
    -------
    With ``P_k(g)`` the head's softmax at the k-th masked position, ``log P_k(g_k)`` and the expected place
    ``sum_k place_k P_k(g) / sum_k P_k(g)`` of each gene.
    """
    ends = np.cumsum([len(genes) for genes in tokens])
    begins = ends - [len(genes) for genes in tokens]
    columns = [torch.from_numpy(genes).to(states.device) for genes in tokens]
    log_p = [np.empty((len(genes), len(genes))) for genes in tokens]  # (place, gene)
    n_rows = max(1, SLICE_VALUES.get(states.device.type, SLICE_VALUES["cpu"]) // len(encoder.vocabulary))
    with torch.inference_mode():
        for start in range(0, len(states), n_rows):
            logits = encoder.model.cls(states[start : start + n_rows]).float()
            stop = start + len(logits)
            within = range(
                int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(begins, stop))
            )
            parts = [(max(begins[i], start) - start, min(ends[i], stop) - start) for i in within]
            asked = [
                logits[first:last, columns[i]].double()
                for i, (first, last) in zip(within, parts, strict=True)
            ]
            # The largest logit is taken out first: a float32 log-sum of about 10 would be rounded at 1e-6.
            largest = logits.amax(dim=1, keepdim=True)
            total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
            norm = largest.double() + total.double().log()
            for i, (first, last), values in zip(within, parts, asked, strict=True):
                rows = slice(first + start - begins[i], last + start - begins[i])
                log_p[i][rows] = (values - norm[first:last]).cpu().numpy()
    return [_expected(values, ranks) for values, ranks in zip(log_p, places, strict=True)]


def _expected(log_p: np.ndarray, places: np.ndarray) -> Expectation:
    """Return what log-probabilities ``(place, gene)`` say of each gene."""
    weights = np.exp(log_p - log_p.max(axis=0))
    return Expectation(np.diagonal(log_p).copy(), places @ weights / weights.sum(axis=0))

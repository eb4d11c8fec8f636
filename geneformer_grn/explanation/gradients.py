"""Attributions by gradients over token embeddings: integrated gradients, and gradient times input.

Both differentiate by the token embedding, before positions are added: where a gene stands stays as it is,
which gene it is fades. Cells are run one at a time, the steps of a cell packed side by side.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geneformer_grn._runtime import progress
from geneformer_grn.cells.packing import PackedBatch, pack
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.attributions import Attributions, empty_attributions
from geneformer_grn.explanation.settings import AttributionSettings
from geneformer_grn.explanation.target import Explained


def integrated_gradients(
    explained: Explained,
    ranked: RankedCells,
    cells: np.ndarray,
    targets: np.ndarray,
    settings: AttributionSettings | None = None,
) -> Attributions:
    """Return what each gene adds on the way from a cell that says nothing to the cell.

    Scores of a cell add up to its output less the baseline's. How closely is measured, and steps are doubled
    until the error is at most ``tolerance``; a cell that is not there with ``most_steps`` keeps its error.

    Parameters
    ----------
    explained
        The model and its head.
    ranked
        Cells ranked with the model's vocabulary.
    cells
        ``(n,)`` int rows of them, each with a gene.
    targets
        ``(n,)`` int class explained in each.
    settings
        Baseline, steps and tolerance.

    Raises
    ------
    ModuleNotFoundError
        captum is not installed.
    ValueError
        There are no cells, or one holds no gene.

    Notes
    -----
    Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, ICML; captum's
    ``IntegratedGradients`` with Gauss-Legendre steps. Special tokens are the same in the baseline, so that
    nothing is attributed to them.

    Examples
    --------
    >>> found = integrated_gradients(explained, ranked, cells, targets)  # doctest: +SKIP
    >>> bool((found.completeness_error <= 0.01).all())  # doctest: +SKIP
    True
    """
    settings = settings or AttributionSettings()
    method_of = _captum().IntegratedGradients
    blank = empty_attributions("integrated_gradients", explained, ranked, cells, targets)
    scores, outputs = np.empty_like(blank.scores), np.empty((2, len(blank)))
    steps = np.empty(len(blank), dtype=np.int64)
    for number in progress(range(len(blank)), desc="integrated gradients", unit="cell"):
        run = _Cell(explained, ranked, int(blank.cells[number]), int(blank.targets[number]))
        own, baseline = run.embedded(), run.baseline(settings.baseline)
        with torch.no_grad():
            ends = run(torch.cat([own, baseline])).double().cpu().numpy()
        found, steps[number] = _integrated(method_of(run), run, (own, baseline), ends, settings)
        scores[blank.offsets[number] : blank.offsets[number + 1]] = found
        outputs[:, number] = ends
    return replace(blank, scores=scores, outputs=outputs[0], baseline_outputs=outputs[1], steps=steps)


def gradient_x_input(
    explained: Explained,
    ranked: RankedCells,
    cells: np.ndarray,
    targets: np.ndarray,
    settings: AttributionSettings | None = None,
) -> Attributions:
    """Return the slope of the output along each gene's token embedding: one pass a cell, first order only.

    Parameters, errors as in `integrated_gradients`; captum is not needed.

    Notes
    -----
    Shrikumar et al. (2016), Not just a black box: the product of gradient and input, summed over the
    embedding.
    """
    del settings  # it has none
    blank = empty_attributions("gradient_x_input", explained, ranked, cells, targets)
    scores, outputs = np.empty_like(blank.scores), np.empty(len(blank))
    for number in progress(range(len(blank)), desc="gradient x input", unit="cell"):
        run = _Cell(explained, ranked, int(blank.cells[number]), int(blank.targets[number]))
        own = run.embedded().requires_grad_()
        with torch.enable_grad():
            output = run(own)
            (gradient,) = torch.autograd.grad(output.sum(), own)
        scores[blank.offsets[number] : blank.offsets[number + 1]] = run.per_gene(gradient * own.detach())
        outputs[number] = float(output.detach())
    return replace(blank, scores=scores, outputs=outputs)


class _Cell:
    """One cell as a function of its token embeddings: many versions of them run side by side."""

    def __init__(self, explained: Explained, ranked: RankedCells, cell: int, target: int) -> None:
        self._explained = explained
        self._ids = explained.input_of(ranked, cell)
        self._target = target
        self._batches: dict[int, PackedBatch] = {}  # by number of versions: captum asks for few numbers
        self._is_gene = explained.is_gene(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __call__(self, embedded: Tensor) -> Tensor:
        """Return the ``(k,)`` outputs of k versions ``(k, L, d)`` of the embeddings."""
        n = len(embedded)
        if n not in self._batches:
            self._batches[n] = pack([self._ids] * n).to(self._explained.device)
        targets = torch.full((n,), self._target, device=self._explained.device)
        return self._explained.run(self._batches[n], targets, embedded=embedded.reshape(1, n * len(self), -1))

    def embedded(self) -> Tensor:
        """Return the cell's own token embeddings ``(1, L, d)``."""
        ids = torch.from_numpy(self._ids).to(self._explained.device)
        return self._explained.token_embeddings(ids)[None]

    def baseline(self, name: str) -> Tensor:
        """Return the embeddings ``(1, L, d)`` with a special token in every gene's place."""
        token = self._explained.vocabulary.token_of[f"<{name}>"]
        ids = torch.from_numpy(np.where(self._is_gene, token, self._ids)).to(self._explained.device)
        return self._explained.token_embeddings(ids)[None]

    def per_gene(self, attributed: Tensor) -> np.ndarray:
        """Return ``(genes,)`` float64 sums over the embedding ``(1, L, d)``, special tokens left out."""
        return attributed[0].double().sum(dim=1).detach().cpu().numpy()[self._is_gene]


def _integrated(
    method: Any,
    run: _Cell,
    ends: tuple[Tensor, Tensor],
    outputs: np.ndarray,
    settings: AttributionSettings,
) -> tuple[np.ndarray, int]:
    """Return a cell's scores and the steps they took, given its outputs and the baseline's ``(2,)``."""
    steps = settings.steps
    while True:
        together = max(1, min(steps, settings.token_budget // len(run)))
        attributed = method.attribute(ends[0], ends[1], n_steps=steps, internal_batch_size=together)
        scores = run.per_gene(attributed)
        difference = outputs[0] - outputs[1]
        complete = abs(scores.sum() - difference) <= settings.tolerance * abs(difference)
        if complete or 2 * steps > settings.most_steps:
            return scores, steps
        steps *= 2


def _captum() -> Any:
    """Return captum's attribution methods.

    Raises
    ------
    ModuleNotFoundError
        It is not installed.
    """
    try:
        return importlib.import_module("captum.attr")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'integrated gradients need captum: pip install "geneformer-grn[explain]"; gradient_x_input, '
            "attention and occlusion (--method) do not"
        ) from error

"""Heads fitted to pretrained states: the penalised optimum, the penalty chosen on the validation part.

With the encoder as it is, a linear head is logistic regression (ridge, ordered logit): there is one best head
for each penalty, and small steps that are stopped early only come near to one of them. In mode ``frozen`` the
fitted head is the result; where layers learn too, training begins with it and changes what it reads by
less (Kumar et al. 2022, arXiv:2202.10054). Heads are fitted one by one: with nothing else to learn, tasks do
not touch each other. A gene counts once, by its mean over the cells, however many cells hold it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from geneformer_grn.model.heads import TaskHead
from geneformer_grn.training.finetune_batches import PooledStates
from geneformer_grn.training.finetune_data import Lessons
from geneformer_grn.training.finetune_lessons import class_weights
from geneformer_grn.training.finetune_loss import unit_losses
from geneformer_grn.training.finetune_settings import FinetuneOptim
from geneformer_grn.training.finetune_validation import preferred

_PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of logistic regression, ascending: each starts from the last
_USUAL = 1.0
_SCALES = ("each", "common")  # every dimension by its own deviation, or all by the largest
_STEPS = 300


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A head at its optimum.

    Parameters
    ----------
    weights
        Its state, float32 on the CPU.
    c
        Inverse weight of the penalty, as scikit-learn's ``C``; two classes are two rows of weights, so that
        theirs is twice as large in scikit-learn, which holds one.
    scale
        ``each``: dimensions divided by their own deviation; ``common``: all by the largest.
    loss
        Mean training loss, without the penalty.
    """

    weights: dict[str, Tensor]
    c: float
    scale: str
    loss: float


def fit_heads(
    heads: nn.ModuleList,
    lessons: Lessons,
    states: PooledStates,
    settings: FinetuneOptim,
    judge: Callable[[str], Mapping[str, float] | None],
) -> list[FittedHead]:
    """Fit every head to the training part, and leave each with the weights that validation chose.

    Parameters
    ----------
    heads
        To be fitted, in place; linear in what they read.
    lessons
        What is learnt.
    states
        What the heads read.
    settings
        Losses and weights of the units; what decides between penalties.
    judge
        Returns ``score`` and ``loss`` of a task, by name, on the validation part with the heads as they are;
        None where it has no validation units.

    Returns
    -------
    list
        A fit for each head.

    Raises
    ------
    ValueError
        A loss is not finite.
    """
    found = []
    for number, (module, lesson) in enumerate(zip(heads, lessons.lessons, strict=True)):
        head = cast("TaskHead", module)
        is_gene = lesson.spec.level == "gene"
        rows = (
            _genes(number, lessons, states, settings)
            if is_gene
            else _cells(number, lessons, states, settings)
        )
        judged = []
        for fitted in _fits(head, rows, settings):
            head.load_state_dict(fitted.weights)
            judged.append((fitted, judge(lesson.spec.name)))
        best = _chosen(judged, settings)
        head.load_state_dict(best.weights)
        found.append(best)
    return found


@dataclass(frozen=True, eq=False)
class _Rows:
    """What a head reads, float64 on the CPU, what it should say, and how much that counts."""

    states: Tensor
    targets: Tensor
    weights: Tensor


def _cells(number: int, lessons: Lessons, states: PooledStates, settings: FinetuneOptim) -> _Rows:
    """Return a row for every cell that is asked something."""
    lesson, cells = lessons.lessons[number], lessons.cells
    weights = lesson.weights[cells].double()
    if settings.sampling == "balanced":
        weights *= torch.from_numpy(lessons.copies()[cells])
    asked = weights > 0
    rows = torch.from_numpy(states.place[cells])[asked]
    read = states.states[number][rows.to(states.states[number].device)]
    return _Rows(read.cpu().double(), lesson.targets[cells][asked], weights[asked])


def _genes(number: int, lessons: Lessons, states: PooledStates, settings: FinetuneOptim) -> _Rows:
    """Return a row for every gene that is asked: its mean state over the training cells that hold it."""
    lesson = lessons.lessons[number]
    rows = states.gene_rows(number, lessons.cells)
    tokens = states.tokens[number][rows]
    asked = lesson.weights.numpy()[tokens] > 0
    genes, place = np.unique(tokens[asked], return_inverse=True)
    read = (
        states.states[number][torch.from_numpy(rows[asked]).to(states.states[number].device)].cpu().double()
    )
    sums = torch.zeros((len(genes), read.shape[1]), dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(place), read)
    present = np.zeros(len(lesson.weights))
    present[genes] = 1.0
    weights = class_weights(lesson.task, lesson.targets.numpy(), present, settings)[genes]
    return _Rows(
        sums / torch.from_numpy(np.bincount(place))[:, None],
        lesson.targets[genes],
        torch.from_numpy(weights).double(),
    )


def _fits(head: TaskHead, rows: _Rows, settings: FinetuneOptim) -> Iterator[FittedHead]:
    """Yield the optimum for every scale and penalty."""
    deviation = rows.states.std(dim=0, correction=0)
    for scale in _SCALES:
        working = copy.deepcopy(head).cpu().double().eval()
        working.centre.copy_(rows.states.mean(dim=0))
        least = 1e-2 * float(deviation.median()) + 1e-6
        by = deviation.clamp(min=least) if scale == "each" else deviation.max().clamp(min=least)
        working.scale.copy_(by.expand_as(working.scale))
        nn.init.zeros_(working.classifier.weight)
        nn.init.zeros_(working.classifier.bias)
        scaled = replace(rows, states=(rows.states - working.centre) / working.scale)
        for c in _PENALTIES:
            loss = _descend(working, scaled, settings, c=c)
            if not np.isfinite(loss):
                raise ValueError(f"the loss of task {head.spec.name!r} is not finite; look at its labels")
            weights = {name: value.float().clone() for name, value in working.state_dict().items()}
            yield FittedHead(weights, c, scale, loss)


def _descend(head: TaskHead, rows: _Rows, settings: FinetuneOptim, *, c: float) -> float:
    """Bring a head to the optimum of its penalised loss on scaled rows; return the loss by itself."""
    learns = [head.classifier.weight, head.classifier.bias]
    if head.steps is not None:
        learns.append(head.steps)
    total = rows.weights.sum()
    optimizer = torch.optim.LBFGS(
        learns, max_iter=_STEPS, history_size=20, tolerance_grad=1e-6, tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def mean_loss() -> Tensor:
        losses = unit_losses(head, head.classifier(rows.states), rows.targets, settings)
        return (losses * rows.weights).sum() / total

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalised = mean_loss() + head.classifier.weight.square().sum() / (2.0 * c * len(rows.states))
        penalised.backward()
        return penalised

    optimizer.step(cast("Callable[[], float]", objective))
    with torch.no_grad():
        return float(mean_loss())


def _chosen(
    judged: Sequence[tuple[FittedHead, Mapping[str, float] | None]], settings: FinetuneOptim
) -> FittedHead:
    """Return the fit that validation prefers; without validation units the usual penalty.

    By ``score`` as `preferred` says, else by the loss.
    """
    known = [(fitted, found) for fitted, found in judged if found and np.isfinite(found["loss"])]
    if not known:
        return next(fitted for fitted, _ in judged if fitted.c == _USUAL)
    losses = [found["loss"] for _, found in known]
    scores = [found["score"] for _, found in known] if settings.stop_on == "score" else [0.0] * len(known)
    return known[preferred(scores, losses)][0]

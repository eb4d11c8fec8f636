"""Small torch networks taught labels: one loop, early stopping on the validation units, one seed for it all.

Kept apart from fine-tuning on purpose: a baseline that shared its loop would share its mistakes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from geneformer_grn.evaluation.label_data import Predict, Taught, validation_score
from geneformer_grn.evaluation.linear_fits import spread
from geneformer_grn.training.supervision import Task


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a small network learns.

    Parameters
    ----------
    lr, weight_decay
        Of AdamW.
    batch_size
        Units in a step.
    rounds
        At most so many rounds; a round is one epoch, or more where an epoch has few steps.
    patience
        Rounds without a better validation score before it ends.
    blind_rounds
        Rounds where there is no validation unit to stop by.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 64
    rounds: int = 30
    patience: int = 4
    blind_rounds: int = 8


_STEPS = 25  # a round has at least so many


def epochs_a_round(n_units: int, batch_size: int) -> int:
    """Return how many epochs of so many units make a round."""
    return -(-_STEPS // max(-(-n_units // batch_size), 1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """What a network reads.

    Parameters
    ----------
    read
        Units to the arguments of the network's ``forward``, on the device.
    lengths
        ``(n_units,)`` int; units of like length share a batch. None: all are alike.
    device
        Where the network runs.
    """

    read: Callable[[np.ndarray], tuple[Tensor, ...]]
    device: torch.device
    lengths: np.ndarray | None = None

    def batches(
        self, units: np.ndarray, size: int, rng: np.random.Generator | None = None
    ) -> list[np.ndarray]:
        """Return the units in batches, shuffled where a generator is given; within one, long cells first."""
        order = units if rng is None else rng.permutation(units)
        if self.lengths is None:
            return [order[start : start + size] for start in range(0, len(order), size)]
        window = len(order) if rng is None else 16 * size
        found = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            found += [part[at : at + size] for at in range(0, len(part), size)]
        if rng is not None:
            rng.shuffle(found)
        return found


def teach(
    make: Callable[[int], nn.Module],
    inputs: Inputs,
    task: Task,
    units: Taught,
    schedule: Schedule,
    *,
    seed: int,
    balanced: bool = False,
) -> tuple[Predict, int]:
    """Teach a network the labels of the training units, and keep the weights that predict validation best.

    Parameters
    ----------
    make
        Number of outputs -> network whose ``forward`` gives ``(b, n_outputs)``.
    inputs
        What it reads.
    task, units
        What it learns, by which units.
    schedule
        How long.
    seed
        Of its weights, batches and dropout.
    balanced
        Weight classes by the inverse of their number.

    Returns
    -------
    tuple
        Function of units that gives their scores, and rounds run.
    """
    known = task.values[units.train]
    if task.kind == "regression":
        mean, deviation = float(known.mean()), max(float(known.std()), 1e-8)
        targets = torch.tensor((task.values - mean) / deviation, dtype=torch.float32)
        present, weight = np.arange(1), None
    else:
        present, codes = np.unique(known, return_inverse=True)
        if len(present) == 1:
            return lambda asked: spread(np.ones((len(asked), 1)), present, len(task.classes)), 0
        targets = torch.tensor(np.searchsorted(present, np.maximum(task.values, 0)))
        sizes = np.bincount(codes)
        weight = torch.tensor(len(codes) / len(sizes) / sizes, dtype=torch.float32) if balanced else None
    with torch.random.fork_rng(devices=[inputs.device] if inputs.device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = make(len(present)).to(inputs.device)

        def loss(chosen: np.ndarray) -> Tensor:
            outputs = network(*inputs.read(chosen))
            wanted = targets[chosen].to(inputs.device)
            if task.kind == "regression":
                return nn.functional.mse_loss(outputs[:, 0], wanted)
            classes = None if weight is None else weight.to(inputs.device)
            return nn.functional.cross_entropy(outputs, wanted, weight=classes)

        def predict(asked: np.ndarray) -> np.ndarray:
            outputs = run(network, inputs, asked)
            if task.kind == "regression":
                return np.asarray(mean + deviation * outputs[:, 0])
            exponents = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return spread(exponents / exponents.sum(axis=1, keepdims=True), present, len(task.classes))

        def quality() -> tuple[float, float]:
            return validation_score(task, units.validation, predict(units.validation))

        n_rounds = fit(
            network,
            lambda rng: inputs.batches(units.train, schedule.batch_size, rng),
            loss,
            schedule,
            quality=quality if len(units.validation) else None,
            seed=seed,
        )
    return predict, n_rounds


def fit(
    network: nn.Module,
    batches: Callable[[np.random.Generator], list[np.ndarray]],
    loss: Callable[[np.ndarray], Tensor],
    schedule: Schedule,
    *,
    quality: Callable[[], tuple[float, float]] | None,
    seed: int,
) -> int:
    """Train a network and leave it with its best weights, in eval mode.

    Parameters
    ----------
    network
        Changed in place.
    batches
        Generator -> the batches of an epoch.
    loss
        Loss of a batch.
    schedule
        How long.
    quality
        How good the network is now, larger is better; None: it learns for ``schedule.blind_rounds``.
    seed
        Of the order of units.

    Returns
    -------
    int
        Rounds run.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    best, kept, best_round = (-np.inf, -np.inf), None, 0
    last = schedule.rounds if quality is not None else schedule.blind_rounds
    number = 0
    for number in range(1, last + 1):
        network.train()
        n_steps = 0
        while n_steps < _STEPS:
            for chosen in batches(rng):
                optimizer.zero_grad()
                loss(chosen).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                n_steps += 1
        network.eval()
        if quality is None:
            continue
        value = quality()
        if value > best:
            best, best_round, kept = value, number, copy.deepcopy(network.state_dict())
        elif number - best_round >= schedule.patience:
            break
    if kept is not None:
        network.load_state_dict(kept)
    return number


def run(network: nn.Module, inputs: Inputs, asked: np.ndarray) -> np.ndarray:
    """Return the outputs of a network for some units, ``(m, n_outputs)`` float64 in their order."""
    places = np.arange(len(asked))
    if inputs.lengths is not None:
        places = np.argsort(-inputs.lengths[asked], kind="stable")
    found = []
    with torch.inference_mode():
        for start in range(0, len(asked), 256):
            chosen = asked[places[start : start + 256]]
            found.append(network(*inputs.read(chosen)).double().cpu().numpy())
    outputs = np.concatenate(found) if found else np.empty((0, 1))
    ordered = np.empty_like(outputs)
    ordered[places] = outputs
    return ordered

"""Networks without attention and without pretraining, to say what attention buys.

A convolution and a bidirectional LSTM read the very tokens that the model reads, in their order; an MLP and a
denoising autoencoder read log counts. All are small, so that a row of the table costs about a minute of CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from geneformer_grn.cells.ranking import model_input
from geneformer_grn.evaluation.label_data import Fitted, LabelData, Taught, choose, prediction_of, taught
from geneformer_grn.evaluation.label_features import standardised, variable_genes
from geneformer_grn.evaluation.linear_fits import fit_linear
from geneformer_grn.evaluation.small_networks import Inputs, Schedule, epochs_a_round, fit, run, teach
from geneformer_grn.training.supervision import Prediction, Split, Task

_MASKED = 0.3  # share of a cell's genes that the autoencoder is not shown
_CODE = 64


def mlp(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Two hidden layers on the standardised log counts of 2,000 variable genes.

    Classes weighted or not, whichever predicts the validation cells better.
    """
    parts = taught(data, task, split)
    counts = _scaled_counts(data, parts)
    inputs = _dense_inputs(data, counts)

    def perceptron(n_outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Dropout(0.1), nn.Linear(counts.shape[1], 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 64),
            nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, n_outputs),
        )  # fmt: skip

    weightings = (False, True) if len(parts.validation) and task.kind != "regression" else (False,)
    candidates: list[Fitted] = []
    for balanced in weightings:
        predict, rounds = teach(
            perceptron, inputs, task, parts, Schedule(lr=5e-4), seed=seed, balanced=balanced
        )
        candidates.append(({"class_weight": "balanced" if balanced else None, "rounds": rounds}, predict))
    return prediction_of(task, units, choose(task, parts.validation, candidates))


def cnn(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Convolve the embedded ranked genes along the ranking, and pool by mean and maximum."""
    return _on_tokens(Convolution, data, task, split, seed=seed, units=units, most_tokens=16_000_000)


def bilstm(data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray) -> Prediction:
    """Run an LSTM over the ranked genes in both directions, and pool its states by mean and maximum."""
    return _on_tokens(Recurrent, data, task, split, seed=seed, units=units, most_tokens=10_000_000)


def denoising_autoencoder(
    data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray
) -> Prediction:
    """Learn to restore hidden genes of the training cells, without labels; a linear model on what it keeps.

    Vincent et al. (2008), Extracting and composing robust features with denoising autoencoders. It stops by
    how well it restores the validation cells.
    """
    parts = taught(data, task, split)
    counts = _scaled_counts(data, parts)
    inputs = _dense_inputs(data, counts)
    with torch.random.fork_rng(devices=_cuda(inputs.device)):
        torch.manual_seed(seed)
        network = Autoencoder(counts.shape[1]).to(inputs.device)

        def loss(chosen: np.ndarray) -> Tensor:
            (shown,) = inputs.read(chosen)
            hidden = torch.rand(shown.shape, device=shown.device) < _MASKED
            return nn.functional.mse_loss(network.restored(shown.masked_fill(hidden, 0.0)), shown)

        def quality() -> tuple[float, float]:
            with torch.inference_mode():
                errors = [
                    float(((network.restored(shown) - shown) ** 2).sum())
                    for (shown,) in map(inputs.read, inputs.batches(split.validation, 256))
                ]
            return -sum(errors), 0.0

        schedule = Schedule()
        rounds = fit(
            network,
            lambda rng: inputs.batches(parts.seen, schedule.batch_size, rng),
            loss,
            schedule,
            quality=quality if len(split.validation) else None,
            seed=seed,
        )
    codes = standardised(run(network, inputs, np.arange(len(counts))), parts.seen)
    settings, predict = fit_linear(codes, task, parts, seed=seed)
    return prediction_of(task, units, (settings | {"rounds": rounds}, predict))


class Convolution(nn.Module):
    """Embedded tokens, one convolution, mean and maximum over places."""

    def __init__(self, n_tokens: int, pad: int, n_outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, 64, padding_idx=pad)
        self.convolution = nn.Conv1d(64, 64, kernel_size=5, padding=2)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, n_outputs))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return ``(b, n_outputs)`` from ``(b, l)`` tokens, padded behind, and their ``(b,)`` lengths."""
        states = torch.relu(self.convolution(self.embedding(tokens).transpose(1, 2))).transpose(1, 2)
        return self.head(_pooled(states, lengths))


class Recurrent(nn.Module):
    """Embedded tokens, a bidirectional LSTM, mean and maximum over places."""

    def __init__(self, n_tokens: int, pad: int, n_outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, 32, padding_idx=pad)
        self.recurrence = nn.LSTM(32, 32, bidirectional=True, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, n_outputs))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return ``(b, n_outputs)`` from ``(b, l)`` tokens, long cells first, and their ``(b,)`` lengths."""
        packed = pack_padded_sequence(self.embedding(tokens), lengths.cpu(), batch_first=True)
        states, _ = pad_packed_sequence(self.recurrence(packed)[0], batch_first=True)
        return self.head(_pooled(states, lengths))


class Autoencoder(nn.Module):
    """Counts to a short code and back."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_genes, 256), nn.ReLU(), nn.Linear(256, _CODE))
        self.decoder = nn.Sequential(nn.ReLU(), nn.Linear(_CODE, 256), nn.ReLU(), nn.Linear(256, n_genes))

    def forward(self, counts: Tensor) -> Tensor:
        """Return the codes ``(b, 64)`` of standardised counts ``(b, g)``."""
        return self.encoder(counts)

    def restored(self, counts: Tensor) -> Tensor:
        """Return what the code of the counts says they were, ``(b, g)``."""
        return self.decoder(self.encoder(counts))


def _on_tokens(
    kind: Callable[[int, int, int], nn.Module],
    data: LabelData,
    task: Task,
    split: Split,
    *,
    seed: int,
    units: np.ndarray,
    most_tokens: int,
) -> Prediction:
    """Teach a network that reads tokens; of many cells, for fewer rounds."""
    parts = taught(data, task, split)
    vocabulary = data.vocabulary
    lengths = np.minimum(data.read.lengths + vocabulary.n_wrapping, vocabulary.max_length)
    pad = vocabulary.special("<pad>") or 0
    device = _device(data)

    def read(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        cells = [model_input(data.read.cell(int(cell)), vocabulary) for cell in chosen]
        tokens = np.full((len(cells), max(map(len, cells))), pad, dtype=np.int64)
        for row, cell in zip(tokens, cells, strict=True):
            row[: len(cell)] = cell
        return torch.from_numpy(tokens).to(device), torch.tensor([len(cell) for cell in cells], device=device)

    inputs = Inputs(read=read, device=device, lengths=lengths)
    in_a_round = int(lengths[parts.train].sum()) * epochs_a_round(len(parts.train), Schedule.batch_size)
    rounds = int(np.clip(most_tokens // max(in_a_round, 1), 4, Schedule.rounds))
    schedule = Schedule(lr=2e-3, rounds=rounds, blind_rounds=min(rounds, Schedule.blind_rounds))
    predict, done = teach(lambda n: kind(len(vocabulary), pad, n), inputs, task, parts, schedule, seed=seed)
    return prediction_of(task, units, ({"rounds": done}, predict))


def _scaled_counts(data: LabelData, parts: Taught) -> np.ndarray:
    genes = variable_genes(data.log, parts.seen)
    return standardised(data.log[:, genes].toarray(), parts.seen)


def _dense_inputs(data: LabelData, features: np.ndarray) -> Inputs:
    device = _device(data)
    return Inputs(read=lambda chosen: (torch.from_numpy(features[chosen]).to(device),), device=device)


def _device(data: LabelData) -> torch.device:
    return torch.device("cpu") if data.encoder is None else data.encoder.device


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _pooled(states: Tensor, lengths: Tensor) -> Tensor:
    """Return mean and maximum of ``(b, l, d)`` states over the first `lengths` places, ``(b, 2 d)``."""
    beyond = (torch.arange(states.shape[1], device=states.device) >= lengths[:, None])[:, :, None]
    mean = states.masked_fill(beyond, 0.0).sum(dim=1) / lengths[:, None]
    return torch.cat([mean, states.masked_fill(beyond, -torch.inf).amax(dim=1)], dim=1)

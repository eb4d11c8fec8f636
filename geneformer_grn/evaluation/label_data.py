"""What label baselines are given and what they share: data, the parts of a split, a choice by validation.

A baseline sees the labels of the training units only, chooses its settings by the labels of the validation
units, and is never shown the others. What needs no label (variable genes, components, scales) is learnt from
the training units too, and from `LabelData.unlabelled` where labels were withheld to see how few suffice: a
pretrained model has seen many unlabelled cells, so its rivals may see these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn.cells.counts import CellCounts, log_normalised
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.training.finetune_validation import NOISE, preferred
from geneformer_grn.training.supervision import Kind, Prediction, Split, Task

if TYPE_CHECKING:
    from scipy import sparse

    from geneformer_grn.genes.vocabulary import GeneVocabulary
    from geneformer_grn.model.encoder import Encoder

LAYERS = (-1, 0)  # of the encoder, which a linear probe chooses between

Predict = Callable[[np.ndarray], np.ndarray]
"""Units to their scores."""
Fitted = tuple[dict[str, Any], Predict]
"""Settings, and what was learnt with them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelData:
    """The cells as baselines see them.

    Parameters
    ----------
    counts
        Counts of known genes; its rows are the units of cell tasks.
    ranked
        The same cells as ranked genes.
    vocabulary
        What the tokens mean, and how many of them the model reads.
    encoder
        The pretrained model; None where no baseline needs it. It is not changed.
    settings
        `FinetuneSettings` of the model, by whose ``max_length`` cells are cropped for everyone who reads
        ranked genes; None: the defaults.
    random_settings
        `FinetuneSettings` that ``random_weights`` is trained with; None: `settings`.
    unlabelled
        ``(m,)`` int64 cells beside the training cells that may be looked at without their labels: in a
        few-shot split the training cells whose labels were withheld. Never cells of validation or test.
    kept
        Embeddings that were computed once; `dataclasses.replace` hands them on.
    """

    counts: CellCounts
    ranked: RankedCells
    vocabulary: GeneVocabulary
    encoder: Encoder | None = None
    settings: Any = None
    random_settings: Any = None
    unlabelled: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @cached_property
    def log(self) -> sparse.csr_matrix:
        """Log-normalised counts, ``(n, n_columns)`` float32 csr; every cell by itself."""
        return log_normalised(self.counts)

    @cached_property
    def read(self) -> RankedCells:
        """The ranked genes as far as the fine-tuned model reads them: no rival reads more of a cell."""
        longest = None if self.settings is None else self.settings.model.max_length
        return self.ranked if longest is None else self.ranked.cropped(longest - self.vocabulary.n_wrapping)

    def cell_embeddings(self, encoder_layer: int) -> np.ndarray:
        """Return the pretrained model's mean-pooled cells, ``(n, d)`` float32; computed once."""
        from geneformer_grn.embedding import EmbedSettings, embed_cells

        settings = EmbedSettings(encoder_layer=encoder_layer)
        return self._once(f"cells {encoder_layer}", lambda model: embed_cells(model, self.read, settings))

    def gene_embeddings(self, encoder_layer: int) -> np.ndarray:
        """Return the pretrained model's genes, means over cells, ``(V, d)`` float32; computed once."""
        from geneformer_grn.embedding import EmbedSettings, embed_genes

        settings = EmbedSettings(encoder_layer=encoder_layer)
        return self._once(f"genes {encoder_layer}", lambda model: embed_genes(model, self.read, settings))

    def _once(self, name: str, embed: Callable[[Encoder], np.ndarray]) -> np.ndarray:
        if name not in self.kept:
            self.kept[name] = embed(self.require_encoder())
        return self.kept[name]

    def require_encoder(self) -> Encoder:
        """Return the encoder.

        Raises
        ------
        ValueError
            There is none.
        """
        if self.encoder is None:
            raise ValueError(
                "this baseline needs a pretrained model, and none was given; leave it out or pass one"
            )
        return self.encoder


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A way to predict labels, callable as ``baseline(data, task, split, seed=0, units=None)``.

    Parameters
    ----------
    run
        The function.
    title
        What the table calls it.
    kinds
        The kinds of task it serves.
    needs_model
        Whether `LabelData.encoder` must be there.
    extra
        The extra that must be installed (``pip install "geneformer-grn[...]"``); empty for none.
    """

    run: Callable[..., Prediction]
    title: str
    kinds: frozenset[Kind]
    needs_model: bool = False
    extra: str = ""

    def __call__(
        self, data: LabelData, task: Task, split: Split, *, seed: int, units: np.ndarray | None = None
    ) -> Prediction:
        """Learn from the training units and predict others.

        Parameters
        ----------
        data
            The cells.
        task
            What to predict; of a kind in `kinds`.
        split
            Which units teach, which choose the settings, which are predicted.
        seed
            Of everything random; equal seeds give equal predictions.
        units
            ``(m,)`` int64 units to predict; None: ``split.test``.

        Returns
        -------
        Prediction
            Classes without a training unit have probability 0. ``details`` holds ``settings`` (as chosen) and
            ``seconds``.

        Raises
        ------
        ValueError
            The task is of another kind, or no training unit has a label.
        ModuleNotFoundError
            The extra is not installed.
        """
        if task.kind not in self.kinds:
            raise ValueError(
                f"baseline {self.title!r} serves {' and '.join(sorted(self.kinds))}, and task {task.name!r} "
                f"is of kind {task.kind}"
            )
        if not task.labelled[split.train].any():
            raise ValueError(
                f"none of the {len(split.train):,} training units has a label of {task.name!r}; nothing can "
                "be learnt"
            )
        start = time.perf_counter()
        asked = split.test if units is None else np.asarray(units, dtype=np.int64)
        prediction = self.run(data, task, split, seed=seed, units=asked)
        return replace(prediction, details=prediction.details | {"seconds": time.perf_counter() - start})


@dataclass(frozen=True, eq=False)
class Taught:
    """The labelled units of the parts that teach and choose.

    Parameters
    ----------
    train, validation
        int64 units with a label.
    seen
        int64 units that unsupervised steps learn from: the training part, labelled or not, and
        `LabelData.unlabelled` for cells.
    """

    train: np.ndarray
    validation: np.ndarray
    seen: np.ndarray


def taught(data: LabelData, task: Task, split: Split) -> Taught:
    """Return the units that may be learnt from.

    Raises
    ------
    ValueError
        Unlabelled cells are among those of validation or test.
    """
    labelled = task.labelled
    seen = np.asarray(split.train, dtype=np.int64)
    if task.level == "cell":
        held_out = np.concatenate([split.validation, split.test])
        if np.isin(data.unlabelled, held_out).any():
            raise ValueError("cells to be looked at without labels are also cells of validation or test")
        seen = np.union1d(seen, data.unlabelled).astype(np.int64)
    return Taught(split.train[labelled[split.train]], split.validation[labelled[split.validation]], seen)


def validation_score(task: Task, units: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return how good scores of labelled units are, larger is better, ties told by the second number.

    Two classes: AUROC; more: macro-F1; grades: quadratic kappa; ties by the log loss. Values: minus the
    squared error.
    """
    from geneformer_grn.evaluation.label_measures import classification_measures

    truth = task.values[units]
    if task.kind == "regression":
        return -float(np.mean((truth - scores) ** 2)), 0.0
    known = np.maximum(scores[np.arange(len(truth)), truth], 1e-6)
    name = (
        "auroc"
        if len(task.classes) == 2
        else "macro_f1"
        if task.kind == "classification"
        else "quadratic_kappa"
    )
    measures = classification_measures(truth, scores, ordinal=task.kind == "ordinal", only=(name,))
    value = float(measures[name][0])
    return (value if np.isfinite(value) else 0.0), float(np.mean(np.log(known)))


def choose(
    task: Task,
    validation: np.ndarray,
    candidates: Sequence[Fitted],
) -> Fitted:
    """Return the candidate that predicts the validation units best, the first of equals.

    As `geneformer_grn.training.finetune_validation.preferred` says, ties told by the log loss.

    Parameters
    ----------
    task, validation
        Labelled units to choose by; without any, the first candidate is taken.
    candidates
        At least one, the default first.
    """
    if len(candidates) == 1 or not len(validation):
        return candidates[0]
    values = [validation_score(task, validation, predict(validation)) for _, predict in candidates]
    noise = 0.0 if task.kind == "regression" else NOISE  # values have no common scale
    return candidates[preferred([value for value, _ in values], [-known for _, known in values], noise=noise)]


def training_shares(task: Task, split: Split) -> np.ndarray:
    """Return the share of each class among labelled training units, ``(n_classes,)``; of values, the mean."""
    known = task.values[split.train[task.labelled[split.train]]]
    if task.kind == "regression":
        return np.asarray(known.mean())
    return np.bincount(known, minlength=len(task.classes)) / len(known)


def without_gaps(prediction: Prediction, task: Task, split: Split) -> Prediction:
    """Return a prediction in which units that were given no score have the shares of the training units.

    A model says nothing of a gene that no cell holds within its length. Left out, such units would be scored
    for its rivals only.
    """
    scores = prediction.scores.copy()
    unknown = np.isnan(scores.reshape(len(scores), -1)).any(axis=1)
    scores[unknown] = training_shares(task, split)
    details = prediction.details | {"n_without_score": int(unknown.sum())}
    return replace(prediction, scores=scores, details=details)


def prediction_of(task: Task, units: np.ndarray, fitted: Fitted) -> Prediction:
    """Return what was learnt as a prediction of some units, its settings in ``details``."""
    settings, predict = fitted
    return Prediction(task.name, units, predict(units), {"settings": settings})

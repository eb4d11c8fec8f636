"""The cells of a pretraining run: corpora of one vocabulary; no cell is both trained on and held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geneformer_grn._runtime import choose_device, logger
from geneformer_grn.cells.batches import BatchSettings, MaskSettings, balanced_copies
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.leaks import files_in_both, shared_files
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.training.config import PretrainConfig
from geneformer_grn.training.record import earlier_training, training_stages


@dataclass(frozen=True)
class PretrainingData:
    """What a run reads: corpora of one vocabulary, how they become batches, and what its start had read."""

    corpus: Corpus
    validation: Corpus | None
    vocabulary: GeneVocabulary
    batches: BatchSettings
    started_from: dict[str, Any] | None


def open_data(config: PretrainConfig) -> PretrainingData:
    """Open the corpora of a config and check that they share the vocabulary.

    Raises
    ------
    FileNotFoundError
        A corpus, or the model to start from, is not there.
    VocabularyMismatchError
        The held-out corpus was tokenized with another vocabulary.
    ValueError
        The held-out corpus has cells of a file that is trained on, or that the model to start from was
        trained on, or the corpus lacks the column to balance.
    """
    data = config.data
    corpus = Corpus.open(data.corpus)
    vocabulary = corpus.vocabulary
    corpus.require_vocabulary(vocabulary)
    started_from = earlier_training(config)  # read now: the folder may be gone when the run has ended
    validation = None if data.validation is None else Corpus.open(data.validation)
    if validation is not None:
        validation.require_vocabulary(vocabulary)
        _require_apart(corpus, validation)
        _require_unread(validation, started_from)
    mask = MaskSettings(rate=data.mask_rate, keep=data.keep, random=data.random)
    copies = None
    if data.balance is not None:
        copies = balanced_copies(corpus.column(data.balance), evenness=data.evenness)
    on_gpu = choose_device(config.run.device).type == "cuda"
    settings = BatchSettings(
        token_budget=data.token_budget,
        seed=config.run.seed,
        mask=mask,
        # Batches of one shape are compiled once, and fit flex attention and a GPU's allocator.
        static=config.run.compile or on_gpu,
        pinned=on_gpu,
        stages=data.curriculum,
        copies=copies,
    )
    return PretrainingData(corpus, validation, vocabulary, settings, started_from)


def _require_apart(corpus: Corpus, held_out: Corpus) -> None:
    """Raise where both hold cells of one file, unless one split put these into different parts."""
    both = files_in_both(corpus, held_out)
    if both:
        raise ValueError(
            f"data.validation holds files that data.corpus trains on (same sha256): {', '.join(both)}; "
            "held-out figures would say nothing. Tokenize other files for it, divide one corpus with "
            "geneformer-grn corpus split, or pass --set data.validation=none"
        )


def _require_unread(held_out: Corpus, start: dict[str, Any] | None) -> None:
    """Raise where a training that made the model to start from read cells of a held-out file."""
    if start is None:
        return
    if start["training"] is None:
        logger.warning(
            "%s has no record of its training: whether it read held-out cells cannot be checked",
            start["name"],
        )
    files = held_out.manifest["files"]
    for stage in training_stages(start["training"]):
        # A record of a part of a split that does not name the split cannot tell whose part is held out.
        entries = stage["corpus"]["files"]
        vague = [
            entry for entry in entries if "splits" not in entry and "elsewhere" in entry.get("left_out", ())
        ]
        read = [entry for entry in entries if entry not in vague]
        if both := shared_files(read, files):
            raise ValueError(
                f"data.validation holds files that {start['name']!r}, which training starts from, was "
                f"trained on (same sha256): {', '.join(both)}; held-out figures would flatter it. Hold out "
                "other files, or pass --set data.validation=none"
            )
        if both := shared_files(vague, files):
            logger.warning(
                "%s was trained on a part of %s, and its record does not say which: that it is not the part "
                "held out cannot be checked", start["name"], ", ".join(both),
            )  # fmt: skip

"""Where pretraining starts: what the corpus itself says of its genes, instead of random numbers.

Or another model's weights, to go on with on cells of one's own (`start_at_checkpoint`).

A small model on few cells spends most of its steps learning how frequent genes are, which ones go together
and which stand at neighbouring ranks. All three can be computed: the head's bias starts at the log
frequencies, the gene embeddings at a correspondence analysis of cells × genes and at the order of medians,
positions at waves, so that training begins with what context adds. Only the training corpus is read.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from transformers import BertForMaskedLM

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.model.checkpoint import ModelConfig, load_weights, new_model
from geneformer_grn.model.folder import read_model_config, read_vocabulary, resolve_checkpoint
from geneformer_grn.training.config import ModelSection

_SCALE = 0.06  # root mean square of gene embeddings, and of positions: the gene outweighs its place
_POSITION_SCALE = 0.04
_SHAPE = {
    "n_layers": "num_hidden_layers", "hidden_size": "hidden_size", "n_heads": "num_attention_heads",
    "ffn_size": "intermediate_size", "activation": "hidden_act",
}  # fmt: skip
_LARGEST = 3.0  # in median lengths, the longest embedding: rare genes have the longest, and noisiest


def starting_model(settings: ModelSection, corpus: Corpus, *, seed: int) -> BertForMaskedLM:
    """Return the model before its first step: what `settings` ask for, in train mode, float32, on the CPU.

    Raises
    ------
    FileNotFoundError
        The checkpoint to start from is not there, or not whole.
    ValueError
        It has another vocabulary than the corpus, or another shape than `settings`.
    """
    model = new_model(ModelConfig(**settings.shape), corpus.vocabulary, seed=seed)
    if settings.start_from is not None:
        start_at_checkpoint(model, settings.start_from, corpus)
        return model
    if settings.output_bias == "frequencies":
        start_bias_at_frequencies(model, corpus)
    if settings.embeddings == "components":
        start_embeddings_at_components(model, corpus, seed=seed)
    if settings.positions == "waves":
        start_positions_at_waves(model, seed=seed)
    return model


def start_at_checkpoint(model: BertForMaskedLM, checkpoint: str, corpus: Corpus) -> None:
    """Set all weights to those of a checkpoint: a shipped name, a folder, or a Hugging Face id on disk.

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint, or it is not whole.
    ValueError
        It has another vocabulary than the corpus, or another shape than the model.
    """
    folder = resolve_checkpoint(checkpoint)
    vocabulary = read_vocabulary(folder)
    vocabulary.require_same(
        corpus.vocabulary.fingerprint, this=f"the model {checkpoint}", other=f"corpus {corpus.path.name}"
    )
    stored, asked = read_model_config(folder, vocabulary), model.config.to_dict()
    differing = [
        f"{ours} {asked[theirs]} (the checkpoint: {stored.get(theirs)})"
        for ours, theirs in _SHAPE.items()
        if stored.get(theirs) != asked[theirs]
    ]
    if differing:
        raise ValueError(
            f"model.start_from {checkpoint} has another shape than the config: {', '.join(differing)}; "
            "set model.* to the checkpoint's"
        )
    model.load_state_dict(load_weights(folder).state_dict())


def start_bias_at_frequencies(model: BertForMaskedLM, corpus: Corpus) -> None:
    """Set the head's bias to the log frequency of each token in the corpus (one added to every count).

    Frequencies span ten nats, which a bias that starts at 0 takes thousands of small steps to cross; started
    here, the untrained model guesses as well as the frequencies do.
    """
    counts = np.bincount(corpus.input_ids, minlength=model.config.vocab_size) + 1.0
    counts[: corpus.vocabulary.n_special] = 1.0  # never an answer
    with torch.no_grad():
        model.cls.predictions.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def start_embeddings_at_components(model: BertForMaskedLM, corpus: Corpus, *, seed: int) -> None:
    """Set the gene embeddings to what the corpus says of genes; special tokens stay random.

    Three quarters of the width hold a correspondence analysis (`gene_components`: which genes go together),
    one quarter waves over the genes' medians (`median_waves`: which genes stand at neighbouring ranks).

    Parameters
    ----------
    model
        Changed in place; its output weights are tied to the embeddings.
    corpus
        Training cells.
    seed
        Of the randomised singular value decomposition.
    """
    vocabulary, width = corpus.vocabulary, model.config.hidden_size
    n_waves = width // 8 * 2
    together = gene_components(corpus, n_components=width - n_waves, seed=seed)
    medians = median_waves(vocabulary.medians[vocabulary.n_special :], n_waves)
    with torch.no_grad():
        genes = model.bert.embeddings.word_embeddings.weight[vocabulary.n_special :]
        genes[:, : together.shape[1]] = torch.from_numpy(together)
        genes[:, width - n_waves :] = torch.from_numpy(medians)


def start_positions_at_waves(model: BertForMaskedLM, *, seed: int) -> None:
    """Set the position embeddings to sines and cosines (Vaswani et al. 2017), turned at random.

    Between two visible neighbours a hidden gene's count over median is nearly known, so the first thing to
    learn is to look at the neighbours. With waves a shift by one place is a linear map, which attention finds
    quickly; between random vectors it would be a table of a thousand entries. The random rotation spreads the
    waves over all dimensions, so that none of them covers those of the genes.
    """
    weight = model.bert.embeddings.position_embeddings.weight
    n_positions, width = weight.shape
    frequencies = np.geomspace(np.pi / n_positions, np.pi / 2, width // 2)
    angles = np.arange(n_positions)[:, None] * frequencies
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * np.sqrt(2) * _POSITION_SCALE
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, waves.shape[1])))
    with torch.no_grad():
        weight.copy_(torch.from_numpy(waves @ turn.T))


def median_waves(medians: np.ndarray, n_waves: int) -> np.ndarray:
    """Return sines and cosines of the genes' places in the order of medians, ``(n, n_waves)`` float32.

    Genes of neighbouring medians have similar rows, at 2^-1 to 2^6 waves over all genes. Scaled to a root
    mean square of 0.06.
    """
    place = np.argsort(np.argsort(medians, kind="stable"), kind="stable") / len(medians)
    angles = 2 * np.pi * place[:, None] * np.geomspace(0.5, 64.0, n_waves // 2)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return (waves * np.sqrt(2) * _SCALE).astype(np.float32)


def gene_components(corpus: Corpus, *, n_components: int, seed: int) -> np.ndarray:
    """Return coordinates of genes whose dot products follow how much more often than chance they co-occur.

    A cell holds a gene with weight 1 at its first rank falling to 0 at its last; the weights, divided by what
    the margins predict, are decomposed by singular values (correspondence analysis, Benzécri 1973), and each
    side takes the square root of the values. Rare genes are shrunk by adding the median gene's mass.

    Parameters
    ----------
    corpus
        Cells.
    n_components
        Wished for; fewer where the corpus is too small.
    seed
        Of the decomposition.

    Returns
    -------
    np.ndarray
        ``(V - specials, k)`` float32, scaled to a root mean square of 0.06; 0 for genes never seen.
    """
    from sklearn.utils.extmath import randomized_svd

    n_special, n_tokens = corpus.vocabulary.n_special, len(corpus.vocabulary)
    lengths = corpus.lengths.astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    weight = 1.0 - (np.arange(lengths.sum()) - starts) / np.repeat(lengths, lengths)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    tokens = corpus.input_ids.astype(np.int64)
    is_gene = tokens >= n_special
    table = sparse.csr_matrix(
        (weight[is_gene], (cells[is_gene], tokens[is_gene] - n_special)),
        shape=(len(lengths), n_tokens - n_special),
    )
    mass = np.asarray(table.sum(axis=0)).ravel()
    shrunk = mass + np.median(mass[mass > 0])
    rows = np.asarray(table.sum(axis=1)).ravel()
    scaled = sparse.diags(1 / np.sqrt(np.maximum(rows, 1e-12))) @ table @ sparse.diags(1 / np.sqrt(shrunk))
    n_found = min(n_components, min(scaled.shape) - 2)
    # The first component is the margins themselves: every gene with every gene.
    _, values, right = randomized_svd(scaled, n_components=n_found + 1, n_iter=4, random_state=seed)
    genes = right[1:].T * np.sqrt(values[1:]) / np.sqrt(shrunk)[:, None]
    seen = mass > 0
    genes[~seen] = 0.0  # rounding leaves 1e-17 there, which must not count as a length
    lengths_of = np.linalg.norm(genes, axis=1)
    largest = _LARGEST * np.median(lengths_of[seen])
    genes *= np.minimum(1.0, largest / np.maximum(lengths_of, 1e-12))[:, None]
    return (genes * (_SCALE / np.sqrt(np.mean(genes[seen] ** 2)))).astype(np.float32)

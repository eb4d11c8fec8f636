"""Where pretraining starts: what the corpus itself says of its genes, instead of random numbers.

A small model on few cells spends most of its steps learning how frequent genes are and which ones go
together. Both can be computed: the head's bias starts at the log frequencies, and the gene embeddings at a
correspondence analysis of cells × genes, so that training begins with what context adds. Only the training
corpus is read.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from transformers import BertForMaskedLM

from geneformer_grn.cells.corpus import Corpus

_SCALE = 0.06  # root mean square of the embeddings; positions start at 0.02: the gene outweighs its place
_LARGEST = 3.0  # in median lengths, the longest embedding: rare genes have the longest, and noisiest


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
    """Set the gene embeddings to a correspondence analysis of the corpus; special tokens stay random.

    Parameters
    ----------
    model
        Changed in place; its output weights are tied to the embeddings.
    corpus
        Training cells.
    seed
        Of the randomised singular value decomposition.
    """
    n_special, width = corpus.vocabulary.n_special, model.config.hidden_size
    genes = gene_components(corpus, n_components=width, seed=seed)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[n_special:, : genes.shape[1]] = torch.from_numpy(genes)


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
    lengths_of = np.linalg.norm(genes, axis=1)
    largest = _LARGEST * np.median(lengths_of[lengths_of > 0])
    genes *= np.minimum(1.0, largest / np.maximum(lengths_of, 1e-12))[:, None]
    return (genes * (_SCALE / np.sqrt(np.mean(genes[mass > 0] ** 2)))).astype(np.float32)

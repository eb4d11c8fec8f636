"""Where pretraining starts, against dense decompositions and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.genes.vocabulary import VocabularyMismatchError
from geneformer_grn.model.encoder import ModelConfig, new_model, save_checkpoint
from geneformer_grn.training.config import ModelSection
from geneformer_grn.training.initialization import (
    gene_components,
    median_waves,
    start_bias_at_frequencies,
    start_embeddings_at_components,
    start_positions_at_waves,
    starting_model,
)

BIAS = {"cls.predictions.bias", "cls.predictions.decoder.bias"}  # one tensor, two names
EMBEDDINGS = {"bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"}
POSITIONS = {"bert.embeddings.position_embeddings.weight"}
UNSEEN = 7  # column of the gene that no cell of the corpus holds


@pytest.fixture(scope="module")
def gappy_corpus(tiny_adata, tiny_vocabulary, tmp_path_factory) -> Corpus:
    """The tiny cells without one gene: what is never seen must not become NaN."""
    folder = tmp_path_factory.mktemp("gappy")
    cells = tiny_adata.copy()
    dense = cells.X.toarray()
    dense[:, UNSEEN] = 0
    cells.X = type(cells.X)(dense)
    cells.write_h5ad(folder / "cells.h5ad")
    return write_corpus([folder / "cells.h5ad"], folder / "corpus", tiny_vocabulary)


@pytest.fixture
def model(corpus):
    config = ModelConfig(n_layers=1, hidden_size=16, n_heads=2, ffn_size=32)
    return new_model(config, corpus.vocabulary, seed=3)


def dense_components(corpus: Corpus, n_components: int) -> np.ndarray:
    """Correspondence analysis cell by cell and with numpy's full decomposition."""
    n_special, n_tokens = corpus.vocabulary.n_special, len(corpus.vocabulary)
    table = np.zeros((len(corpus), n_tokens - n_special))
    for cell in range(len(corpus)):
        tokens = corpus.cell(cell).tolist()
        for place, token in enumerate(tokens):
            if token >= n_special:
                table[cell, token - n_special] = 1 - place / len(tokens)
    mass = table.sum(axis=0)
    shrunk = mass + np.median([value for value in mass if value > 0])
    _, values, right = np.linalg.svd(table / np.sqrt(np.outer(table.sum(axis=1), shrunk)))
    kept = slice(1, n_components + 1)
    genes = (right[kept] * np.sqrt(values[kept])[:, None]).T / np.sqrt(shrunk)[:, None]
    lengths = np.linalg.norm(genes, axis=1)
    longest = 3 * np.median(lengths[mass > 0])
    for row, length in zip(genes, lengths, strict=True):
        row *= min(1.0, longest / max(length, 1e-12))
    return genes * 0.06 / np.sqrt((genes[mass > 0] ** 2).mean())


def changed(before: dict[str, torch.Tensor], model) -> set[str]:
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def copy_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize(("n_components", "tolerance"), [(1, 0.02), (50, 1e-5)])
def test_components_are_those_of_a_dense_decomposition(gappy_corpus, n_components, tolerance):
    """Compared by dot products: a component's sign is free."""
    found = gene_components(gappy_corpus, n_components=n_components, seed=0)
    assert found.dtype == np.float32
    assert found.shape == (60, n_components)
    expected = dense_components(gappy_corpus, n_components)
    dots = expected @ expected.T
    np.testing.assert_allclose(found @ found.T, dots, atol=tolerance * np.abs(dots).max())
    assert not found[UNSEEN].any()
    tokens = np.unique(gappy_corpus.input_ids).astype(int) - gappy_corpus.vocabulary.n_special
    rows = found[tokens[tokens >= 0]].astype(np.float64)
    assert np.sqrt((rows**2).mean()) == pytest.approx(0.06, rel=1e-5)


def test_components_tell_genes_that_go_together(corpus):
    """In the tiny cells genes 0-14 are high in one group and 15-29 in the other."""
    genes = gene_components(corpus, n_components=8, seed=0)
    dots = genes @ genes.T
    assert min(dots[:15, :15].mean(), dots[15:30, 15:30].mean()) > 0.005
    assert dots[:15, 15:30].mean() < -0.005


def test_genes_never_seen_do_not_shorten_the_others(tiny_adata, tiny_vocabulary, tmp_path):
    """More than half of the vocabulary unseen: the longest embedding is measured by the seen genes alone."""
    cells = tiny_adata[:, 36:].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    corpus = write_corpus([tmp_path / "cells.h5ad"], tmp_path / "corpus", tiny_vocabulary)
    found = gene_components(corpus, n_components=20, seed=0)
    assert not found[:36].any()
    lengths = np.linalg.norm(found[36:], axis=1)
    assert lengths.max() > 1.2 * lengths.min()
    np.testing.assert_allclose(found @ found.T, _dots(dense_components(corpus, 20)), atol=1e-5)


def _dots(rows: np.ndarray) -> np.ndarray:
    return rows @ rows.T


def test_components_are_as_many_as_the_corpus_allows_and_repeat(corpus):
    found = gene_components(corpus, n_components=1000, seed=0)
    assert found.shape == (60, 58)
    np.testing.assert_array_equal(found, gene_components(corpus, n_components=1000, seed=0))


def test_median_waves_by_their_formula():
    medians = np.array([3.0, 1.0, 7.0, 2.0, 3.0])
    waves = median_waves(medians, 6)
    assert waves.dtype == np.float32
    for gene, place in enumerate([2, 0, 4, 1, 3]):  # equal medians keep their order
        for number, turns in enumerate([0.5, 0.5 * 128**0.5, 64.0]):
            angle = 2 * np.pi * turns * place / 5
            height = 0.06 * np.sqrt(2)
            assert waves[gene, number] == pytest.approx(height * np.sin(angle), abs=1e-6)
            assert waves[gene, 3 + number] == pytest.approx(height * np.cos(angle), abs=1e-6)
    assert np.sqrt((waves**2).mean()) == pytest.approx(0.06, rel=1e-5)


def test_genes_of_neighbouring_medians_have_similar_waves():
    medians = np.random.default_rng(0).gamma(2.0, size=400)
    waves = median_waves(medians, 32)[np.argsort(medians)]
    distance = [np.linalg.norm(waves[:-step] - waves[step:], axis=1).mean() for step in (1, 5, 100)]
    assert distance[0] < 0.5 * distance[2]
    assert distance[0] < distance[1]


def test_positions_are_turned_waves(model):
    before = copy_of(model)
    start_positions_at_waves(model, seed=0)
    assert changed(before, model) == POSITIONS
    found = model.bert.embeddings.position_embeddings.weight.detach().numpy().astype(np.float64)
    n_positions, width = found.shape
    frequencies = np.geomspace(np.pi / n_positions, np.pi / 2, width // 2)
    waves = np.array(
        [[wave(place * f) for wave in (np.sin, np.cos) for f in frequencies] for place in range(n_positions)]
    )
    # A turn keeps every dot product between positions; it does not keep the waves themselves.
    np.testing.assert_allclose(found @ found.T, 2 * 0.04**2 * waves @ waves.T, atol=1e-6)
    assert np.abs(found - np.sqrt(2) * 0.04 * waves).max() > 0.02
    assert np.sqrt((found**2).mean()) == pytest.approx(0.04, rel=1e-5)


def test_neighbouring_positions_are_more_alike_than_far_ones(model):
    start_positions_at_waves(model, seed=0)
    found = model.bert.embeddings.position_embeddings.weight.detach()
    near, middle, far = ((found[:-step] * found[step:]).sum(dim=1).mean() for step in (1, 3, 20))
    assert near > middle > far


def test_the_seed_chooses_the_turn(model):
    turns = []
    for seed in (0, 0, 1):
        start_positions_at_waves(model, seed=seed)
        turns.append(model.bert.embeddings.position_embeddings.weight.detach().clone())
    assert torch.equal(turns[0], turns[1])
    assert not torch.allclose(turns[0], turns[2], atol=1e-3)


def test_embeddings_hold_components_and_waves_and_specials_stay(model, corpus):
    before = copy_of(model)
    start_embeddings_at_components(model, corpus, seed=5)
    assert changed(before, model) == EMBEDDINGS
    weight = model.bert.embeddings.word_embeddings.weight
    assert weight.data_ptr() == model.cls.predictions.decoder.weight.data_ptr(), "still tied"
    n_special = corpus.vocabulary.n_special
    found = weight.detach().numpy()
    name = "bert.embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(found[:n_special], before[name][:n_special].numpy())
    np.testing.assert_array_equal(found[n_special:, :12], gene_components(corpus, n_components=12, seed=5))
    np.testing.assert_array_equal(
        found[n_special:, 12:], median_waves(corpus.vocabulary.medians[n_special:], 4)
    )


def test_bias_is_the_log_frequency_of_every_token(model, corpus):
    before = copy_of(model)
    start_bias_at_frequencies(model, corpus)
    assert changed(before, model) == BIAS
    n_special = corpus.vocabulary.n_special
    counts = dict.fromkeys(range(len(corpus.vocabulary)), 1)
    for cell in range(len(corpus)):
        for token in corpus.cell(cell).tolist():
            counts[token] += token >= n_special
    expected = np.log(np.array(list(counts.values())) / sum(counts.values()))
    np.testing.assert_allclose(model.cls.predictions.bias.detach().numpy(), expected, atol=1e-6)
    assert (expected[:n_special] == expected.min()).all()


def test_a_model_starts_at_a_checkpoints_weights_and_at_nothing_else(model, corpus, tmp_path):
    save_checkpoint(model, corpus.vocabulary, tmp_path / "before")
    settings = ModelSection(
        n_layers=1, hidden_size=16, n_heads=2, ffn_size=32,
        start_from=str(tmp_path / "before"), embeddings="components", positions="waves",
    )  # fmt: skip
    found = starting_model(settings, corpus, seed=99)
    assert found.training
    expected = model.state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_layers": 2}, r"n_layers 2 \(the checkpoint: 1\)"),
        ({"hidden_size": 32, "ffn_size": 64}, r"hidden_size 32 \(the checkpoint: 16\), ffn_size 64"),
        ({"activation": "relu"}, r"activation relu \(the checkpoint: gelu\)"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(change, told, model, corpus, tmp_path):
    save_checkpoint(model, corpus.vocabulary, tmp_path / "before")
    shape = {"n_layers": 1, "hidden_size": 16, "n_heads": 2, "ffn_size": 32}
    settings = ModelSection(**shape | change, start_from=str(tmp_path / "before"))
    with pytest.raises(ValueError, match=told):
        starting_model(settings, corpus, seed=0)


def test_a_checkpoint_of_another_vocabulary_is_refused(corpus):
    settings = ModelSection(start_from="mini")
    with pytest.raises(VocabularyMismatchError, match="the model mini has vocabulary"):
        starting_model(settings, corpus, seed=0)

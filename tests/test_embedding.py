"""Embeddings against per-cell loops, and against the reference method's outputs."""

import numpy as np
import pytest
import torch

from geneformer_grn.cells.batches import pack
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.opening import read_h5ad
from geneformer_grn.cells.ranking import RankedCells, model_input, rank_cells
from geneformer_grn.embedding import EmbedSettings, embed_cells, embed_cells_and_genes, embed_genes
from geneformer_grn.model.encoder import load_encoder


@pytest.fixture(scope="module")
def ranked(tiny_adata, tiny_vocabulary):
    return rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)


def states_of(encoder, ranked, cell, encoder_layer):
    """Input and states of one cell, run alone."""
    ids = model_input(ranked.cell(cell), encoder.vocabulary)
    return ids, encoder.hidden_states(pack([ids]), encoder_layer=encoder_layer).numpy()


@pytest.mark.parametrize("encoder_layer", [0, -1])
def test_cells_equal_each_cell_alone_in_input_order(tiny_encoder, ranked, encoder_layer):
    settings = {"encoder_layer": encoder_layer, "token_budget": 100}
    mean = embed_cells(tiny_encoder, ranked, EmbedSettings(**settings))
    cls = embed_cells(tiny_encoder, ranked, EmbedSettings(pooling="cls", **settings))
    assert mean.dtype == np.float32
    for cell in range(0, len(ranked), 7):
        ids, states = states_of(tiny_encoder, ranked, cell, encoder_layer)
        genes = ids >= tiny_encoder.vocabulary.n_special
        np.testing.assert_allclose(mean[cell], states[genes].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(cls[cell], states[0], atol=1e-5)


def test_genes_equal_the_mean_over_cells_and_are_nan_where_unseen(tiny_encoder, ranked):
    some = RankedCells(
        tokens=ranked.tokens[: ranked.offsets[3]], offsets=ranked.offsets[:4], n_counts=ranked.n_counts[:3]
    )
    found = embed_genes(tiny_encoder, some, EmbedSettings(token_budget=60))
    collected = {}
    for cell in range(3):
        ids, states = states_of(tiny_encoder, some, cell, -1)
        for token, state in zip(ids, states, strict=True):
            collected.setdefault(int(token), []).append(state)
    assert found.shape == (len(tiny_encoder.vocabulary), 32)
    assert len(collected) < len(found)
    for token, row in enumerate(found):
        if token in collected:
            np.testing.assert_allclose(row, np.mean(collected[token], axis=0), atol=1e-5)
        else:
            assert np.isnan(row).all()


def test_one_pass_gives_what_two_give(tiny_encoder, ranked):
    cells, genes = embed_cells_and_genes(tiny_encoder, ranked)
    np.testing.assert_array_equal(cells, embed_cells(tiny_encoder, ranked))
    np.testing.assert_array_equal(genes, embed_genes(tiny_encoder, ranked))


def test_a_cell_without_genes_is_nan(tiny_encoder):
    ranked = RankedCells(
        tokens=np.array([5, 6], dtype=np.uint16), offsets=np.array([0, 0, 2]), n_counts=np.ones(2)
    )
    found = embed_cells(tiny_encoder, ranked)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="pooling 'max' is unknown"):
        EmbedSettings(pooling="max")
    with pytest.raises(ValueError, match="token_budget must be at least 1"):
        EmbedSettings(token_budget=0)


@pytest.fixture(scope="module", params=["v1", "v2"])
def golden(request, golden_dir, tmp_path_factory):
    """The reference's random checkpoint imported, its cells ranked by us, and their names."""
    from geneformer_grn.workflows.import_geneformer import import_geneformer

    setting = request.param
    folder = tmp_path_factory.mktemp("golden") / setting
    weights = golden_dir / "models" / f"{setting}_3L64"
    import_geneformer(golden_dir / "dictionaries", setting, folder, weights=weights)
    encoder = load_encoder(folder, device="cpu")
    counts = read_counts(read_h5ad(golden_dir / "pbmc400.h5ad"), encoder.vocabulary)
    row_of = {name: row for row, name in enumerate(counts.obs["cell_id"].astype(str))}
    return golden_dir / setting, encoder, rank_cells(counts, encoder.vocabulary), row_of


def chosen_cells(ranked, rows):
    parts = [ranked.cell(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return RankedCells(tokens=np.concatenate(parts), offsets=offsets, n_counts=ranked.n_counts[rows])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["emb_cell_layer0", "emb_cell_layer-1", "emb_cls_layer0", "emb_cls_layer-1"])
def test_cell_embeddings_equal_the_reference(golden, name):
    folder, encoder, ranked, row_of = golden
    path = folder / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the reference has no {name} for {folder.name}")
    with np.load(path) as expected:
        cells = chosen_cells(ranked, [row_of[cell] for cell in expected["cell_id"]])
        settings = EmbedSettings(
            pooling="cls" if "cls" in name else "mean", encoder_layer=int(name.partition("layer")[2])
        )
        found = embed_cells(encoder, cells, settings)
        np.testing.assert_allclose(found, expected["emb"], atol=1e-5, rtol=0)


@pytest.mark.shared
def test_gene_embeddings_equal_the_reference(golden):
    folder, encoder, ranked, row_of = golden
    path = folder / "gene_emb_mean12_layer-1.npz"
    if not path.is_file():
        pytest.skip(f"the reference has no gene embeddings for {folder.name}")
    with np.load(path) as expected:
        cells = chosen_cells(ranked, [row_of[cell] for cell in expected["cells"]])
        found = embed_genes(encoder, cells)
        tokens = [encoder.vocabulary.token_of[gene] for gene in expected["gene"]]
        np.testing.assert_allclose(found[tokens], expected["emb"], atol=1e-5, rtol=0)
        assert np.isnan(np.delete(found, tokens, axis=0)).all()


@pytest.mark.shared
def test_cls_is_refused_where_the_vocabulary_has_none(golden):
    folder, encoder, ranked, _ = golden
    if folder.name == "v2":
        pytest.skip("v2 has <cls>")
    with pytest.raises(ValueError, match="needs a <cls> token"):
        embed_cells(encoder, ranked, EmbedSettings(pooling="cls"))


@pytest.mark.gpu
def test_cuda_embeddings_equal_those_of_the_cpu(tiny_checkpoint, tiny_encoder, ranked):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    expected = embed_cells(tiny_encoder, ranked)
    found = embed_cells(load_encoder(tiny_checkpoint, device="cuda"), ranked)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rough = embed_cells(load_encoder(tiny_checkpoint, device="cuda", precision="bf16"), ranked)
    np.testing.assert_allclose(rough, expected, atol=0.1)

"""``evaluate embeddings``: the cells that are scored, all embeddings, one sentence of truth."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest

from geneformer_grn.embedding import EmbedSettings, embed_cells
from geneformer_grn.evaluation import integration
from geneformer_grn.workflows import evaluate_embeddings as room
from geneformer_grn.workflows.evaluate_embeddings import EvaluateEmbeddingsSettings, evaluate_embeddings

SETTINGS = EvaluateEmbeddingsSettings(label="cell_type", batch="batch", n_halves=2, device="cpu")


@pytest.fixture
def two_batches(tiny_adata):
    """80 cells in two batches, five of them without a label."""
    adata = tiny_adata.copy()
    adata.obs["batch"] = np.tile(["x", "y"], 40)
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[:5] = None
    adata.obs["cell_type"] = labels
    return adata


@pytest.fixture
def cheap(monkeypatch):
    """Measures of the embedding's own mean; scib-metrics itself is tested beside its oracle."""

    def measures(embedding, data, *, n_neighbours):
        names = (*integration.BIO, *integration.BATCH, *integration.SUMMARIES)
        return dict.fromkeys(names, float(np.abs(embedding).mean()))

    monkeypatch.setattr(integration, "integration_measures", measures)


@pytest.mark.usefixtures("cheap")
def test_what_is_scored(two_batches, tiny_encoder, tmp_path):
    out = tmp_path / "results.json"
    found = evaluate_embeddings(two_batches, SETTINGS, model=tiny_encoder, out=out)
    assert found["n_cells"] == 75
    assert found["n_left_out"] == 5
    assert found["labels"] == {"A": 35, "B": 40}
    assert list(found["scores"]) == list(room.TITLES)
    # Harmony may find nothing to correct here, and the tiny model's weights are random themselves.
    assert found["scores"]["model"]["total"] != found["scores"]["hvg_pca"]["total"]
    written = json.loads(out.read_text())
    assert written["scores"] == found["scores"]
    assert written["versions"]["scib-metrics"]
    table = room.embeddings_table(found)
    assert all(f"| {title} |" in table for title in room.TITLES.values())
    assert found["verdict"] in table


def test_embeddings_are_of_the_drawn_cells(two_batches, tiny_encoder):
    """The model's rows are those of the same cells embedded at once, also where a sample is drawn."""
    from dataclasses import replace

    from geneformer_grn.cells.counts import read_counts
    from geneformer_grn.cells.ranking import rank_cells

    counts = read_counts(two_batches, tiny_encoder.vocabulary)
    embedded = room.embed_for_scoring(counts, tiny_encoder, replace(SETTINGS, n_cells=64))
    assert len(embedded.rows) == 64
    assert embedded.rows.min() >= 5
    every = embed_cells(tiny_encoder, rank_cells(counts, tiny_encoder.vocabulary), EmbedSettings())
    np.testing.assert_allclose(embedded.embeddings["model"], every[embedded.rows], atol=1e-5)
    assert embedded.data.labels.tolist() == two_batches.obs["cell_type"].iloc[embedded.rows].tolist()
    # Harmony brings the batches' means closer than they were.
    shifted = embedded.embeddings["hvg_pca"] + 3.0 * (embedded.data.batches == "x")[:, None]
    corrected = integration.harmonised(shifted, embedded.data.batches)
    assert corrected.shape == shifted.shape

    def gap(values):
        x = embedded.data.batches == "x"
        return np.linalg.norm(values[x].mean(axis=0) - values[~x].mean(axis=0))

    assert gap(corrected) < 0.5 * gap(shifted)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.2, "beats"), (-0.2, -0.1, "is beaten by"), (-0.1, 0.1, "cannot be told from")],
)
def test_verdict(low, high, said):
    gap = {"total": {"difference": (low + high) / 2, "low": low, "high": high}}
    sentence = room.verdict({"hvg_pca": gap, "hvg_pca_harmony": gap})
    assert sentence.count(said) == 2
    bare = room.verdict({name: {"total": {"difference": -0.1}} for name in ("hvg_pca", "hvg_pca_harmony")})
    assert bare.count("scores below") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "typo"}, "no obs column 'typo'"),
        ({"batch": "cell_type", "label": "batch", "min_cells": 41}, "too few"),
        ({"batch": "only"}, "same batch"),
    ],
)
def test_one_message_for_what_cannot_be_scored(two_batches, tiny_encoder, change, said):
    two_batches.obs["only"] = "one"
    settings = EvaluateEmbeddingsSettings(
        **{"label": "cell_type", "batch": "batch", "device": "cpu"} | change
    )
    with pytest.raises(ValueError, match=said):
        evaluate_embeddings(two_batches, settings, model=tiny_encoder)


def test_one_column_is_not_both():
    with pytest.raises(ValueError, match="same column"):
        EvaluateEmbeddingsSettings(label="a", batch="a")


@pytest.mark.slow
def test_figure_and_file_with_every_embedding(two_batches, tiny_encoder, tmp_path):
    figure, h5ad = tmp_path / "maps.png", tmp_path / "out.h5ad"
    evaluate_embeddings(two_batches, SETTINGS, model=tiny_encoder, figure=figure, h5ad=h5ad)
    assert figure.read_bytes().startswith(b"\x89PNG")
    stored = anndata.read_h5ad(h5ad)
    assert stored.n_obs == 75
    for name in room.TITLES:
        for key, width in ((f"X_umap_{name}", 2), (f"X_tsne_{name}", 2)):
            assert stored.obsm[key].shape == (75, width)
            assert np.isfinite(stored.obsm[key]).all()
        assert len(stored.obsm[f"X_{name}"]) == 75

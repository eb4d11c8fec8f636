"""All methods by name: one signature, one set of pairs, the settings that were asked for."""

import numpy as np
import pytest

from geneformer_grn.extraction.attention import AttentionSettings, attention_edges
from geneformer_grn.extraction.methods import METHODS, score_with_model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_the_same_pairs(tiny_encoder, ranked, genes, method):
    changes = {"cells_per_regulator": 6} if method in {"influence", "gene_shifts"} else {}
    pairs = score_with_model(
        method, tiny_encoder, ranked, regulators=genes[0], targets=genes[1], cells=np.arange(20),
        min_support=2, token_budget=500, **changes,
    )  # fmt: skip
    ids = tiny_encoder.vocabulary.ensembl_ids
    assert pairs.method == method
    assert pairs.regulators.tolist() == ids[genes[0]].tolist()
    assert pairs.targets.tolist() == ids[genes[1]].tolist()
    assert pairs.weights.dtype == np.float32
    assert pairs.support.dtype == np.int32
    assert not pairs.scored[np.equal.outer(*genes)].any()
    assert pairs.scored[pairs.support < 2].sum() == 0
    assert pairs.scored.mean() > 0.8
    assert pairs.signed or (pairs.weights[pairs.scored] >= 0).all()


def test_settings_arrive(tiny_encoder, ranked, genes):
    call = {"regulators": genes[0], "targets": genes[1]}
    expected = attention_edges(
        tiny_encoder, ranked, settings=AttentionSettings(heads=((1, 1),), direction="both"), **call
    )
    found = score_with_model("attention", tiny_encoder, ranked, heads=((1, 1),), direction="both", **call)
    np.testing.assert_array_equal(found.weights, expected.weights)


def test_bad_calls(tiny_encoder, ranked, genes):
    call = {"regulators": genes[0], "targets": genes[1]}
    with pytest.raises(ValueError, match="method 'saliency' is not available; choose one of attention, "):
        score_with_model("saliency", tiny_encoder, ranked, **call)
    with pytest.raises(ValueError, match="embedding has no setting heads; it has encoder_layer, centred"):
        score_with_model("embedding", tiny_encoder, ranked, heads="all", **call)

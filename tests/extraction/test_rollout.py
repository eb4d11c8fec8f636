"""Rollout against the product of full matrices, as published."""

import numpy as np
import pytest

from geneformer_grn.extraction import streaming
from geneformer_grn.extraction.rollout import RolloutSettings, rollout_edges


@pytest.mark.parametrize(
    ("n_layers", "residual", "chunk"), [("all", 0.5, 1 << 22), (1, 0.5, 400), (2, 0.2, 400)]
)
def test_rollout_equals_the_product_of_matrices(
    tiny_encoder, ranked, genes, mean_over_cells, n_layers, residual, chunk, monkeypatch
):
    monkeypatch.setattr(streaming, "SCORES_PER_CHUNK", chunk)

    def reading(ids, matrices):
        rolled = np.eye(len(ids))
        for layer in matrices[: 2 if n_layers == "all" else n_layers]:
            rolled = (residual * np.eye(len(ids)) + (1 - residual) * layer.mean(axis=0)) @ rolled
        np.testing.assert_allclose(rolled.sum(axis=1), 1.0, rtol=1e-5)
        return rolled[None] * len(ids)

    weights, support = mean_over_cells(reading)
    pairs = rollout_edges(
        tiny_encoder, ranked, regulators=genes[0], targets=genes[1],
        settings=RolloutSettings(n_layers=n_layers, residual=residual, min_support=3, token_budget=150),
    )  # fmt: skip
    np.testing.assert_allclose(pairs.weights, weights[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(pairs.support, support)
    assert not pairs.signed


def test_bad_calls(tiny_encoder, ranked, genes):
    with pytest.raises(ValueError, match="rollout through 3 layers: this model has 2"):
        rollout_edges(
            tiny_encoder, ranked, regulators=genes[0], targets=genes[1], settings=RolloutSettings(n_layers=3)
        )
    with pytest.raises(ValueError, match=r"at least 0 and below 1, got 1.0"):
        RolloutSettings(residual=1.0)
    with pytest.raises(ValueError, match="at least 1"):
        RolloutSettings(min_support=0)

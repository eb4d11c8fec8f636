"""The graph autoencoder against numpy written out, finite differences, and planted blocks."""

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.network import graph_autoencoder
from geneformer_grn.network.graph_autoencoder import (
    AutoencoderSettings,
    Graph,
    graph_autoencoder_edges,
    logits,
    loss_of,
    normalised,
    train,
)

GENES = np.array([f"G{i}" for i in range(9)], dtype=object)
REGULATORS, TARGETS = ["G6", "G0", "G3"], ["G1", "G0", "G5", "G2", "G3"]
ROWS, COLUMNS = np.array([6, 0, 3]), np.array([1, 0, 5, 2, 3])
QUICK = AutoencoderSettings(hidden=8, latent=4, epochs=60, rate=0.05)


@pytest.fixture(scope="module")
def graph() -> Graph:
    generator = np.random.default_rng(0)
    strength = generator.random((3, 5))
    counted = ROWS[:, None] != COLUMNS
    strength[~counted] = 0.0
    return Graph(
        features=generator.normal(size=(9, 3)),
        adjacency=normalised(strength, ROWS, COLUMNS, 9),
        strength=strength,
        counted=counted,
        rows=ROWS,
        columns=COLUMNS,
    )


def written_out(graph: Graph, parameters: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Log-odds and loss, one gene and one pair at a time."""
    first, as_regulator, as_target, bias = parameters
    genes = range(len(graph.adjacency))

    def averaged(values: list[np.ndarray]) -> list[np.ndarray]:
        return [sum(graph.adjacency[i, j] * values[j] for j in genes) for i in genes]

    hidden = [np.maximum(value, 0) for value in averaged([x @ first for x in graph.features])]
    sources = averaged([h @ as_regulator for h in hidden])
    sinks = averaged([h @ as_target for h in hidden])
    odds = np.array([[sources[i] @ sinks[j] + bias for j in graph.columns] for i in graph.rows])
    losses = []
    for i, j in np.argwhere(graph.counted):
        p, y = 1 / (1 + np.exp(-odds[i, j])), graph.strength[i, j]
        losses.append(-y * np.log(p) - (1 - y) * np.log(1 - p))
    return odds, float(np.mean(losses))


def test_log_odds_loss_and_gradient(graph):
    import torch

    generator = np.random.default_rng(1)
    parameters = [generator.normal(size=shape) for shape in [(3, 4), (4, 2), (4, 2), ()]]
    tensors = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in parameters]
    odds, loss = written_out(graph, parameters)
    np.testing.assert_allclose(logits(graph, tensors).detach().numpy(), odds, atol=1e-12)
    found = loss_of(logits(graph, tensors), graph)
    assert found.item() == pytest.approx(loss, rel=1e-12)
    found.backward()
    for which in range(3):
        for place in np.ndindex(parameters[which].shape):
            values = []
            for step in (1e-6, -1e-6):
                moved = [value.copy() for value in parameters]
                moved[which][place] += step
                values.append(written_out(graph, moved)[1])
            slope = (values[0] - values[1]) / 2e-6
            assert tensors[which].grad[place].item() == pytest.approx(slope, abs=1e-7)


def test_the_matrix_that_averages(graph):
    joined = np.eye(9)
    for i, row in enumerate(ROWS):
        for j, column in enumerate(COLUMNS):
            joined[row, column] = max(joined[row, column], graph.strength[i, j])
            joined[column, row] = max(joined[column, row], graph.strength[i, j])
    # regulators 0 and 3 are targets of each other: the stronger direction counts
    both = max(graph.strength[1, 4], graph.strength[2, 1])
    assert joined[0, 3] == joined[3, 0] == both
    degree = joined.sum(axis=1)
    expected = joined / np.sqrt(np.outer(degree, degree))
    np.testing.assert_allclose(graph.adjacency, expected, atol=1e-12)


def test_training_lowers_the_loss(graph):
    import torch

    def loss(edges: np.ndarray) -> float:
        return loss_of(torch.logit(torch.from_numpy(edges)), graph).item()

    losses = [
        loss(train(graph, AutoencoderSettings(hidden=16, latent=8, epochs=n, rate=0.02), seed=0))
        for n in (1, 30, 400)
    ]
    assert losses[0] > losses[1] > losses[2]
    y = graph.strength[graph.counted]
    entropy = float(np.mean(-y * np.log(y) - (1 - y) * np.log(1 - y)))
    assert entropy - 1e-9 <= losses[2] < entropy + 0.1


def test_planted_blocks_are_found():
    """Two regulators, each with a programme of its own; a third is noise."""
    generator = np.random.default_rng(2)
    cells = generator.normal(size=(300, 9))
    for target in (3, 4, 5):
        cells[:, target] += cells[:, 0]
    for target in (6, 7, 8):
        cells[:, target] -= cells[:, 1]
    pairs = graph_autoencoder_edges(cells, GENES, regulators=["G0", "G1", "G2"], targets=list(GENES[3:]))
    inside = np.zeros((3, 6), dtype=bool)
    inside[0, :3] = inside[1, 3:] = True
    assert pairs.weights[inside].min() > 2 * pairs.weights[~inside].max()
    assert ((pairs.weights >= 0) & (pairs.weights <= 1)).all()
    assert not pairs.signed
    assert pairs.method == "graph_autoencoder"


def test_seeds_sparse_cells_and_genes_that_do_not_vary():
    cells = np.maximum(np.random.default_rng(3).normal(size=(60, 9)), 0.0)
    cells[:, 1] = 0.0
    call = {"regulators": REGULATORS, "targets": TARGETS, "settings": QUICK}
    pairs = graph_autoencoder_edges(cells, GENES, **call)
    again = graph_autoencoder_edges(sparse.csr_matrix(cells), GENES, **call)
    np.testing.assert_allclose(pairs.weights, again.weights, atol=1e-6)
    other = graph_autoencoder_edges(cells, GENES, **call, seed=1)
    assert not np.allclose(pairs.weights, other.weights, atol=1e-3, equal_nan=True)
    unscored = (ROWS[:, None] == COLUMNS) | (COLUMNS == 1)
    np.testing.assert_array_equal(np.isnan(pairs.weights), unscored)
    present = cells > 0
    for i, row in enumerate(ROWS):
        for j, column in enumerate(COLUMNS):
            assert pairs.support[i, j] == (present[:, row] & present[:, column]).sum()
    none = graph_autoencoder_edges(cells, GENES, regulators=["G1"], targets=["G0"])
    assert np.isnan(none.weights).all()


def test_bad_calls(monkeypatch):
    cells = np.random.default_rng(4).normal(size=(30, 9))
    for wrong in ({"hidden": 0}, {"latent": 0}, {"epochs": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            AutoencoderSettings(**wrong)
    with pytest.raises(ValueError, match="the rate must be positive"):
        AutoencoderSettings(rate=0)
    monkeypatch.setattr(graph_autoencoder, "MAX_GENES", 5)
    with pytest.raises(ValueError, match=r"at most 5 regulators and targets; got 6\. Use fewer targets"):
        graph_autoencoder_edges(cells, GENES, regulators=REGULATORS, targets=TARGETS)

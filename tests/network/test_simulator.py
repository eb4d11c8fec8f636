"""The Langevin equation: closed forms, a plain Euler-Maruyama loop, what shared random numbers promise."""

import numpy as np
import pytest
from scipy import linalg, stats

from geneformer_grn.network.simulator import LangevinSettings, simulate_cells
from geneformer_grn.network.simulator_network import Conditions, RegulatoryNetwork, steady_state
from geneformer_grn.network.topologies import TopologySettings, draw_edges

NO_EDGES = np.zeros(0, dtype=np.int64)


def alone(basal, decay=0.8):
    return RegulatoryNetwork(
        genes=np.array([f"g{i}" for i in range(np.shape(basal)[-1])]), source=NO_EDGES, target=NO_EDGES,
        weight=np.zeros(0), basal=np.atleast_2d(basal), decay=decay,
    )  # fmt: skip


def chain(weights, basal, **more):
    n = len(weights) + 1
    return RegulatoryNetwork(
        genes=np.array([f"g{i}" for i in range(n)]), source=np.arange(n - 1), target=np.arange(1, n),
        weight=np.array(weights, dtype=float), basal=np.atleast_2d([basal] + [0.0] * (n - 1)), **more,
    )  # fmt: skip


def drawn(seed, n_genes=60):
    settings = TopologySettings(n_genes=n_genes, n_regulators=15)
    generator = np.random.default_rng(seed)
    edges = draw_edges(settings, generator)
    basal = np.zeros((2, n_genes))
    basal[:, : settings.n_masters] = generator.uniform(1.0, 5.0, (2, settings.n_masters))
    return RegulatoryNetwork(
        genes=np.array([f"g{i}" for i in range(n_genes)]), source=edges.source, target=edges.target,
        weight=edges.sign * edges.strength, basal=basal,
    )  # fmt: skip


def untouched(network):
    return Conditions(basal=network.basal, factor=np.ones_like(network.basal))


def run(network, n_cells=200, *, first=0, conditions=None, seed=0, **settings):
    conditions = conditions or untouched(network)
    number = np.arange(first, first + n_cells)
    return simulate_cells(
        network, conditions, number % len(conditions.basal), number, seed=seed,
        settings=LangevinSettings(**settings),
    )  # fmt: skip


def test_without_noise_cells_are_at_the_steady_state():
    network = drawn(0)
    cells = run(network, 10, noise=0.0)
    expected = steady_state(network, untouched(network)).astype(np.float32)
    np.testing.assert_allclose(cells[0::2], np.tile(expected[0], (5, 1)), rtol=1e-6)
    np.testing.assert_allclose(cells[1::2], np.tile(expected[1], (5, 1)), rtol=1e-6)


@pytest.mark.parametrize(("noise", "step"), [(1.0, 0.1), (0.5, 0.1), (1.0, 0.5)])
def test_an_unregulated_gene_has_the_closed_mean_and_variance(noise, step):
    """Mean b/λ and variance q² b/λ at any length of step; 20 genes so far from 0 that none is cut off."""
    n, mean = 4_000, 60.0 / np.linspace(0.5, 1.0, 20)
    network = alone(np.full(20, 60.0), decay=np.linspace(0.5, 1.0, 20))
    cells = run(network, n, noise=noise, step=step).astype(float)
    z = (cells.mean(axis=0) - mean) / np.sqrt(noise**2 * mean / n)
    assert np.abs(z).max() < 4
    assert 0.4 < z.std() < 1.6
    fano = cells.var(axis=0, ddof=1) / (noise**2 * mean)
    assert np.abs(fano - 1).max() < 4 * np.sqrt(2 / n)
    assert np.abs(np.corrcoef(cells.T) - np.eye(20)).max() < 4.5 / np.sqrt(n)


@pytest.mark.parametrize("weights", [[300.0, 200.0], [-300.0, 200.0], [300.0, -200.0]])
def test_a_cascade_has_the_covariance_of_the_linear_noise_approximation(weights):
    """J C + C Jᵀ + D = 0 with D = 2 q² P, where levels are high and fluctuations small."""
    network = chain(weights, 150.0)
    x = steady_state(network, untouched(network))[0]
    slope = np.zeros((3, 3))
    for gene, weight in enumerate(weights):
        half, level = network.half[gene] ** 2, x[gene]
        slope[gene + 1, gene] = weight * 2 * level * half / (half + level**2) ** 2
    jacobian = slope - 0.8 * np.eye(3)
    expected = linalg.solve_continuous_lyapunov(jacobian, -np.diag(2 * 0.8 * x) * 0.25)
    cells = run(network, 20_000, noise=0.5, step=0.05).astype(float)
    np.testing.assert_allclose(cells.mean(axis=0), x, rtol=0.01)
    found = np.cov(cells.T)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=0.04)


def euler_maruyama(network, n, dt, duration):
    """The published scheme, two noise terms and all, one small step after the other."""
    generator = np.random.default_rng(5)
    x = np.tile(steady_state(network, untouched(network))[0], (n, 1))
    half = network.half**network.hill
    for _ in range(int(duration / dt)):
        rate = np.tile(network.basal[0], (n, 1))
        for source, target, weight in zip(network.source, network.target, network.weight, strict=True):
            hill = x[:, source] ** 2 / (half[source] + x[:, source] ** 2)
            rate[:, target] += weight * hill if weight > 0 else -weight * (1 - hill)
        first, second = generator.standard_normal((2, *x.shape)) * np.sqrt(dt)
        x = x + (rate - 0.8 * x) * dt + np.sqrt(rate) * first + np.sqrt(0.8 * x) * second
        x = np.maximum(x, 0.0)
    return x


def test_few_molecules_agree_with_the_published_scheme_in_small_steps():
    network = chain([4.0, -3.0, 5.0], 3.0)
    n = 6_000
    slow, fast = euler_maruyama(network, n, 0.02, 12.0), run(network, n).astype(float)
    error = np.sqrt((slow.var(axis=0) + fast.var(axis=0)) / n)
    np.testing.assert_array_less(np.abs(slow.mean(axis=0) - fast.mean(axis=0)), 4 * error + 0.02)
    np.testing.assert_allclose(fast.std(axis=0), slow.std(axis=0), rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(fast.T), np.corrcoef(slow.T), atol=0.06)


@pytest.mark.parametrize("factor", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_perturbation_moves_descendants_only(seed, factor):
    """With the same streams every other gene of every cell is the same to the last bit."""
    network = drawn(seed)
    before = run(network, 40)
    reach = [np.isfinite(network.distances(gene)).sum() for gene in network.regulators]
    for gene in (network.regulators[np.argmax(reach)], network.regulators[np.argmin(reach)]):
        changed = np.ones_like(network.basal)
        changed[:, gene] = factor
        after = run(network, 40, conditions=Conditions(basal=network.basal, factor=changed))
        below = np.isfinite(network.distances(gene))
        assert below.sum() < network.n_genes
        assert np.array_equal(after[:, ~below], before[:, ~below])
        moved = (after != before).any(axis=0)
        assert moved[below].all()
        assert (after[:, gene] == 0).all() if factor == 0 else after[:, gene].mean() > before[:, gene].mean()


@pytest.mark.parametrize(("weight", "sign"), [(5.0, 1), (-5.0, -1)])
def test_the_sign_of_an_edge_shows_in_the_correlation(weight, sign):
    cells = run(chain([weight], 5.0), 2_000)
    assert sign * np.corrcoef(cells.T)[0, 1] > 0.2


def test_neither_threads_nor_company_matter():
    network = drawn(1)
    whole = run(network, 600, threads=1)
    assert np.array_equal(whole, run(network, 600, threads=3))
    assert np.array_equal(whole[300:310], run(network, 10, first=300))
    some = np.array([7, 450, 3])
    again = simulate_cells(network, untouched(network), some % 2, some)
    assert np.array_equal(again, whole[some])


def test_seeds_and_streams_are_different_noise():
    network = alone(np.full(5, 20.0))
    cells = run(network, 500)
    assert np.array_equal(cells, run(network, 500))
    other = run(network, 500, seed=1)
    assert not np.isin(cells, other).any()
    assert len(np.unique(cells)) > 0.99 * cells.size
    assert abs(np.corrcoef(cells.ravel(), other.ravel())[0, 1]) < 0.1


def test_normal_numbers_are_the_inverse_of_their_chances():
    from geneformer_grn.network.simulator_kernels import LANES, draw_normals

    states = np.arange(LANES, dtype=np.uint64)
    chance, noise = np.empty(LANES), np.empty(LANES)
    chances, numbers = np.empty((2, 5_000, LANES))
    for row in range(5_000):
        draw_normals(states, chance, noise)
        chances[row], numbers[row] = chance, noise
    np.testing.assert_allclose(numbers, stats.norm.ppf(chances), rtol=2e-9, atol=1e-12)
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 1e-3
    assert abs(numbers).max() > 3.5


def test_a_hill_exponent_other_than_two():
    network = chain([5.0], 5.0, hill=3.0)
    cells = run(network, 4, noise=0.0)
    np.testing.assert_allclose(cells, np.tile(steady_state(network, untouched(network)), (4, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": -1.0}, "amplitude of noise"),
        ({"step": 0.0}, "a step is above 0"),
        ({"step": 1.0, "duration": 0.5}, "no longer than the run"),
        ({"threads": 0}, "at least 1 thread"),
    ],
)
def test_impossible_runs_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LangevinSettings(**settings)

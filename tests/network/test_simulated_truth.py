"""Simulations as a whole: one seed one result, effects on descendants, a driver, depths, given networks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.network.simulated_conditions import control_conditions
from geneformer_grn.network.simulated_effects import EFFECT_COLUMNS
from geneformer_grn.network.simulated_network import BasalRates, network_of_table
from geneformer_grn.network.simulated_truth import SimulationSettings, recount, simulate
from geneformer_grn.network.simulator import LangevinSettings
from geneformer_grn.network.simulator_network import Conditions, RegulatoryNetwork, steady_state
from geneformer_grn.network.topologies import TopologySettings

SETTINGS = SimulationSettings(
    topology=TopologySettings(n_genes=60), n_cells=300, n_knockouts=8, n_overexpressed=2, perturbed_cells=60,
    driver="auto",
)  # fmt: skip


@pytest.fixture(scope="module")
def simulation():
    return simulate(SETTINGS, seed=4)


def test_the_same_seed_is_the_same_result(simulation):
    again = simulate(replace(SETTINGS, langevin=LangevinSettings(threads=1)), seed=4)
    other = simulate(SETTINGS, seed=5)
    pd.testing.assert_frame_equal(simulation.truth, again.truth)
    assert not simulation.truth.equals(other.truth)
    for one, two in (
        (simulation.cells, again.cells),
        (simulation.knockouts.cells, again.knockouts.cells),
        (simulation.overexpressed.cells, again.overexpressed.cells),
    ):
        assert (one.X != two.X).nnz == 0
        assert np.array_equal(one.layers["clean"], two.layers["clean"])
        pd.testing.assert_frame_equal(one.obs, two.obs)
    pd.testing.assert_frame_equal(simulation.knockouts.effects, again.knockouts.effects)


def test_more_perturbations_leave_the_cells_as_they_are(simulation):
    fewer = simulate(replace(SETTINGS, n_knockouts=0, n_overexpressed=None), seed=4)
    assert fewer.knockouts is None
    assert fewer.overexpressed.n_genes == 10
    assert (fewer.cells.X != simulation.cells.X).nnz == 0


def test_cells_are_dealt_to_types_and_states(simulation):
    sizes = simulation.cells.obs.value_counts(["cell_type", "state"])
    assert (sizes == 50).all()
    assert len(sizes) == 6
    assert simulation.facts["driver"] == simulation.driver


@pytest.mark.parametrize(("which", "kind"), [("knockouts", "knockout"), ("overexpressed", "overexpress")])
def test_effects_reach_descendants_only(simulation, which, kind):
    experiment, network = getattr(simulation, which), simulation.network
    effects = experiment.effects
    assert tuple(effects.columns) == EFFECT_COLUMNS
    assert len(effects) == experiment.n_genes * 6 * network.n_genes
    assert set(effects["kind"]) == {kind}
    for gene, part in effects.groupby("gene"):
        below = np.isfinite(network.distances(int(np.flatnonzero(network.genes == gene)[0])))
        assert set(part.loc[part["hop"] >= 0, "affected"]) == set(network.genes[below])
    apart = effects[effects["hop"] == -1]
    assert (apart[["effect", "effect_in_cells"]] == 0).all(axis=None)
    own = effects[effects["hop"] == 0]
    assert ((own["perturbed"] == 0) if kind == "knockout" else (own["perturbed"] > own["control"])).all()
    downstream = effects[effects["hop"] > 0]
    assert (downstream["effect"] != 0).mean() > 0.95
    # Noise bends what follows (regulation is curved), and hides little of it.
    mean = downstream.groupby(["gene", "affected"])[["effect", "effect_in_cells"]].mean()
    assert np.corrcoef(mean.T)[0, 1] > 0.9


def test_effects_are_the_differences_of_steady_states(simulation):
    network, effects = simulation.network, simulation.knockouts.effects
    conditions, labels = control_conditions(
        network, int(np.flatnonzero(network.genes == simulation.driver)[0]), SETTINGS.driver_factor
    )
    gene = effects["gene"].iloc[0]
    factor = conditions.factor.copy()
    factor[:, network.genes == gene] = 0
    lost = Conditions(basal=conditions.basal, factor=factor)
    expected = steady_state(network, lost) - steady_state(network, conditions)
    for row, group in enumerate(labels["group"]):
        chosen = effects[(effects["gene"] == gene) & (effects["group"] == group)]
        np.testing.assert_allclose(chosen["effect"], expected[row])
        np.testing.assert_array_equal(chosen["affected"], network.genes)


def test_paired_cells_differ_by_the_perturbation_alone(simulation):
    cells, network = simulation.knockouts.cells, simulation.network
    control = cells[cells.obs["perturbation"] == "control"]
    assert control.obs["kind"].eq("control").all()
    for gene in simulation.knockouts.effects["gene"].unique():
        lost = cells[cells.obs["perturbation"] == gene]
        for column in ("pair", "cell_type", "state"):
            assert lost.obs[column].tolist() == control.obs[column].tolist()
        place = int(np.flatnonzero(network.genes == gene)[0])
        apart = ~np.isfinite(network.distances(place))
        assert np.array_equal(lost.layers["clean"][:, apart], control.layers["clean"][:, apart])
        assert (lost.layers["clean"][:, place] == 0).all()
        assert lost.X[:, [place]].nnz == 0


def test_the_driver_makes_all_of_the_difference_between_states(simulation):
    network = simulation.network
    driver = int(np.flatnonzero(network.genes == simulation.driver)[0])
    reach = [np.isfinite(network.distances(gene)).sum() for gene in network.regulators]
    below = np.isfinite(network.distances(driver))
    assert below.sum() == max(reach)
    conditions, _ = control_conditions(network, driver, SETTINGS.driver_factor)
    levels = steady_state(network, conditions)
    assert np.array_equal(levels[0::2][:, ~below], levels[1::2][:, ~below])
    off = simulation.cells.obs["state"] == "off"
    clean = simulation.cells.layers["clean"][:, driver]
    assert clean[off].mean() < 0.3 * clean[~off].mean()


def test_genes_are_known_to_the_model_and_regulators_to_its_vocabulary(simulation):
    from geneformer_grn.cells.counts import read_counts
    from geneformer_grn.cells.ranking import rank_cells
    from geneformer_grn.genes.vocabulary import GeneVocabulary

    vocabulary = GeneVocabulary.load("human")
    counts = read_counts(simulation.cells, vocabulary)
    assert counts.matrix.shape == (300, 60)
    assert len(rank_cells(counts, vocabulary).offsets) == 301
    known = dict(zip(vocabulary.ensembl_ids, vocabulary.is_regulator, strict=True))
    assert all(known[gene] for gene in simulation.network.genes[simulation.network.regulators])
    assert sum(known[gene] for gene in simulation.network.genes) == 12
    assert list(simulation.cells.var_names) == sorted(simulation.cells.var_names)


def test_recounting_keeps_cells_and_changes_depth(simulation):
    depths = recount(simulation, [None, 5_000, 1_000, 100])
    assert list(depths) == ["clean", "5000", "1000", "100"]
    assert np.array_equal(depths["clean"].X, simulation.cells.layers["clean"])
    for name in ("5000", "1000", "100"):
        assert depths[name].X.sum(axis=1).mean() == pytest.approx(float(name), rel=0.1)
        pd.testing.assert_frame_equal(depths[name].obs, simulation.cells.obs)
    assert depths["100"].X.nnz < depths["1000"].X.nnz < depths["5000"].X.nnz
    again = recount(simulation, [1_000])["1000"]
    assert (again.X != depths["1000"].X).nnz == 0


def test_a_given_network_is_simulated_as_it_is(simulation):
    network = network_of_table(simulation.truth, BasalRates(n_types=2), np.random.default_rng(0))
    given = simulate(SimulationSettings(n_cells=50, n_knockouts=None), network=network)
    pd.testing.assert_frame_equal(given.truth, simulation.truth)
    assert given.cells.obs["cell_type"].nunique() == 2
    assert given.knockouts.n_genes == 10


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"source": ["A"], "target": ["B"]}, "sign is missing"),
        ({"source": ["A"], "target": ["B"], "sign": [0]}, "row 1 of the edges has no sign"),
        ({"source": ["A"], "target": ["B"], "sign": [1], "strength": [-2]}, "strength of an edge"),
        ({"source": ["A"], "target": ["A"], "sign": [1]}, "regulates itself"),
        ({"source": ["A", "A"], "target": ["B", "B"], "sign": [1, 1]}, "an edge occurs twice"),
        ({"source": ["A", "B"], "target": ["B", "A"], "sign": [1, 1]}, "no level at which they could act"),
    ],
)
def test_tables_that_cannot_be_simulated_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        network_of_table(pd.DataFrame(table), BasalRates(), np.random.default_rng(0))


def sergio_network(interactions, rates):
    """A network out of SERGIO's own files: gene, n, n regulators, n strengths, n exponents; master, rates."""
    lines = [
        [list(map(float, line.split(","))) for line in path.read_text().splitlines() if line.strip()]
        for path in (interactions, rates)
    ]
    edges, exponents = [], set()
    for gene, count, *rest in lines[0]:
        n = int(count)
        edges += [(int(rest[i]), int(gene), rest[n + i]) for i in range(n)]
        exponents |= set(rest[2 * n :])
    source, target, weight = map(np.array, zip(*edges, strict=True))
    masters = {int(line[0]): line[1:] for line in lines[1]}
    numbers = np.unique([*source, *target, *masters])
    basal = np.zeros((len(next(iter(masters.values()))), len(numbers)))
    for number, values in masters.items():
        basal[:, np.searchsorted(numbers, number)] = values
    (hill,) = exponents
    return RegulatoryNetwork(
        genes=numbers.astype(str).astype(object), source=np.searchsorted(numbers, source),
        target=np.searchsorted(numbers, target), weight=weight, basal=basal, hill=hill,
    )  # fmt: skip


@pytest.mark.shared
def test_cells_that_sergio_made_have_the_levels_of_our_steady_state(shared_dir):
    """Its cells of this set hold unspliced and spliced molecules, 1 to 4: five times the level."""
    folder = shared_dir / "data" / "grn" / "simulated" / "sergio"
    network = sergio_network(folder / "DS4__Interaction_cID_9.txt", folder / "DS4__Regs_cID_9.txt")
    truth = pd.read_csv(folder / "DS4__gt_GRN.csv", header=None, dtype=str)
    found = set(zip(network.genes[network.source], network.genes[network.target], strict=True))
    assert found == set(truth.itertuples(index=False, name=None))
    levels = steady_state(network, Conditions(basal=network.basal, factor=np.ones_like(network.basal)))
    theirs = pd.read_csv(folder / "DS4__simulated_noNoise_T_0.csv.gz", index_col=0)
    theirs = theirs.loc[network.genes.astype(int)]
    of_type = theirs.columns.str.split(".").str[0]
    for number, least in (("0", 0.999), ("1", 0.999), ("2", 0.95)):  # the last is still on its way
        mean = theirs.loc[:, of_type == number].mean(axis=1).to_numpy()
        assert np.corrcoef(mean, levels[int(number)])[0, 1] > least
    assert np.median(theirs.loc[:, of_type == "0"].mean(axis=1) / levels[0]) == pytest.approx(5, rel=0.01)

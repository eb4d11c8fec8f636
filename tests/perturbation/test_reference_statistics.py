"""The reference's statistics against its own output (golden set), scipy and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

from geneformer_grn.perturbation.engine import CELL_COLUMNS
from geneformer_grn.perturbation.reference_statistics import (
    AGAINST_NULL_COLUMNS,
    GOAL_STATE_COLUMNS,
    MIXTURE_COLUMNS,
    PSEUDO_REPLICATED,
    against_null,
    aggregate,
    goal_state,
    mixture,
    reference_tables,
)


def cells_table(shifts, *, readout="cell", state="", group="all"):
    """A cells table of gene -> shifts."""
    parts = [
        pd.DataFrame(
            {
                "cell_id": np.arange(len(values)),
                "gene": gene,
                "kind": "delete",
                "group": group,
                "readout": readout,
                "state": state,
                "cosine": 1.0 - np.asarray(values, dtype=float),
                "shift": np.asarray(values, dtype=float),
            }
        )
        for gene, values in shifts.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    assert table.columns.tolist() == list(CELL_COLUMNS)
    return table


@pytest.fixture
def drawn():
    """Shifts of 25 genes, some tied, some NaN; the last five are far stronger."""
    rng = np.random.default_rng(3)
    shifts = {}
    for number in range(25):
        values = rng.gamma(2.0, 0.01, size=rng.integers(4, 30)).round(3)
        values[rng.random(len(values)) < 0.1] = np.nan
        values[0] = 0.02
        if number >= 20:
            values += 0.4 + 0.02 * number
        shifts[f"G{number}"] = values
    return shifts


def known(values):
    return values[~np.isnan(values)]


@pytest.mark.shared
def test_goal_state_equals_the_reference(golden_dir):
    run = pd.read_parquet(golden_dir / "v1" / "isp_delete_all_states_short.parquet")
    table = pd.DataFrame(
        {
            "cell_id": 0,
            "gene": run["perturbed_tokens"].astype(str),
            "kind": "delete",
            "group": "all",
            "readout": "state",
            "state": run["state"],
            "cosine": run["cos"],
            "shift": run["cos"],
        }
    )
    ours = goal_state(table)
    reference = pd.read_csv(golden_dir / "v1" / "stats_goal_state.csv")
    reference["gene"] = reference["Gene"].astype(str)
    of_state = {"Mono": ("goal", ""), "B": ("alt", "_B"), "NK": ("alt", "_NK")}
    for state, (end, suffix) in of_state.items():
        both = ours[ours["state"] == state].merge(reference, on="gene", how="outer")
        assert len(both) == len(reference) == 508
        for column, name in (
            ("shift", f"Shift_to_{end}_end{suffix}"),
            ("p_value", f"{end.title()}_end_vs_random_pval{suffix}"),
            ("q_value", f"{end.title()}_end_FDR{suffix}"),
            ("n_cells", "N_Detections"),
        ):
            np.testing.assert_allclose(both[column], both[name], atol=1e-5, rtol=0)
    goal = ours.loc[ours["state"] == "Mono", "shift"]
    np.testing.assert_allclose(goal, reference["Shift_to_goal_end"], atol=1e-5)  # in the same order


@pytest.mark.shared
def test_aggregate_equals_the_reference(golden_dir):
    run = pd.read_parquet(golden_dir / "v1" / "isp_delete_H1_short.parquet")
    ours = aggregate(run.rename(columns={"perturbed_tokens": "gene", "cos": "cosine"}).drop(columns="state"))
    reference = pd.read_csv(golden_dir / "v1" / "stats_aggregate_gene_shifts.csv")
    both = ours.merge(reference, left_on="affected", right_on="Affected", how="outer")
    assert len(both) == len(reference) == len(ours)
    for column, name in (
        ("cosine", "Cosine_sim_mean"), ("sd", "Cosine_sim_stdev"), ("n_cells", "N_Detections"),
    ):  # fmt: skip
        np.testing.assert_allclose(both[column], both[name], atol=1e-5, rtol=0)


def test_goal_state_is_scipys_rank_sum(drawn):
    table = pd.concat(
        [
            cells_table(drawn, readout="state", state="goal"),
            cells_table({"G1": [0.9]}, readout="cell"),  # another readout does not count
        ],
        ignore_index=True,
    )
    found = goal_state(table)
    assert found.columns.tolist() == list(GOAL_STATE_COLUMNS)
    assert set(found["unit"]) == {PSEUDO_REPLICATED}
    assert found["shift"].is_monotonic_decreasing
    pool = known(np.concatenate(list(drawn.values())))
    for row in found.itertuples():
        values = known(drawn[row.gene])
        assert row.p_value == pytest.approx(stats.ranksums(values, pool).pvalue)
        assert (row.n_cells, row.n_pool) == (len(values), len(pool))
        assert row.shift == pytest.approx(values.mean())
    np.testing.assert_allclose(found["q_value"], stats.false_discovery_control(found["p_value"]))


def test_the_pool_is_sampled_where_it_is_large(drawn):
    table = cells_table(drawn, readout="state", state="goal")
    found = goal_state(table, pool=40, seed=1)
    assert set(found["n_pool"]) == {40}
    pd.testing.assert_frame_equal(found, goal_state(table, pool=40, seed=1))
    assert not np.allclose(found["p_value"], goal_state(table, pool=40, seed=2)["p_value"])


def test_groups_and_states_are_families_of_their_own(drawn):
    one = cells_table(drawn, readout="state", state="goal", group="a")
    other = cells_table({"G1": [0.1, 0.2], "G2": [0.3]}, readout="state", state="goal", group="b")
    found = goal_state(pd.concat([one, other]))
    pd.testing.assert_frame_equal(found[found["group"] == "a"], goal_state(one))
    assert set(found.loc[found["group"] == "b", "n_pool"]) == {3}


def test_against_null_is_scipys_rank_sum_gene_by_gene(drawn):
    rng = np.random.default_rng(0)
    null = {gene: rng.gamma(2.0, 0.01, 12) for gene in list(drawn)[1:]}
    found = against_null(cells_table(drawn), cells_table(null)).set_index("gene")
    assert ["gene", *found.columns] == list(AGAINST_NULL_COLUMNS)
    for gene, other in null.items():
        values, row = known(drawn[gene]), found.loc[gene]
        assert row["p_value"] == pytest.approx(stats.ranksums(values, other).pvalue)
        assert row["difference"] == pytest.approx(values.mean() - other.mean())
        assert (row["n_cells"], row["n_null_cells"]) == (len(values), 12)
    assert found.loc["G0", "n_null_cells"] == 0
    assert found.loc["G0", ["null_shift", "difference", "p_value", "q_value"]].isna().all()
    with pytest.raises(ValueError, match="none of the genes"):
        against_null(cells_table(drawn), cells_table(null, group="elsewhere"))


def test_against_itself_nothing_differs(drawn):
    found = against_null(cells_table(drawn), cells_table(drawn))
    np.testing.assert_allclose(found["p_value"], 1.0)
    np.testing.assert_allclose(found["difference"], 0.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_impact_is_the_larger_component_whatever_its_number(drawn, seed, unit):
    """The fit numbers its components by chance of the seed; knock-out shifts can be a millionth."""
    found = mixture(cells_table({gene: unit * values for gene, values in drawn.items()}), seed=seed)
    assert found.columns.tolist() == list(MIXTURE_COLUMNS)
    assert set(found.loc[found["impact"], "gene"]) == {f"G{number}" for number in range(20, 25)}
    means = np.array([known(values).mean() for values in drawn.values()])
    fitted = GaussianMixture(2, random_state=seed).fit(means[:, None] / means.std())
    strong = np.argmax(fitted.means_.ravel())
    weak_mean, strong_mean = np.sort(fitted.means_.ravel()) * means.std()
    for row in found.itertuples():
        impact = []
        for value in known(drawn[row.gene]):
            likelier = fitted.predict([[value / means.std()]])[0] == strong
            impact.append(value > strong_mean or (value >= weak_mean and likelier))
        assert row.impact_cells == pytest.approx(np.mean(impact))


def test_both_numberings_of_the_components_occur(drawn):
    means = np.array([known(values).mean() for values in drawn.values()])[:, None]
    first = {int(np.argmax(GaussianMixture(2, random_state=seed).fit(means).means_)) for seed in range(6)}
    assert first == {0, 1}


def test_nothing_to_split_is_no_impact():
    found = mixture(cells_table({"G1": [0.5, np.nan], "G2": [0.5]}))
    assert found["impact"].tolist() == [False, False]
    assert found["impact_cells"].isna().all()
    with pytest.raises(ValueError, match="no shift"):
        mixture(cells_table({"G1": [np.nan]}))


def test_aggregate_is_mean_and_population_deviation(drawn):
    found = aggregate(cells_table(drawn)).set_index("gene")
    for gene, values in drawn.items():
        cosines = 1 - known(values)
        assert found.loc[gene, "cosine"] == pytest.approx(cosines.mean())
        assert found.loc[gene, "sd"] == pytest.approx(np.std(cosines))
        assert found.loc[gene, "n_cells"] == len(cosines)
    assert found["cosine"].is_monotonic_increasing


def test_all_that_the_tables_allow(drawn):
    cells = cells_table(drawn)
    shifts = pd.DataFrame(
        {
            "gene": "G1",
            "affected": ["A", "B"],
            "kind": "delete",
            "group": "all",
            "shift": [0.1, 0.2],
            "n_cells": 3,
        }
    )
    assert list(reference_tables(cells)) == ["aggregate", "mixture"]
    towards = cells_table(drawn, readout="state", state="goal")
    every = reference_tables(pd.concat([cells, towards]), gene_shifts=shifts, null=cells)
    assert set(every) == {"aggregate", "mixture", "goal_state", "against_null", "aggregate_gene_shifts"}
    pairs = every["aggregate_gene_shifts"]
    assert pairs["affected"].tolist() == ["B", "A"]
    np.testing.assert_allclose(pairs["cosine"], [0.8, 0.9])
    assert pairs["sd"].isna().all()
    spread = reference_tables(cells, gene_shifts=shifts.assign(shift_sd=[0.3, 0.4]))
    assert spread["aggregate_gene_shifts"]["sd"].tolist() == [0.4, 0.3]
    assert reference_tables(cells_table({"G1": [np.nan]})) == {}


def test_what_is_missing_is_said(drawn):
    cells = cells_table(drawn)
    with pytest.raises(ValueError, match="start and a goal state"):
        goal_state(cells)
    for function in (goal_state, mixture, reference_tables, lambda table: against_null(table, cells)):
        with pytest.raises(ValueError, match="lacks shift; it has cell_id"):
            function(cells.drop(columns="shift"))
    with pytest.raises(ValueError, match="lacks cosine"):
        aggregate(cells.drop(columns="cosine"))

"""Effects against plain arithmetic on the cells table, and p-values under no effect."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation.effects import EFFECT_COLUMNS, effects_table, run_screen
from geneformer_grn.perturbation.engine import CELL_COLUMNS
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.screen import PerturbationPlan, Screen


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    rng = np.random.default_rng(5)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [rng.permutation(genes)[: rng.integers(15, 50)] for _ in range(30)]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    return RankedCells(tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(30))


def screen_of(values, *, n_tested, cells_per_gene):
    """A screen whose request i has the shifts `values[i]`, the first `n_tested` compared with the others."""
    n = len(values)
    requests = [
        Request(genes=(i + 5,), kind="delete", cells=np.arange(len(row)), is_null=i >= n_tested)
        for i, row in enumerate(values)
    ]
    nulls = {i: list(range(n_tested, n)) for i in range(n_tested)}
    screen = Screen(cells_per_gene=cells_per_gene, n_null=n - n_tested, requests=requests, nulls=nulls)
    flat = np.concatenate(values)
    cells = pd.DataFrame(
        {
            "readout": "cell",
            "state": "",
            "shift": flat,
            "request": np.repeat(np.arange(n), [len(row) for row in values]),
        }
    )
    return effects_table(screen, np.array([f"G{i}" for i in range(n)]), cells)


def test_effects_are_means_with_an_interval_and_a_rank_among_the_null():
    tested = [0.5, np.nan, 0.7, 0.9, 0.1]
    effects = screen_of(
        [tested, [0.6, 0.4], [0.2, 0.3], [np.nan, np.nan], [0.9]], n_tested=1, cells_per_gene=2
    )
    (row,) = effects.itertuples()
    assert effects.columns.tolist() == list(EFFECT_COLUMNS)
    assert (row.gene, row.kind, row.group, row.n_cells) == ("G0", "delete", "all", 4)
    assert row.shift == pytest.approx(np.nanmean(tested))
    assert 0.1 <= row.ci_low < row.shift < row.ci_high <= 0.9
    assert row.n_null == 3  # the one no cell holds is no null
    assert row.p_value == pytest.approx(2 / 4)  # the first two cells, 0.6, against 0.5, 0.25 and 0.9
    assert row.q_value == row.p_value


def test_genes_that_no_cell_holds_have_a_row_of_nan():
    effects = screen_of([[np.nan, np.nan], [0.3, 0.4]], n_tested=1, cells_per_gene=5)
    assert effects["n_cells"].tolist() == [0]
    assert effects[["shift", "ci_low", "ci_high", "p_value", "q_value"]].isna().all(axis=None)


def test_p_values_are_uniform_where_tested_genes_are_like_the_null():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(60):
        sizes = rng.integers(4, 15, size=30)
        shifts = [rng.gamma(2.0, rng.gamma(3.0), size=size) for size in sizes]  # a gene's own scale
        p += screen_of(shifts, n_tested=5, cells_per_gene=8)["p_value"].tolist()
    assert stats.kstest(p, "uniform").statistic < 0.12
    assert np.mean(np.array(p) <= 0.1) < 0.16


def test_a_screen_end_to_end(tiny_encoder, ranked):
    groups = np.repeat(["a", "b"], 15)
    genes = [7, 9, (20, 21)]
    plan = PerturbationPlan(cells_per_gene=4, n_null=5, seed=3)
    result = run_screen(tiny_encoder, ranked, groups, genes, plan)
    ids = tiny_encoder.vocabulary.ensembl_ids
    names = [ids[7], ids[9], f"{ids[20]}+{ids[21]}"]
    assert result.effects["gene"].tolist() == names * 2
    assert result.effects["group"].tolist() == ["a"] * 3 + ["b"] * 3
    assert result.cells.columns.tolist() == list(CELL_COLUMNS)
    assert set(result.cells["gene"]) == set(names)
    for row in result.effects.itertuples():
        part = result.cells[(result.cells["gene"] == row.gene) & (result.cells["group"] == row.group)]
        assert set(groups[part["cell_id"]]) == {row.group}
        assert row.n_cells == part["shift"].notna().sum() <= 4
        assert row.shift == pytest.approx(part["shift"].mean())
        assert 1 / 6 <= row.p_value <= row.q_value <= 1
    assert result.facts["n_passes"] <= result.facts["n_passes_planned"]
    assert result.gene_shifts is None
    again = run_screen(tiny_encoder, ranked, groups, genes, plan)
    pd.testing.assert_frame_equal(result.effects, again.effects)


def test_overexpression_within_a_bound(tiny_encoder, ranked):
    plan = PerturbationPlan(kind="overexpress", cells_per_gene=3, n_null=10, max_passes=60)
    result = run_screen(tiny_encoder, ranked, None, [np.int64(30)], plan)
    assert result.effects["kind"].tolist() == ["overexpress"]
    assert len(result.cells) == result.effects["n_cells"].sum()
    assert result.facts["n_passes"] <= 60


def test_states_give_two_sided_p_values(tiny_encoder, ranked):
    rng = np.random.default_rng(1)
    states = {"goal": rng.normal(size=32), "start": rng.normal(size=32)}
    result = run_screen(
        tiny_encoder, ranked, None, [30, 31], PerturbationPlan(n_null=6, cells_per_gene=3),
        settings=PerturbSettings(readouts=("state",)), states=states,
    )  # fmt: skip
    assert result.effects["state"].tolist() == ["goal", "goal", "start", "start"]
    assert set(result.effects["readout"]) == set(result.cells["readout"]) == {"state"}
    assert (result.effects["p_value"] >= 2 / 7).all()


def test_no_gene_is_refused(tiny_encoder, ranked):
    with pytest.raises(ValueError, match="no gene to perturb"):
        run_screen(tiny_encoder, ranked, None, [])

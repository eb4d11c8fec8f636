"""Effects against plain arithmetic on the cells table, and p-values under no effect."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.perturbation.effects import (
    EFFECT_COLUMNS,
    CellFacts,
    effects_summary,
    effects_table,
    prepare,
    reader_of,
    run_screen,
)
from geneformer_grn.perturbation.effects_table import RESAMPLES
from geneformer_grn.perturbation.engine import CELL_COLUMNS
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.screen import PerturbationPlan, Screen
from geneformer_grn.statistics import hierarchical_bootstrap


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    rng = np.random.default_rng(5)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [rng.permutation(genes)[: rng.integers(15, 50)] for _ in range(30)]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    return RankedCells(tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(30))


def screen_of(values, *, n_tested, cells_per_gene, traits=None):
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
    return effects_table(screen, np.array([f"G{i}" for i in range(n)]), reader_of(cells), traits=traits)


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
    assert row.shift_compared == pytest.approx(0.6)  # the first two cells
    assert 0.5 <= row.compared_low < row.shift_compared < row.compared_high <= 0.7
    assert row.null_mean == pytest.approx(np.mean([0.5, 0.25, 0.9]))
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
    assert result.effects.columns.tolist() == [*EFFECT_COLUMNS, "gene_symbol"]
    symbols = tiny_encoder.vocabulary.symbols
    assert (
        result.effects["gene_symbol"].tolist() == [symbols[7], symbols[9], f"{symbols[20]}+{symbols[21]}"] * 2
    )
    assert result.effects["group"].tolist() == ["a"] * 3 + ["b"] * 3
    assert result.cells.columns.tolist() == list(CELL_COLUMNS)
    assert set(result.cells["gene"]) == set(names)
    for row in result.effects.itertuples():
        part = result.cells[(result.cells["gene"] == row.gene) & (result.cells["group"] == row.group)]
        assert set(groups[part["cell_id"]]) == {row.group}
        assert row.n_cells == part["shift"].notna().sum() <= 4
        assert row.shift == row.shift_compared == pytest.approx(part["shift"].mean())
        assert (row.compared_low, row.compared_high) == (row.ci_low, row.ci_high)
        assert 1 / 6 <= row.p_value <= row.q_value <= 1
    together = stats.false_discovery_control(result.effects["p_value"])  # over both groups
    np.testing.assert_allclose(result.effects["q_value"], together)
    assert result.facts["n_passes"] <= result.facts["n_passes_planned"]
    assert result.gene_shifts is None
    again = run_screen(tiny_encoder, ranked, groups, genes, plan)
    pd.testing.assert_frame_equal(result.effects, again.effects)


def test_genes_without_a_symbol_are_named_by_their_id(tiny_vocabulary, ranked):
    symbols = tiny_vocabulary.symbols.copy()
    symbols[[7, 20]] = "", None
    vocabulary = replace(tiny_vocabulary, symbols=symbols)
    prepared = prepare(ranked, None, [7, (20, 21)], vocabulary, PerturbationPlan(n_null=0))
    ids = vocabulary.ensembl_ids
    assert prepared.symbols.tolist() == [ids[7], f"{ids[20]}+{symbols[21]}"]


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


def test_donors_widen_the_interval_and_are_counted(tiny_encoder, ranked):
    plan = PerturbationPlan(cells_per_gene=20, n_null=3, seed=1)
    donors = np.repeat(["x", "y", "z"], 10)
    plain = run_screen(tiny_encoder, ranked, None, [7, 20], plan)
    result = run_screen(tiny_encoder, ranked, None, [7, 20], plan, known=CellFacts(donors=donors))
    assert result.effects.columns.tolist() == [*EFFECT_COLUMNS, "n_donors", "gene_symbol"]
    same = [name for name in EFFECT_COLUMNS if not name.startswith(("ci_", "compared_"))]
    pd.testing.assert_frame_equal(result.effects[same], plain.effects[same])
    for row in result.effects.itertuples():
        part = result.cells[(result.cells["gene"] == row.gene) & result.cells["shift"].notna()]
        assert row.n_donors == len(set(donors[part["cell_id"]]))
        expected = hierarchical_bootstrap(
            part["shift"], donors[part["cell_id"]], rng=np.random.default_rng([1, row.Index]), n=RESAMPLES
        )
        assert (row.ci_low, row.ci_high) == pytest.approx(expected)
    with pytest.raises(ValueError, match="29 donor labels were given for 30 cells"):
        run_screen(tiny_encoder, ranked, None, [7], plan, known=CellFacts(donors=donors[1:]))
    nobody = np.full(30, None, dtype=object)
    with pytest.raises(ValueError, match="have no group label"):
        run_screen(tiny_encoder, ranked, None, [7], plan, known=CellFacts(donors=nobody))


def test_what_was_matched_and_how_many_there_were(tiny_encoder, tiny_adata, caplog):
    counts = read_counts(tiny_adata, tiny_encoder.vocabulary)
    ranked = rank_cells(counts, tiny_encoder.vocabulary)
    plan = PerturbationPlan(cells_per_gene=2, n_null=200)
    with caplog.at_level("INFO", logger="geneformer_grn"):
        result = run_screen(tiny_encoder, ranked, None, [9, 12], plan, known=CellFacts(counts=counts))
    fewest = result.effects["n_null"].min()
    assert result.facts["matched_on"] == "rank, detection, expression"
    assert (result.facts["n_null_fewest"], result.facts["n_null_most"]) == (fewest, fewest)
    assert fewest < 60  # as many as exist
    assert result.facts["share_full_null"] == 0
    assert f"no p-value can be below {1 / (1 + fewest):.2g}" in caplog.text
    plain = run_screen(tiny_encoder, ranked, None, [9], PerturbationPlan(cells_per_gene=2, n_null=0))
    assert plain.facts["matched_on"] == "rank, detection"
    assert "n_null_fewest" not in plain.facts


def test_the_summary_says_when_nothing_exceeds_the_null():
    rng = np.random.default_rng(0)
    null = [np.full(2, value) for value in rng.random(250)]
    nothing = screen_of([np.full(2, 0.5), np.full(2, 0.4), *null], n_tested=2, cells_per_gene=2)
    assert "None of the 2 perturbations tested moves cells further" in effects_summary(nothing)
    assert "compared with 250 matched genes" in effects_summary(nothing)
    assert "below 0.004" in effects_summary(nothing)
    assert "tests at once" not in effects_summary(nothing)
    many = screen_of([*[np.full(2, 0.5)] * 13, *null], n_tested=13, cells_per_gene=2)
    assert "With 13 tests at once a single one" in effects_summary(many)  # 13 / 251 is above 0.05
    one = screen_of([np.full(2, 5.0), np.full(2, 0.4), *null], n_tested=2, cells_per_gene=2)
    assert effects_summary(one).startswith("1 of 2 perturbations moves cells further")
    uneven = effects_summary(one.assign(n_null=[50, 250]))  # the floor is that of the most
    assert "compared with 50 to 250 matched genes, so that no p-value can be below 0.004." in uneven
    untested = screen_of([np.full(2, 5.0)], n_tested=1, cells_per_gene=2)
    assert "No test against matched genes was made" in effects_summary(untested)


def any_discovery(rng, *, n_tested, n_null):
    """Whether one run of genes that all come from one distribution has a q below 0.05."""
    sizes = rng.integers(3, 9, size=n_tested + n_null)
    shifts = [rng.gamma(2.0, rng.gamma(3.0), size=size) for size in sizes]
    return (screen_of(shifts, n_tested=n_tested, cells_per_gene=5)["q_value"] < 0.05).any()


@pytest.mark.parametrize("n_tested", [1, 8])
def test_under_the_null_few_runs_discover_anything(n_tested, monkeypatch):
    """The share of runs with any q < 0.05 is at most 5 %, within its 99.9 % interval; some runs do."""
    monkeypatch.setattr(
        "geneformer_grn.perturbation.effects_table.RESAMPLES", 1
    )  # intervals do not matter here
    rng = np.random.default_rng(n_tested)
    runs = 120
    found = sum(any_discovery(rng, n_tested=n_tested, n_null=200) for _ in range(runs))
    assert stats.binomtest(found, runs, 0.05, alternative="greater").pvalue > 0.001
    assert n_tested > 1 or found > 0  # a single gene's p is uniform: 1 in 20 runs


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 15, 29])
def test_random_weights_and_shuffled_labels_discover_nothing(tiny_encoder, place):
    """Runs of the whole screen: a model that knows nothing, random cells, random labels.

    The first gene moves all others when it is deleted, the last none: that must not pass for an effect.
    """
    rng = np.random.default_rng(place)
    genes = np.arange(tiny_encoder.vocabulary.n_special, len(tiny_encoder.vocabulary))
    propensity = np.linspace(3, -3, len(genes))
    found = []
    for seed in range(200):
        order = rng.permutation(genes)  # which genes rank high is drawn anew in every run
        cells = [
            order[np.argsort(-propensity - rng.normal(size=len(genes)), kind="stable")[:30]]
            for _ in range(12)
        ]
        ranked = RankedCells(
            tokens=np.concatenate(cells).astype(np.uint16), offsets=np.arange(13) * 30, n_counts=np.ones(12)
        )
        groups = rng.permutation(np.repeat(["a", "b"], 6))
        plan = PerturbationPlan(cells_per_gene=3, n_null=200, seed=seed)
        effects = run_screen(tiny_encoder, ranked, groups, [int(order[place])], plan).effects
        found.append(effects[effects["p_value"].notna()])
    tests = pd.concat(found)  # one gene in two groups of each run
    assert len(tests) > 300
    discovering = sum((run["q_value"] < 0.05).any() for run in found)
    assert stats.binomtest(int(discovering), len(found), 0.05, alternative="greater").pvalue > 0.001
    # At the end genes differ less than elsewhere, so that p-values there are on the safe side.
    assert 0.04 < (tests["p_value"] <= 0.2).mean() < 0.28


def test_a_trend_among_matched_genes_is_no_effect():
    """The gene at the end of its null genes is not extreme for that; one off the trend is."""
    place = np.linspace(0, 1, 41)[::-1, None]
    noise = np.random.default_rng(0).normal(0, 0.02, 41)
    on_trend = [np.full(2, value) for value in place[:, 0] + noise]
    assert screen_of(on_trend, n_tested=1, cells_per_gene=2)["p_value"].item() == pytest.approx(1 / 41)
    assert screen_of(on_trend, n_tested=1, cells_per_gene=2, traits=place)["p_value"].item() > 0.1
    off_trend = [on_trend[0] + 0.2, *on_trend[1:]]
    found = screen_of(off_trend, n_tested=1, cells_per_gene=2, traits=place)["p_value"].item()
    assert found == pytest.approx(1 / 41)
    few = screen_of(on_trend[:15], n_tested=1, cells_per_gene=2, traits=place[:15])  # too few for a trend
    assert few["p_value"].item() == screen_of(on_trend[:15], n_tested=1, cells_per_gene=2)["p_value"].item()


def test_a_gene_apart_from_its_null_genes_in_a_trait_can_still_be_extreme(caplog):
    rng = np.random.default_rng(0)
    shifts = [np.full(2, value) for value in rng.normal(0.01, 0.002, 201)]
    shifts[0] = np.full(2, 1.0)
    traits = np.column_stack([rng.random(201), np.append(0.6, np.ones(200))])  # all null genes are detected
    with caplog.at_level("INFO", logger="geneformer_grn"):
        (row,) = screen_of(shifts, n_tested=1, cells_per_gene=2, traits=traits).itertuples()
    assert row.p_value == row.p_value_raw == pytest.approx(1 / 201)
    assert "in 1 of 1 tests the gene lies apart" in caplog.text


@pytest.mark.parametrize("with_donors", [False, True])
def test_slices_give_the_same_effects_and_ask_for_every_request_once(with_donors, monkeypatch):
    rng = np.random.default_rng(6)
    sizes = [3, 0, 8, 5, 1, 4, 7, 2, 6]
    requests = [
        Request(genes=(10 + i,), kind="delete", cells=rng.permutation(20)[:size], is_null=i > 4)
        for i, size in enumerate(sizes)
    ]
    nulls = {0: [5, 6, 3], 1: [5], 2: [0, 5, 6, 7, 8], 3: [7, 8], 4: [8]}  # also tested genes as null
    screen = Screen(cells_per_gene=3, n_null=5, requests=requests, nulls=nulls)
    table = pd.concat(
        pd.DataFrame(
            {"request": i, "cell_id": request.cells, "readout": "cell" if state == "" else "state",
             "state": state, "shift": np.where(rng.random(len(request.cells)) < 0.2, np.nan, rng.random())}
        )
        for state in ("", "goal") for i, request in enumerate(requests)
    )  # fmt: skip
    table["shift"] += rng.normal(0, 0.1, len(table))
    asked = []

    def read(numbers):
        asked.append(numbers)
        return reader_of(table)(numbers)

    names = np.array([f"G{i}" for i in range(len(sizes))], dtype=object)
    donors = pd.Series(np.arange(20) % 3) if with_donors else None
    whole = effects_table(screen, names, read, donors=donors)
    assert len(asked) == 1
    monkeypatch.setattr("geneformer_grn.perturbation.effects_table._SLICE", 6)
    asked.clear()
    sliced = effects_table(screen, names, read, donors=donors)
    assert len(asked) > 3
    assert np.concatenate(asked).tolist() == list(range(9))
    assert max(sum(sizes[i] for i in part) for part in asked) <= 6 + max(sizes)
    pd.testing.assert_frame_equal(whole, sliced)
    for row in whole.itertuples():
        part = table[(table["state"] == row.state)].dropna(subset=["shift"])
        number = int(row.gene[1:])
        values = part.loc[part["request"] == number, "shift"].to_numpy()
        assert row.n_cells == len(values)
        if len(values):
            assert row.shift == pytest.approx(values.mean())
            compared = min(3, len(values))
            means = [
                part.loc[part["request"] == other, "shift"].to_numpy()[:compared] for other in nulls[number]
            ]
            means = [mean.mean() for mean in means if len(mean)]
            assert row.n_null == len(means)
            above = (1 + sum(m >= values[:compared].mean() for m in means)) / (1 + len(means))
            below = (1 + sum(m <= values[:compared].mean() for m in means)) / (1 + len(means))
            expected = min(1, 2 * min(above, below)) if row.state else above
            assert row.p_value_raw == row.p_value == pytest.approx(expected)

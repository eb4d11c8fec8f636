"""What exceeds the move of later genes by one position, by plain arithmetic and on a model."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation.effects import EFFECT_COLUMNS, run_screen
from geneformer_grn.perturbation.position import EXCESS_COLUMNS, beyond_null, position_shift
from geneformer_grn.perturbation.screen import PerturbationPlan


def cells_table(shifts, **labels):
    table = pd.DataFrame({"cell_id": [f"c{i}" for i in range(len(shifts))], "gene": "G1", "shift": shifts})
    return table.assign(**{"group": "all", "readout": "cell", "state": "", **labels})


def test_excess_is_what_the_null_does_not_have():
    columns = [
        "gene",
        "shift_compared",
        "compared_low",
        "compared_high",
        "null_mean",
        "null_low",
        "null_high",
    ]
    effects = pd.DataFrame(
        [
            ("G1", 0.5, 0.47, 0.58, 0.3, 0.24, 0.34), ("G2", 0.2, np.nan, np.nan, 0.3, 0.2, 0.4),
            ("G3", 0.2, 0.1, 0.3, np.nan, np.nan, np.nan), ("G4", 0.33, 0.33, 0.33, 0.3, 0.2, 0.34),
        ],
        columns=columns,
    )  # fmt: skip
    found = beyond_null(effects)
    assert found.columns.tolist() == [*columns, *EXCESS_COLUMNS]
    expected = [0.2, 0.2 - np.hypot(0.03, 0.04), 0.2 + np.hypot(0.08, 0.06)]
    np.testing.assert_allclose(found.loc[0, list(EXCESS_COLUMNS)].astype(float), expected)
    assert found.loc[1, "excess"] == pytest.approx(-0.1)
    assert found.loc[1, ["excess_low", "excess_high"]].isna().all()
    assert found.loc[2, list(EXCESS_COLUMNS)].isna().all()
    assert found.loc[3, "excess_low"] < 0 < found.loc[3, "excess_high"]  # like a null gene, however sharp
    assert effects.columns.tolist() == columns  # left as it was
    named = effects.assign(gene=["G1", "G2", "G1", "G4"], gene_symbol=["A", "B", None, None], n_donors=1)
    found = beyond_null(named)
    assert found.columns.tolist() == [*columns, "n_donors", *EXCESS_COLUMNS, "gene_symbol"]
    assert found["gene_symbol"].tolist() == ["A", "B", "A", "G4"]


def test_position_shift_is_paired_by_cell():
    deleted = cells_table([0.5, 0.3, np.nan, 0.1])
    knocked_out = cells_table([0.1, 0.2, 0.4, np.nan]).iloc[::-1]
    (row,) = position_shift(deleted, knocked_out).itertuples()
    assert (row.gene, row.group, row.readout, row.state, row.n_cells) == ("G1", "all", "cell", "", 2)
    assert (row.delete, row.knockout) == pytest.approx((0.4, 0.15))
    assert row.position_shift == pytest.approx(0.25)
    assert row.position_share == pytest.approx(0.25 / 0.4)
    assert (row.ci_low, row.ci_high) == pytest.approx((0.1, 0.4))


def test_position_shift_within_groups_and_over_donors():
    rng = np.random.default_rng(0)
    donors = pd.Series(np.repeat(["x", "y", "z"], 10), index=[f"c{i}" for i in range(30)])
    moved = np.repeat([0.1, 0.5, 0.9], 10) + rng.normal(0, 0.01, 30)
    knocked_out = cells_table(rng.normal(0, 1, 30))
    deleted = knocked_out.assign(shift=knocked_out["shift"] + moved)
    (over_cells,) = position_shift(deleted, knocked_out).itertuples()
    (over_donors,) = position_shift(deleted, knocked_out, donors=donors).itertuples()
    assert over_cells.position_shift == over_donors.position_shift == pytest.approx(moved.mean())
    assert over_donors.ci_high - over_donors.ci_low > 2 * (over_cells.ci_high - over_cells.ci_low)
    groups = position_shift(
        pd.concat([deleted, deleted.assign(group="b")]), pd.concat([knocked_out, deleted.assign(group="b")])
    )
    assert groups["group"].tolist() == ["all", "b"]
    assert groups["position_shift"].tolist() == [pytest.approx(moved.mean()), 0.0]


def test_tables_without_a_common_cell_are_refused():
    with pytest.raises(ValueError, match="both deleted and knocked out"):
        position_shift(cells_table([0.1]), cells_table([0.1], gene="G2"))


def test_a_gene_at_the_end_moves_no_other(tiny_encoder, tiny_vocabulary):
    """Behind the last gene nothing moves but <eos>; in front of all genes every gene moves."""
    genes = np.arange(tiny_vocabulary.n_special, tiny_vocabulary.n_special + 30)
    rng = np.random.default_rng(2)
    cells = [np.concatenate([[genes[0]], rng.permutation(genes[1:-1]), [genes[-1]]]) for _ in range(8)]
    ranked = RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16), offsets=np.arange(9) * 30, n_counts=np.ones(8)
    )
    tables = {
        kind: run_screen(
            tiny_encoder, ranked, None, [int(genes[0]), int(genes[-1])], PerturbationPlan(kind=kind, n_null=6)
        )
        for kind in ("delete", "knockout")
    }
    found = position_shift(tables["delete"].cells, tables["knockout"].cells)
    first, last = found["position_shift"].abs()
    assert first > 3 * last
    for kind, result in tables.items():
        np.testing.assert_allclose(found[kind], result.effects["shift"])
    excess = beyond_null(tables["delete"].effects)
    assert excess.columns.tolist() == [*EFFECT_COLUMNS, *EXCESS_COLUMNS, "gene_symbol"]
    assert excess["excess"].iloc[0] > excess["excess"].iloc[1]

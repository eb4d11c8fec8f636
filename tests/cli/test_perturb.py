"""The verb perturb: its tables, exit codes, and nothing half-written."""

import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn.cli import perturb
from geneformer_grn.perturbation.effects import EFFECT_COLUMNS
from geneformer_grn.perturbation.position import EXCESS_COLUMNS
from geneformer_grn.perturbation.readouts import GENE_SHIFT_COLUMNS


@pytest.fixture
def call(tiny_h5ad, tiny_checkpoint, tmp_path):
    """Run the verb on the tiny file; return the exit code `main` would give, the output and the error."""
    app = typer.Typer()
    perturb.add(app)

    def run(*arguments, out=tmp_path / "out"):
        head = [tiny_h5ad, "--out", out, "--model", tiny_checkpoint, "--device", "cpu", "--quiet", "--json"]
        result = CliRunner().invoke(app, [str(argument) for argument in (*head, *arguments)])
        if result.exception is None or isinstance(result.exception, SystemExit):
            return result.exit_code, result.stdout, ""
        return (2 if cli.is_input_error(result.exception) else 1), result.stdout, str(result.exception)

    return run


def test_the_tables_of_the_contract(call, tmp_path):
    code, stdout, error = call(
        "--genes", "GENE3,NOSUCH", "--groups", "cell_type", "--null-genes", 5, "--null-cells", 3,
        "--readout", "cell,genes",
    )  # fmt: skip
    assert (code, error) == (0, "")
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["genes_unknown"] == ["NOSUCH"]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["cells.parquet", "effects.parquet", "gene_shifts.parquet", "parameters.json"]
    effects = pd.read_parquet(tmp_path / "out" / "effects.parquet")
    assert tuple(effects.columns) == (*EFFECT_COLUMNS, *EXCESS_COLUMNS, "gene_symbol")
    assert effects["group"].tolist() == ["A", "B"]
    cells = pd.read_parquet(tmp_path / "out" / "cells.parquet")
    columns = ["cell_id", "gene", "kind", "group", "readout", "state", "cosine", "shift"]
    assert cells.columns.tolist() == columns
    assert len(cells) == 80
    assert cells["cell_id"].str.startswith("cell").all()
    shifts = pd.read_parquet(tmp_path / "out" / "gene_shifts.parquet")
    assert tuple(shifts.columns) == GENE_SHIFT_COLUMNS
    assert shifts["signed_shift"].notna().any()
    parameters = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert parameters["parameters"]["kind"] == "delete"
    assert parameters["file"] == "cells.h5ad"
    assert str(tmp_path) not in json.dumps(parameters)


def test_states_from_the_command_line(call, tmp_path):
    code, _, error = call(
        "--genes", "GENE3", "--states", "cell_type", "--start", "A", "--goal", "B", "--null-genes", 0,
        "--kind", "overexpress", "--encoder-layer", 0, "--cells", 30,
    )  # fmt: skip
    assert (code, error) == (0, "")
    cells = pd.read_parquet(tmp_path / "out" / "cells.parquet")
    assert sorted(set(cells["state"])) == ["", "A", "B"]
    assert not (tmp_path / "out" / "gene_shifts.parquet").exists()


def test_pairs_and_anchors_moved_by_quartiles(call, tmp_path):
    moved = ("--null-genes", 0, "--cells", 20, "--kind", "activate", "--quartiles", 2)
    code, _, error = call("--genes", "GENE3,GENE5,GENE8", "--pairs", *moved, out=tmp_path / "pairs")
    assert (code, error) == (0, "")
    effects = pd.read_parquet(tmp_path / "pairs" / "effects.parquet")
    assert effects["readout"].tolist() == ["cell"] * 6 + ["interaction"] * 3
    assert set(effects["kind"]) == {"activate"}
    parameters = json.loads((tmp_path / "pairs" / "parameters.json").read_text())["parameters"]
    assert (parameters["quartiles"], parameters["pairs"]) == (2, True)
    code, _, error = call("--genes", "GENE3,GENE5", "--anchor", "GENE8", *moved, out=tmp_path / "anchor")
    assert (code, error) == (0, "")
    cells = pd.read_parquet(tmp_path / "anchor" / "cells.parquet")
    beyond = cells[cells["readout"] == "beyond_anchor"]
    assert beyond["gene"].unique().tolist() == [
        "ENSG00000000008+ENSG00000000003", "ENSG00000000008+ENSG00000000005",
    ]  # fmt: skip
    assert beyond["cosine"].isna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--genes", "NOSUCH"), "NOSUCH"),
        (("--genes", "GENE3", "--kind", "silence"), "not available"),
        (("--genes", "GENE3", "--kind", "activate", "--quartiles", 4), "1, 2 or 3 quartiles"),
        (("--genes", "GENE3,GENE4", "--pairs", "--together"), "choose one"),
        (("--genes", "all", "--pairs"), "'all' names none"),
        (("--genes", "GENE3", "--anchor", "NOSUCH"), "NOSUCH"),
        (("--genes", "GENE3", "--groups", "nowhere"), "nowhere"),
        (("--genes", "GENE3", "--readout", "velocity"), "choose from cell, state, genes"),
        (("--genes", "GENE3", "--donors", "nowhere"), "no obs column 'nowhere' for --donors"),
        (("--genes", "GENE3", "--statistics", "bayes"), "bayes"),
        (("--genes", "GENE3", "--part", "2/2"), "share 2 of 2 does not exist"),
        (("--genes", "GENE3", "--states", "cell_type"), "a start and a goal state"),
        (("--genes", "GENE3", "--encoder-layer", 7), "encoder layer 7"),
        (("--genes", "GENE3", "--model", "nosuch"), "nosuch"),
    ],
)
def test_a_wrong_call_exits_2_and_writes_nothing(call, tmp_path, arguments, message):
    code, _, error = call(*arguments)
    assert code == 2
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad"]


def test_an_output_that_is_a_file_is_refused(call, tmp_path):
    (tmp_path / "out").write_text("taken")
    code, _, error = call("--genes", "GENE3")
    assert code == 2
    assert "out" in error


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("setting", ["v1", "v2"])
@pytest.mark.parametrize("run", ["delete_CD74_full", "overexpress_B2M_full", "overexpress_FOXP3_full"])
def test_published_checkpoints_give_the_references_shifts(golden_dir, tmp_path, setting, run):
    """From raw counts and published files to the reference's cosines, cells and all."""
    import anndata

    from geneformer_grn.workflows.import_geneformer import import_geneformer

    expected_file = golden_dir / setting / f"isp_{run}.parquet"
    if not expected_file.is_file():
        pytest.skip("this run is kept aside")
    expected = pd.read_parquet(expected_file)
    order = json.loads((golden_dir / "isp_log.json").read_text())[f"{setting}_{run}"]["cells_in_order"]
    adata = anndata.read_h5ad(golden_dir / "pbmc400.h5ad")
    adata[adata.obs["cell_id"].isin(order)].copy().write_h5ad(tmp_path / "cells.h5ad")
    weights = golden_dir / "models" / f"{setting}_3L64"
    import_geneformer(golden_dir / "dictionaries", setting, tmp_path / "model", weights=weights)
    app = typer.Typer()
    perturb.add(app)
    kind, gene, _ = run.split("_")
    arguments = ["--model", tmp_path / "model", "--genes", gene, "--kind", kind, "--null-genes", 0]
    result = CliRunner().invoke(
        app, [str(x) for x in (tmp_path / "cells.h5ad", "--out", tmp_path, *arguments)]
    )
    assert result.exception is None
    found = pd.read_parquet(tmp_path / "cells.parquet").set_index("cell_id")["cosine"]
    np.testing.assert_allclose(found.loc[order], expected.sort_values("ordinal")["cos"], atol=1e-5)

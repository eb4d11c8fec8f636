"""The verbs network and propagate: outputs, exit codes, one clear message."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn.cli import network, propagate
from geneformer_grn.network.edges import read_edges, read_universe
from geneformer_grn.network.methods import GENE_LIMITS
from geneformer_grn.workflows.network_settings import METHODS


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    network.add(app)
    propagate.add(app)
    return app


def call(app, *arguments):
    """Run a verb; return the exit code that `main` would give, the output and the error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is None or isinstance(result.exception, SystemExit):
        return result.exit_code, result.stdout, result.stderr
    return (2 if cli.is_input_error(result.exception) else 1), result.stdout, str(result.exception)


@pytest.fixture(scope="module")
def scored(app, tiny_adata, tiny_checkpoint, tmp_path_factory):
    """A folder with cells.h5ad, its edges of both default methods in two groups, and the summary."""
    folder = tmp_path_factory.mktemp("network")
    tiny_adata.write_h5ad(folder / "cells.h5ad")
    code, stdout, error = call(
        app, "network", folder / "cells.h5ad", "--out", folder / "edges.tsv", "--model", tiny_checkpoint,
        "--groups", "cell_type", "--top", "50", "--json", "--quiet", "--seed", "7",
    )  # fmt: skip
    assert code == 0, error
    return folder, json.loads(stdout.splitlines()[-1])


def test_network_writes_edges_and_universe(scored):
    folder, summary = scored
    edges = read_edges(folder / "edges.tsv")
    assert len(edges) == summary["n_edges"] == 200
    assert set(edges["method"]) == {"attention", "correlation"}
    assert set(edges["group"]) == {"A", "B"}
    universe = read_universe(folder / "edges.tsv")
    assert universe.groups_column == "cell_type"
    assert universe.settings["seed"] == 7
    assert universe.settings["file"] == "cells.h5ad"
    assert len(universe.regulators) == summary["n_regulators"]
    assert summary["agreement"]["A"]["attention"]["n_pairs"] > 100
    assert str(folder) not in (folder / "edges.universe.json").read_text()


def test_propagate_refits_unsigned_edges_and_uses_the_scored_groups(app, scored, tiny_checkpoint):
    folder, _ = scored
    source = read_edges(folder / "edges.tsv")["source"].value_counts().index[0]
    code, stdout, error = call(
        app, "propagate", folder / "edges.tsv", "--sources", source.lower(), "--out", folder / "effects.tsv",
        "--expression", folder / "cells.h5ad", "--model", tiny_checkpoint, "--json", "--quiet",
    )  # fmt: skip
    assert code == 0, error
    effects = pd.read_csv(folder / "effects.tsv", sep="\t")
    assert list(effects.columns[:5]) == ["source", "gene", "group", "hop", "effect"]
    assert set(effects["source"]) == {source}
    assert set(effects["group"]) <= {"A", "B"}
    assert (effects.loc[effects["hop"] == 0, "effect"] < 0).all()
    refitted = read_edges(folder / "effects.edges.tsv")
    assert set(refitted["method"]) == {"refit"}
    assert json.loads(stdout.splitlines()[-1])["n_effects"] == len(effects)
    parameters = json.loads((folder / "effects.parameters.json").read_text())
    assert parameters["groups"] == "cell_type"
    assert parameters["kind"] == "delete"


def test_propagate_in_order(app, scored, tiny_checkpoint, tmp_path):
    folder, _ = scored
    sources = read_edges(folder / "edges.tsv")["source"].value_counts().index[:3].tolist()
    (tmp_path / "tf.txt").write_text("\n".join(sources))
    start = [
        "propagate", folder / "edges.tsv", "--sources", sources[0], "--method", "ordered", "--quiet",
        "--model", tiny_checkpoint,
    ]  # fmt: skip
    cells = ["--expression", folder / "cells.h5ad"]
    for name, more in (("a", []), ("b", ["--regulators", tmp_path / "tf.txt", "--seed", "4"])):
        code, _, error = call(app, *start, *cells, *more, "--out", tmp_path / f"{name}.tsv")
        assert code == 0, error
    everything, few = (pd.read_csv(tmp_path / f"{name}.tsv", sep="\t") for name in "ab")
    assert list(few.columns[:5]) == ["source", "gene", "group", "hop", "effect"]
    assert set(everything["group"]) == {"A", "B"}
    assert not everything["effect"].equals(few["effect"])
    assert not list(tmp_path.glob("*.edges.tsv"))
    parameters = json.loads((tmp_path / "b.parameters.json").read_text())
    assert (parameters["seed"], parameters["regulators"]) == (4, sources)
    code, _, error = call(app, *start, "--out", tmp_path / "c.tsv")
    assert code == 2
    assert "is one of cells, which are needed (--expression FILE" in error


def test_propagate_in_every_cell_and_through_the_model(app, scored, tiny_checkpoint, tmp_path):
    folder, _ = scored
    source = read_edges(folder / "edges.tsv")["source"].value_counts().index[0]
    for method, hops in (("clamped", {0, 1, 2}), ("rerank", {1, 2})):
        code, _, error = call(
            app, "propagate", folder / "edges.tsv", "--sources", source, "--out", tmp_path / f"{method}.tsv",
            "--expression", folder / "cells.h5ad", "--model", tiny_checkpoint, "--quiet", "--method", method,
            "--hops", "2", "--cells-per-source", "4",
        )  # fmt: skip
        assert code == 0, error
        effects = pd.read_csv(tmp_path / f"{method}.tsv", sep="\t")
        assert list(effects.columns[:5]) == ["source", "gene", "group", "hop", "effect"]
        assert set(effects["hop"]) == hops
        assert set(effects["group"]) == {"A", "B"}
    assert (tmp_path / "clamped.edges.tsv").exists()
    assert not (tmp_path / "rerank.edges.tsv").exists()


def test_a_sample_of_cells(app, scored, tiny_checkpoint, tmp_path):
    folder, _ = scored
    code, stdout, error = call(
        app, "network", folder / "cells.h5ad", "--out", tmp_path / "e.tsv", "--model", tiny_checkpoint,
        "--methods", "correlation", "--cells", "30", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0, error
    assert json.loads(stdout.splitlines()[-1])["n_cells"] == {"all": 30}
    assert read_universe(tmp_path / "e.tsv").settings["cells"] == 30


def test_attention_without_expression_is_refused_except_by_the_walk(app, scored, tmp_path):
    folder, _ = scored
    source = read_edges(folder / "edges.tsv").query("method == 'attention'")["source"].iloc[0]
    start = ["propagate", folder / "edges.tsv", "--sources", source, "--out", tmp_path / "out.tsv", "--quiet"]
    code, _, error = call(app, *start)
    assert code == 2
    assert "attention and correlation" in error
    assert "--expression FILE" in error
    code, _, error = call(app, *start, "--method", "walk")
    assert code == 2
    assert "--edge-method" in error
    assert not list(tmp_path.iterdir())
    code, _, error = call(app, *start, "--method", "walk", "--edge-method", "attention")
    assert code == 0, error
    walked = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    np.testing.assert_allclose(walked.groupby("group")["effect"].sum(), 1.0)


def test_signed_edges_need_no_cells(app, tmp_path):
    (tmp_path / "edges.tsv").write_text("source\ttarget\tweight\nSPI1\tB\t0.5\nB\tC\t-2\n")
    for method, expected in (("iterated", [1.0, 0.5, -1.0]), ("linear", [1.0, 0.5, -1.0])):
        code, _, error = call(
            app, "propagate", tmp_path / "edges.tsv", "--sources", ["ENSG00000066336", "spi1"][1],
            "--out", tmp_path / "out.tsv", "--kind", "overexpress", "--method", method, "--quiet",
        )  # fmt: skip
        assert code == 0, error
        assert pd.read_csv(tmp_path / "out.tsv", sep="\t")["effect"].tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--methods", "magic"],
            "magic is not available; choose from attention, attention_rank_corrected",
        ),
        (["--methods", ""], "choose from"),
        (["--groups", "nope"], "no obs column 'nope'"),
        (["--regulators", "missing.txt"], "no gene list at missing.txt"),
        (["--min-cells", "500"], "no group has the 500 cells"),
        (["--model", "no/such/model"], "no/such/model"),
        (["--top", "0"], ""),
        (["--truth", "x.tsv"], "no truth table at x.tsv"),
        (["--truth", "MOUSE"], "of 12 regulators scored is a regulator in mouse.tsv (first: 'ENSG"),
        (["--truth", "WIDE"], "has no column target; a truth table needs source and target"),
        (["--compare", "A,B"], "name it by --groups"),
        (["--compare", "A", "--groups", "cell_type"], "with a comma between them; got 'A'"),
        (["--compare", "A,C", "--groups", "cell_type"], "there is no group 'C'; the cells have 'A', 'B'"),
        (["--attention-heads", "3"], "layer:head"),
        (["--attention-heads", "9:9"], "do not exist"),
        (["--attention-correction", "magic"], "use one of none, average_product"),
        (["--page", "page.txt"], "pages are written as .html; 'page.txt' is not"),
        (["--within", "nope"], "no obs column 'nope'"),
        (["--within", "cell_type", "--methods", "attention_heads"], "not scored within states"),
    ],
)
def test_wrong_calls_of_network_leave_nothing(app, scored, tiny_checkpoint, tmp_path, options, message):
    folder, _ = scored
    model = [] if "--model" in options else ["--model", tiny_checkpoint]
    tables = {"MOUSE": "source\ttarget\nEnsmusg1\tEnsmusg2\n", "WIDE": "source\tgene\nA\tB\n"}
    for name, text in tables.items():
        (folder / f"{name.lower()}.tsv").write_text(text)
    options = [folder / f"{option.lower()}.tsv" if option in tables else option for option in options]
    code, _, error = call(
        app, "network", folder / "cells.h5ad", "--out", tmp_path / "edges.tsv", "--quiet", *model, *options
    )
    assert code == 2
    assert message in error
    assert not list(tmp_path.iterdir())


def test_destinations_are_checked_before_the_work(app, scored, tiny_checkpoint, tmp_path):
    folder, _ = scored
    (tmp_path / "file").touch()
    for out in (tmp_path / "edges.csv", tmp_path, tmp_path / "file" / "edges.tsv"):
        code, _, error = call(
            app, "network", folder / "cells.h5ad", "--out", out, "--model", tiny_checkpoint, "--quiet"
        )
        assert code == 2
        assert error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sources", "NOSUCHGENE"], "'NOSUCHGENE' is not among"),
        (["--kind", "inhibit"], "use delete or overexpress"),
        (["--method", "magic"], "one of iterated, linear, walk, clamped, covariance, ordered, rerank"),
        (["--regulators", "none.txt"], "no gene list at none.txt"),
        (["--edge-method", "ridge"], "no edges of method 'ridge'; the table holds attention, correlation"),
        (["--expression", "none.h5ad"], "none.h5ad"),
        (["--groups", "nope", "--expression", "CELLS"], "no obs column 'nope'"),
    ],
)
def test_wrong_calls_of_propagate_leave_nothing(app, scored, tiny_checkpoint, tmp_path, options, message):
    folder, _ = scored
    source = read_edges(folder / "edges.tsv")["source"].iloc[0]
    sources = [] if "--sources" in options else ["--sources", source]
    options = [folder / "cells.h5ad" if option == "CELLS" else option for option in options]
    code, _, error = call(
        app, "propagate", folder / "edges.tsv", "--out", tmp_path / "out.tsv", "--model", tiny_checkpoint,
        "--quiet", *sources, *options,
    )  # fmt: skip
    assert code == 2
    assert message in error
    assert not list(tmp_path.iterdir())


def test_bad_edge_tables(app, scored, tmp_path):
    (tmp_path / "edges.tsv").write_text("tf\tgene\tscore\nA\tB\t1\n")
    code, _, error = call(
        app, "propagate", tmp_path / "edges.tsv", "--sources", "A", "--out", tmp_path / "o.tsv", "--quiet"
    )
    assert code == 2
    assert "edges.tsv has no column source, target, weight" in error
    code, _, error = call(
        app, "propagate", tmp_path / "none.tsv", "--sources", "A", "--out", tmp_path / "o.tsv", "--quiet"
    )
    assert code == 2


@pytest.mark.slow
def test_all_methods_but_those_that_take_fewer_genes(app, scored, tiny_checkpoint, tmp_path, monkeypatch):
    folder, _ = scored
    monkeypatch.setitem(GENE_LIMITS, "graphical_lasso", 10)
    few = ["--top", "20", "--max-targets", "12", "--cells-per-regulator", "5"]
    command = ["network", folder / "cells.h5ad", "--model", tiny_checkpoint, *few]
    code, stdout, error = call(app, *command, "--out", tmp_path / "a.tsv", "--methods", "all", "--json")
    assert code == 0, error
    methods = {*METHODS, "combined"} - {"graphical_lasso"}
    table = read_edges(tmp_path / "a.tsv")
    assert set(table["method"]) == methods
    assert set(json.loads(stdout.splitlines()[-1])["agreement"]["all"]) == methods - {"correlation"}
    assert "graphical_lasso takes at most 10" in error
    code, _, error = call(app, *command, "--out", tmp_path / "b.tsv", "--methods", "ridge,graphical_lasso")
    assert code == 2
    assert "regulators and targets are too many: graphical_lasso takes at most 10" in error
    assert not (tmp_path / "b.tsv").exists()


def test_a_file_of_regulators_and_correlation_without_weights(app, scored, tiny_checkpoint, tmp_path):
    """Counts-only methods read the vocabulary of a checkpoint and never its weights."""
    folder, _ = scored
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, bare)
    (bare / "model.safetensors").unlink()
    (tmp_path / "tf.txt").write_text("ENSG00000000006\nENSG00000000011\nUNKNOWN\n")
    code, stdout, error = call(
        app, "network", folder / "cells.h5ad", "--out", tmp_path / "edges.tsv.gz", "--model", bare,
        "--methods", "ridge,correlation", "--regulators", tmp_path / "tf.txt", "--quiet", "--json",
        "--page", tmp_path / "network.html",
    )  # fmt: skip
    assert code == 0, error
    assert set(read_edges(tmp_path / "edges.tsv.gz")["source"]) == {"ENSG00000000006", "ENSG00000000011"}
    assert json.loads(stdout.splitlines()[-1])["n_regulators"] == 2
    page = (tmp_path / "network.html").read_text()
    assert "<title>Gene network of cells.h5ad</title>" in page
    assert '"methods":["correlation","ridge"]' in page


@pytest.fixture(scope="module")
def truth(scored):
    """A truth of made-up edges among the scored genes, five for every regulator."""
    folder, _ = scored
    universe = read_universe(folder / "edges.tsv")
    generator = np.random.default_rng(0)
    rows = [
        {"source": regulator, "target": target}
        for regulator in universe.regulators
        for target in generator.choice([g for g in universe.targets if g != regulator], 5, replace=False)
    ]
    pd.DataFrame(rows).to_csv(folder / "truth.tsv", sep="\t", index=False)
    return folder / "truth.tsv"


def test_truth_prints_every_method_beside_correlation(app, scored, truth, tiny_checkpoint, tmp_path):
    folder, _ = scored
    code, stdout, error = call(
        app, "network", folder / "cells.h5ad", "--out", tmp_path / "e.tsv", "--model", tiny_checkpoint,
        "--methods", "attention,attention_heads,ridge,combined", "--truth", truth, "--circular", "drawn",
        "--attention-heads", "0:0,1:1", "--attention-correction", "row_rank",
    )  # fmt: skip
    assert code == 0, error
    heads = [f"attention_l{layer}h{head}" for layer in (0, 1) for head in (0, 1)]
    for method in ("correlation", "attention", *heads, "ridge", "combined", "target mean", "target degree"):
        assert f"| all | {method} |" in stdout
    assert "- all, ridge: too few regulators to say whether it beats correlation" in stdout
    assert "Circular: drawn" in stdout
    assert "knows 12 of 12 regulators: intervals need 20" in error
    card = json.loads((tmp_path / "e.card.json").read_text())
    assert [row["method"] for row in card["rows"]] == [
        "correlation",
        "attention",
        *heads,
        "ridge",
        "combined",
    ]
    universe = read_universe(tmp_path / "e.tsv")
    assert universe.settings["truth"] == "truth.tsv"
    assert universe.settings["attention_heads"] == [[0, 0], [1, 1]]


def test_two_groups_compared_within_states(app, scored, tiny_checkpoint, tmp_path):
    folder, _ = scored
    code, stdout, error = call(
        app, "network", folder / "cells.h5ad", "--out", tmp_path / "e.tsv.gz", "--model", tiny_checkpoint,
        "--methods", "correlation", "--groups", "cell_type", "--compare", "B,A", "--splits", "10",
        "--top", "30", "--json",
    )  # fmt: skip
    assert code == 0, error
    table = pd.read_csv(tmp_path / "e.differences.tsv", sep="\t")
    assert len(table) == json.loads(stdout.splitlines()[-1])["n_differences"] == 30
    assert {"source_symbol", "difference", "low", "high", "q_value"} <= set(table.columns)
    assert set(table["group_a"]) == {"B"}
    np.testing.assert_allclose(table["difference"], table["weight_a"] - table["weight_b"], atol=1e-6)
    code, _, error = call(
        app, "network", folder / "cells.h5ad", "--out", tmp_path / "w.tsv", "--model", tiny_checkpoint,
        "--methods", "correlation,attention", "--within", "cell_type", "--quiet",
    )  # fmt: skip
    assert code == 0, error
    assert read_edges(tmp_path / "w.tsv")["weight"].abs().max() <= 1  # mean ranks
    assert read_universe(tmp_path / "w.tsv").settings["within"] == "cell_type"


def test_export(app, scored, tmp_path):
    folder, _ = scored
    start = ["network-export", folder / "edges.tsv", "--quiet"]
    code, stdout, error = call(app, *start, "--out", tmp_path / "n.graphml", "--json")
    assert code == 0, error
    assert json.loads(stdout.splitlines()[-1])["n_edges"] == 200
    one = ["--group", "A", "--method", "correlation", "--top", "7"]
    code, _, error = call(app, *start, *one, "--out", tmp_path / "n.tsv", "--format", "decoupler")
    assert code == 0, error
    net = pd.read_csv(tmp_path / "n.tsv", sep="\t")
    assert net["source"].str.startswith("GENE").all()
    assert len(net) == 7
    code, _, error = call(app, *start, "--out", tmp_path / "o.sif")
    assert code == 2
    assert "sif holds one group, and the table has 'A', 'B'; choose by --group" in error
    code, _, error = call(app, "network-export", folder / "none.tsv", "--out", tmp_path / "o.sif")
    assert code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.graphml", "n.tsv"]

"""The main job on tiny cells: six outputs that agree with each other, or none."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import geneformer_grn as gg
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.embedding import embed_cells
from geneformer_grn.network.edges import check_edges, read_universe
from geneformer_grn.workflows import run as workflow

OUTPUTS = ["cells.h5ad", "edges.tsv", "effects.tsv", "propagated.tsv", "report.html", "run.json"]
TABLES = ("edges", "effects", "propagated")
SMALL = {
    "device": "cpu", "max_passes": 400, "n_hubs": 3, "cells_per_gene": 4, "n_null": 10, "top": 40,
    "min_support": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tiny_adata, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("input") / "cells.h5ad"
    tiny_adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def made(source, tiny_checkpoint, tmp_path_factory):
    """A run on a file, into a folder that already holds a note and an older table."""
    out = tmp_path_factory.mktemp("made") / "out"
    out.mkdir()
    (out / "note.txt").write_text("mine")
    (out / "edges.tsv").write_text("old")
    return gg.run(source, out, model=tiny_checkpoint, groups="cell_type", seed=3, **SMALL), out


@pytest.fixture(scope="module")
def made_from_memory(tiny_adata, tiny_checkpoint, tmp_path_factory):
    """The same run from an AnnData: (result, folder, the AnnData, a copy made before)."""
    out = tmp_path_factory.mktemp("memory") / "deep" / "out"
    cells = tiny_adata.copy()
    cells.uns["mine"] = {"kept": 1}
    before = cells.copy()
    result = gg.run(cells, out, model=tiny_checkpoint, groups="cell_type", seed=3, **SMALL)
    return result, out, cells, before


@pytest.fixture(scope="module")
def made_of_few(source, tiny_checkpoint, tmp_path_factory):
    """Named genes (one unknown), regulators from a file, a sample of cells, no column of groups."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "regulators.txt").write_text("GENE1\nENSG00000000006  # by its ID\nnonsense\nGENE31\n")
    result = gg.run(
        source, folder / "out", model=tiny_checkpoint, regulators=str(folder / "regulators.txt"),
        perturb="gene6, ENSG00000000001,NOPE", n_cells=60, **SMALL,
    )  # fmt: skip
    return result, folder / "out"


def table(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / f"{name}.tsv", sep="\t")


def test_the_six_outputs_exist_and_others_are_kept(made):
    result, out = made
    found = sorted(path.name for path in out.iterdir())
    assert found == sorted([*OUTPUTS, "edges.universe.json", "note.txt"])
    assert all((out / name).stat().st_size > 200 for name in OUTPUTS)
    assert (out / "note.txt").read_text() == "mine"
    assert sorted(result.summary["outputs"]) == OUTPUTS
    assert result.summary["out"] == "out"


def test_cells_are_the_inputs_with_embedding_umap_and_provenance(made, source, tiny_encoder):
    _, out = made
    before, after = anndata.read_h5ad(source), anndata.read_h5ad(out / "cells.h5ad")
    pd.testing.assert_frame_equal(after.obs[list(before.obs.columns)], before.obs)
    pd.testing.assert_frame_equal(after.var, before.var)
    assert (after.X != before.X).nnz == 0
    assert after.obs["geneformer_group"].astype(str).tolist() == before.obs["cell_type"].astype(str).tolist()
    vocabulary = tiny_encoder.vocabulary
    expected = embed_cells(tiny_encoder, rank_cells(read_counts(before, vocabulary), vocabulary))
    np.testing.assert_allclose(after.obsm["X_geneformer"], expected, atol=1e-5)
    assert after.obsm["X_umap"].shape == (80, 2)
    assert np.isfinite(after.obsm["X_umap"]).all()
    facts = after.uns["geneformer_grn"]["run"]
    assert facts["model.name"] == "tiny"
    assert facts["model.vocabulary_fingerprint"] == vocabulary.fingerprint
    assert facts["parameters.seed"] == 3
    assert facts["input.n_matched"] == 60
    assert facts["groups.sizes.A"] == 40


def test_edges_are_scored_by_both_methods_in_every_group(made, tiny_vocabulary):
    result, out = made
    edges = table(out, "edges")
    assert len(check_edges(edges)) == len(edges) == result.summary["n_edges"] > 100
    kinds = edges.groupby(["group", "method"]).size()
    assert set(kinds.index) == {(g, m) for g in "AB" for m in ("attention", "correlation")}
    assert kinds.max() <= 40
    regulators = set(tiny_vocabulary.ensembl_ids[tiny_vocabulary.is_regulator])
    assert set(edges["source"]) <= regulators
    assert set(edges["target"]) <= set(tiny_vocabulary.ensembl_ids)
    assert (edges.loc[edges["method"] == "attention", "support"] >= 5).all()
    unscored = (edges["method"] == "correlation") & (edges["support"] < 5)  # by attention
    assert edges["agreement"].isna().tolist() == unscored.tolist()
    assert edges.loc[~unscored, "agreement"].between(0, 100).all()
    symbol_of = dict(zip(tiny_vocabulary.ensembl_ids, tiny_vocabulary.symbols, strict=True))
    assert edges["source_symbol"].tolist() == [symbol_of[gene] for gene in edges["source"]]
    universe = read_universe(out / "edges.tsv")
    assert universe.n_cells == {"A": 40, "B": 40}
    assert set(edges["source"]) <= set(universe.regulators) <= regulators
    assert set(edges["target"]) <= set(universe.targets)


def test_effects_are_one_row_per_gene_and_group(made):
    result, out = made
    effects = table(out, "effects")
    assert list(effects.columns[:11]) == [
        "gene", "kind", "group", "readout", "state", "shift", "n_cells", "ci_low", "ci_high", "p_value",
        "q_value",
    ]  # fmt: skip
    assert len(effects) == result.summary["n_effects"] == 3 * 2
    assert not effects.duplicated(["gene", "group"]).any()
    assert set(effects["group"]) == {"A", "B"}
    assert set(effects["kind"]) == {"delete"}
    assert effects["state"].isna().all()
    assert (effects["shift"] > 0).all()
    assert effects["n_cells"].between(1, 4).all()
    several = effects[effects["n_cells"] > 1]
    assert (several["ci_low"] <= several["shift"] + 1e-9).all()
    assert (several["shift"] <= several["ci_high"] + 1e-9).all()
    assert effects["p_value"].between(1 / 11 - 1e-9, 1).all()
    assert (effects["q_value"] >= effects["p_value"] - 1e-9).all()


def test_what_is_perturbed_are_the_hubs_of_the_edges(made):
    _, out = made
    edges = table(out, "edges")
    share: dict[str, float] = {}
    for _, part in edges.groupby(["group", "method"]):
        for gene in part["source"]:
            share[gene] = share.get(gene, 0) + 1 / len(part)
    chosen = set(table(out, "effects")["gene"])
    assert len(chosen) == 3
    assert min(share[gene] for gene in chosen) >= max(
        value for gene, value in share.items() if gene not in chosen
    ) - 1e-9  # fmt: skip


def test_effects_travel_along_the_edges_hop_by_hop(made):
    _, out = made
    edges, propagated = table(out, "edges"), table(out, "propagated")
    assert list(propagated.columns[:5]) == ["source", "gene", "group", "hop", "effect"]
    assert set(propagated["source"]) <= set(table(out, "effects")["gene"])
    assert np.isfinite(propagated["effect"]).all()
    for group, part in propagated.groupby("group"):
        assert set(part["hop"]) == {0, 1, 2, 3}
        start = part[part["hop"] == 0]
        assert (start["source"] == start["gene"]).all()
        assert (start["effect"] < 0).all(), "a deleted gene loses its expression"
        pairs = set(
            edges.loc[edges["group"] == group, ["source", "target"]].itertuples(index=False, name=None)
        )
        reached = part[part["hop"] == 1]
        assert set(reached[["source", "gene"]].itertuples(index=False, name=None)) <= pairs
    assert set(propagated["group"]) == {"A", "B"}


def test_the_record_is_plain_and_names_no_directory(made, made_of_few, source, tmp_path_factory):
    folders = [str(tmp_path_factory.getbasetemp()), str(source.parent)]
    for _, out in (made, made_of_few):
        text = (out / "run.json").read_text()
        record = json.loads(text, parse_constant=pytest.fail)  # no NaN, no Infinity
        assert set(record) >= {
            "input", "model", "parameters", "groups", "network", "perturbation", "versions", "timings_s",
        }  # fmt: skip
        cells = anndata.read_h5ad(out / "cells.h5ad")
        written = text + (out / "report.html").read_text() + str(cells.uns["geneformer_grn"])
        for folder in folders:
            assert folder not in written
        assert not [value for value in _strings(record) if value.startswith(("/", "~", "\\"))]


def _strings(value) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def test_the_record_says_what_was_run(made, source, tiny_checkpoint):
    from geneformer_grn._runtime import sha256_file

    _, out = made
    record = json.loads((out / "run.json").read_text())
    assert record["input"]["name"] == "cells.h5ad"
    assert record["input"]["sha256"] == sha256_file(source)
    assert record["model"]["weights_sha256"] == sha256_file(tiny_checkpoint / "model.safetensors")
    assert record["parameters"]["seed"] == 3
    assert record["parameters"]["groups"] == "cell_type"
    assert record["parameters"]["max_passes"] == 400
    assert 0 < record["perturbation"]["n_passes"] <= 400
    assert record["groups"]["sizes"] == {"A": 40, "B": 40}
    assert set(record["network"]["agreement"]) == {"A", "B"}
    assert -1 <= record["network"]["agreement"]["A"]["attention"]["spearman"] <= 1
    assert all(seconds >= 0 for seconds in record["timings_s"].values())
    assert "torch" in record["versions"]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sections: set[str] = set()
        self.rows: dict[str, int] = {}
        self.addresses: list[str] = []
        self._table = ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "section":
            self.sections.add(values.get("id"))
        if tag == "table":
            self._table = values.get("id", "")
        if tag == "tr":
            self.rows[self._table] = self.rows.get(self._table, 0) + 1
        self.addresses += [values[key] for key in ("src", "href", "xlink:href") if values.get(key)]


def test_the_report_has_its_sections_and_needs_no_network(made):
    _, out = made
    text = (out / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.sections >= {
        "headline", "inputs", "cells", "network", "perturbation", "downstream", "methods", "provenance",
    }  # fmt: skip
    assert all(address.startswith(("data:", "#")) or address in OUTPUTS for address in page.addresses)
    assert page.rows["edges"] > 10
    assert page.rows["effects"] == 1 + 6
    effects = table(out, "effects")
    strongest = effects.sort_values("shift").iloc[-1]
    named = f"{strongest['gene_symbol']} in {strongest['group']} ({strongest['n_cells']:,} cells"
    assert f"deleting {named}" in text
    n_low = (effects["q_value"] < 0.05).sum()
    assert f"{n_low:,} of {effects['shift'].notna().sum():,} deletions shift their cells more than" in text
    assert text.count("<svg") >= 3


def test_the_same_seed_gives_the_same_tables_from_file_and_memory(made, made_from_memory):
    for name in TABLES:
        pd.testing.assert_frame_equal(table(made[1], name), table(made_from_memory[1], name))
    one, two = (anndata.read_h5ad(out / "cells.h5ad") for out in (made[1], made_from_memory[1]))
    # A matrix product may differ in its last bit with where its operands lie in memory.
    np.testing.assert_allclose(one.obsm["X_geneformer"], two.obsm["X_geneformer"], rtol=1e-4, atol=1e-5)


def test_what_is_returned_is_what_is_written(made):
    result, out = made
    for name in TABLES:
        returned, written = getattr(result, name), table(out, name)
        assert sorted(returned.columns) == sorted(written.columns)
        for column in written.columns:
            if written[column].isna().all():
                assert (returned[column].isna() | (returned[column] == "")).all()
            elif pd.api.types.is_numeric_dtype(written[column]):
                np.testing.assert_allclose(returned[column].astype(float), written[column], rtol=1e-6)
            else:
                assert returned[column].tolist() == written[column].tolist()


def test_an_anndata_is_left_as_it_was(made_from_memory):
    result, _, cells, before = made_from_memory
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert (cells.X != before.X).nnz == 0
    assert list(cells.obsm) == []
    assert cells.uns == before.uns == {"mine": {"kept": 1}}
    assert set(result.cells.uns) == {"mine", "geneformer_grn"}


def test_named_genes_are_perturbed_and_unknown_ones_reported(made_of_few):
    _, out = made_of_few
    assert set(table(out, "effects")["gene_symbol"]) == {"GENE6", "GENE1"}
    record = json.loads((out / "run.json").read_text())
    assert any("NOPE" in warning for warning in record["warnings"])
    assert "NOPE" in (out / "report.html").read_text()


def test_regulators_come_from_the_file(made_of_few):
    _, out = made_of_few
    sources = set(table(out, "edges")["source_symbol"])
    assert sources <= {"GENE1", "GENE6", "GENE31"}
    assert len(sources) > 1
    record = json.loads((out / "run.json").read_text())
    assert record["parameters"]["regulators"] == "regulators.txt"


def test_a_sample_keeps_the_order_of_the_input(made_of_few, source):
    _, out = made_of_few
    before, after = anndata.read_h5ad(source), anndata.read_h5ad(out / "cells.h5ad")
    assert after.n_obs == 60
    rows = [before.obs_names.get_loc(name) for name in after.obs_names]
    assert rows == sorted(rows)
    assert json.loads((out / "run.json").read_text())["input"]["n_not_sampled"] == 20


def test_without_a_column_the_cells_are_clustered_and_it_is_said(made_of_few):
    _, out = made_of_few
    record = json.loads((out / "run.json").read_text())
    assert record["groups"]["source"] == "clusters"
    groups = anndata.read_h5ad(out / "cells.h5ad").obs["geneformer_group"]
    assert record["groups"]["sizes"] == groups.astype(str).value_counts().to_dict()
    assert "not an annotation" in re.sub(r"\s+", " ", (out / "report.html").read_text()).replace("\n", " ")


@pytest.fixture
def broken_at_the_end(monkeypatch, source, tiny_checkpoint):
    """Return a function that runs the main job into a folder and fails when all but the report is written."""

    def broken(error: BaseException, out: Path) -> None:
        def fail(path: Path, *_arguments, **_tables) -> None:
            assert (path.parent / "cells.h5ad").is_file(), "the other outputs are staged by now"
            raise error

        # What these steps find is of no interest here, and they are the slow ones.
        monkeypatch.setattr(workflow, "_write_report", fail)
        monkeypatch.setattr("geneformer_grn.workflows.run_steps.umap", lambda x, seed: x[:, :2])
        with pytest.raises(type(error)):
            gg.run(source, out, model=tiny_checkpoint, groups="cell_type", **(SMALL | {"max_passes": 200}))

    return broken


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "disk full")])
def test_a_failure_leaves_nothing_behind(broken_at_the_end, tmp_path, error):
    broken_at_the_end(error, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_earlier_results_alone(broken_at_the_end, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "edges.tsv").write_text("of an earlier run")
    broken_at_the_end(RuntimeError("no"), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["edges.tsv"]
    assert (out / "edges.tsv").read_text() == "of an earlier run"


def test_the_input_is_never_replaced(tiny_h5ad, tiny_checkpoint):
    """tiny_h5ad is called cells.h5ad, as an output is."""
    before = tiny_h5ad.read_bytes()
    with pytest.raises(ValueError, match=r"cells\.h5ad would replace the input"):
        gg.run(tiny_h5ad, tiny_h5ad.parent, model=tiny_checkpoint, **SMALL)
    assert tiny_h5ad.read_bytes() == before
    assert [path.name for path in tiny_h5ad.parent.iterdir()] == ["cells.h5ad"]


def test_unlabelled_cells_have_no_network(tiny_adata, tiny_checkpoint, tmp_path):
    cells = tiny_adata.copy()
    labels = cells.obs["cell_type"].astype(object)
    labels.iloc[:30] = None
    cells.obs["cell_type"] = labels
    cells.write_h5ad(tmp_path / "partly.h5ad")
    gg.run(tmp_path / "partly.h5ad", tmp_path / "out", model=tiny_checkpoint, groups="cell_type", **SMALL)
    after = anndata.read_h5ad(tmp_path / "out" / "cells.h5ad")
    assert (after.obs["geneformer_group"].iloc[:30] == "unlabelled").all()
    assert np.isfinite(after.obsm["X_geneformer"]).all()
    for name in TABLES:
        assert set(table(tmp_path / "out", name)["group"]) == {"B"}, name  # 10 of A are too few


def test_an_own_umap_is_kept(tiny_adata, tiny_encoder):
    from geneformer_grn.workflows.grouping import Grouping
    from geneformer_grn.workflows.run_steps import RunSettings, embed_input

    cells = tiny_adata.copy()
    cells.obsm["X_umap"] = np.zeros((80, 2))
    counts = read_counts(cells, tiny_encoder.vocabulary)
    found = embed_input(
        cells, tiny_encoder, counts, ranked=rank_cells(counts, tiny_encoder.vocabulary),
        grouping=Grouping(np.array(["x"] * 80, dtype=object), "column", ""), settings=RunSettings(),
    )  # fmt: skip
    assert not found.obsm["X_umap"].any()
    assert found.obsm["X_umap_geneformer"].any()

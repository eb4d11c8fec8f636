"""Labels carried from one file to another: planted classes, panels, unknown kinds, wrong calls."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint
from geneformer_grn.tl.annotate import annotate
from geneformer_grn.workflows.annotate_reference import over_shared_genes

N_GENES = 200
KINDS = ("alpha", "beta", "delta", "gamma")


@pytest.fixture(scope="module")
def vocabulary() -> GeneVocabulary:
    return read_vocabulary(resolve_checkpoint("mini"))


def cells(vocabulary, seed, kinds=KINDS, n=40, genes=slice(None)):
    """Cells of planted kinds: each expresses thirty genes of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(kinds, n)
    base = np.random.default_rng(0).lognormal(0, 0.7, N_GENES)
    rates = np.tile(base, (len(labels), 1))
    for place, kind in enumerate(KINDS):
        rates[np.ix_(labels == kind, np.arange(30 * place, 30 * place + 30))] *= 5
    counts = rng.poisson(rates).astype(np.float32)[:, genes]
    names = vocabulary.ensembl_ids[vocabulary.n_special :][:N_GENES][genes]
    obs = pd.DataFrame(
        {"kind": labels, "donor": [f"d{cell % 5}" for cell in range(len(labels))]},
        index=[f"s{seed}-{cell}" for cell in range(len(labels))],
    )
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))


def test_planted_kinds_are_carried_over_and_a_missing_one_is_unknown(vocabulary):
    query = cells(vocabulary, 1)
    annotate(query, cells(vocabulary, 2, kinds=KINDS[:3]), "kind", model=None, donors="donor")
    called, truth = query.obs["predicted_kind"].astype(str), query.obs["kind"].astype(str)
    known = truth.isin(KINDS[:3])
    assert (called == truth)[known].mean() > 0.85
    assert (called == "unknown")[~known].mean() > 0.8
    assert query.obs["probability_kind"].between(0, 1).all()
    table = query.obsm["probabilities_kind"]
    assert list(table.columns) == list(KINDS[:3])
    assert table.sum(axis=1).to_numpy() == pytest.approx(np.ones(len(query)), abs=1e-5)
    facts = query.uns["geneformer_grn"]["annotate"]
    assert facts["known_lost"] == pytest.approx(0.05, abs=0.02)
    assert facts["candidates"]["expression"]["accuracy"] > 0.95
    assert "donor" in facts["rule"]


def test_labels_of_the_query_and_order_of_the_reference_do_not_matter(vocabulary):
    reference, first, second = cells(vocabulary, 2), cells(vocabulary, 1), cells(vocabulary, 1)
    second.obs["kind"] = "nonsense"
    annotate(first, reference, "kind", model=None)
    annotate(second, reference, "kind", model=None)
    assert first.obs["predicted_kind"].tolist() == second.obs["predicted_kind"].tolist()
    assert first.obs["probability_kind"].tolist() == second.obs["probability_kind"].tolist()


@pytest.mark.parametrize(("features", "expected"), [("auto", ["cells 0"]), ("expression", [])])
def test_cells_are_embedded_before_the_folds(vocabulary, monkeypatch, features, expected):
    """One bar after the other, and not where only expression is asked for."""
    kept = []

    def folds(data, *_, **__):
        kept.extend(data.kept)
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "geneformer_grn.embedding.embed_cells", lambda _, ranked, __: np.zeros((len(ranked), 3))
    )
    monkeypatch.setattr("geneformer_grn.evaluation.annotation.annotate_cells", folds)
    with pytest.raises(KeyboardInterrupt):
        annotate(cells(vocabulary, 1), cells(vocabulary, 2), "kind", features=features)
    assert kept == expected


def test_without_unknown_every_cell_gets_a_label(vocabulary):
    query = cells(vocabulary, 1)
    annotate(query, cells(vocabulary, 2, kinds=KINDS[:2]), "kind", model=None, unknown=0)
    assert set(query.obs["predicted_kind"].astype(str)) <= set(KINDS[:2])


def test_only_genes_that_both_measured_are_used(vocabulary):
    from geneformer_grn.cells.counts import read_counts

    whole, panel = cells(vocabulary, 2), cells(vocabulary, 1, genes=slice(0, 120))
    read = [read_counts(adata, vocabulary, name=name) for adata, name in ((whole, "a"), (panel, "b"))]
    joined, n_shared = over_shared_genes(*read)
    assert n_shared == 120
    expected = np.concatenate([whole.X.toarray()[:, :120], panel.X.toarray()])
    order = np.argsort(np.searchsorted(joined.column_tokens, read[1].column_tokens))
    assert (joined.matrix.toarray()[:, np.argsort(order)] == expected).all()
    assert joined.n_counts == pytest.approx(expected.sum(axis=1))
    annotate(panel, whole, "kind", model=None)
    assert (panel.obs["predicted_kind"].astype(str) == panel.obs["kind"]).mean() > 0.8
    few = cells(vocabulary, 1, genes=slice(0, 20))
    with pytest.raises(ValueError, match="share 20 genes"):
        annotate(few, whole, "kind", model=None)


def test_the_model_may_be_used(vocabulary, tmp_path):
    query = cells(vocabulary, 1, n=8)
    annotate(query, cells(vocabulary, 2, n=8), "kind", features="both", folds=3)
    assert query.uns["geneformer_grn"]["annotate"]["features"] == "both"
    query.write_h5ad(tmp_path / "written.h5ad")
    read = ad.read_h5ad(tmp_path / "written.h5ad")
    assert read.obs["predicted_kind"].tolist() == query.obs["predicted_kind"].tolist()


@pytest.mark.parametrize(
    ("column", "labels", "message"),
    [
        ("nothing", None, "no obs column 'nothing'"),
        ("kind", ["alpha"] * 160, "there is nothing to tell apart"),
        ("kind", [f"k{i}" for i in range(160)], "classes"),
        ("donor_of", None, "no obs column"),
    ],
)
def test_references_that_teach_nothing_are_refused(vocabulary, column, labels, message):
    reference = cells(vocabulary, 2)
    if labels is not None:
        reference.obs["kind"] = labels
    with pytest.raises(ValueError, match=message):
        annotate(cells(vocabulary, 1), reference, column, model=None)


def test_small_classes_are_left_out_with_a_warning(vocabulary, caplog):
    reference = cells(vocabulary, 2)
    reference.obs["kind"] = reference.obs["kind"].astype(str)
    reference.obs.iloc[:2, 0] = "rare"
    query = cells(vocabulary, 1)
    annotate(query, reference, "kind", model=None)
    assert "rare (2)" in caplog.text
    assert "rare" not in query.obs["predicted_kind"].cat.categories


def test_from_the_command_line(vocabulary, tmp_path, capsys):
    from geneformer_grn.cli import main

    cells(vocabulary, 1, n=12).write_h5ad(tmp_path / "query.h5ad")
    cells(vocabulary, 2, n=12).write_h5ad(tmp_path / "reference.h5ad")
    out = tmp_path / "out.h5ad"
    call = [
        "annotate",
        tmp_path / "query.h5ad",
        "--reference",
        tmp_path / "reference.h5ad",
        "--label",
        "kind",
    ]
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in [*call, "--features", "expression", "--out", out, "--json"]])
    assert not left.value.code
    printed = capsys.readouterr().out
    summary = json.loads(printed.strip().splitlines()[-1])
    assert summary["n_cells"] == 48
    assert "held-out reference cells, by expression: accuracy" in printed
    assert "predicted_kind" in ad.read_h5ad(out).obs
    assert json.loads(out.with_suffix(".parameters.json").read_text())["label"] == "kind"
    for words, message in (
        ([*call, "--out", tmp_path / "out.tsv"], "--out must name"),
        ([*call[:3], tmp_path / "none.h5ad", *call[4:], "--out", out], "no such file or folder"),
        ([*call[:3], tmp_path, *call[4:], "--out", out], "no fine-tuned model"),
        ([*call, "--features", "magic", "--out", out], "features 'magic' are unknown"),
    ):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        assert left.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())

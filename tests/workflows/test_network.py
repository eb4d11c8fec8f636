"""Scoring per group: same pairs for all methods, groups as if alone, what is skipped and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.counts import log_normalised, read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.extraction.attention import AttentionSettings, attention_by_head
from geneformer_grn.extraction.head_selection import select_heads
from geneformer_grn.genes.vocabulary import VocabularyMismatchError
from geneformer_grn.network.scored import to_edges
from geneformer_grn.network.truth import truth_of
from geneformer_grn.workflows.network import NetworkSettings, score_groups, score_network
from geneformer_grn.workflows.network_group import score_group
from geneformer_grn.workflows.network_scorers import NetworkCells
from geneformer_grn.workflows.network_settings import affordable
from geneformer_grn.workflows.regulators import read_gene_list, regulator_tokens


@pytest.fixture(scope="module")
def counts(tiny_adata, tiny_vocabulary):
    return read_counts(tiny_adata, tiny_vocabulary)


@pytest.fixture(scope="module")
def labels(counts):
    return counts.obs["cell_type"].astype(str).to_numpy(dtype=object)


@pytest.fixture(scope="module")
def result(counts, tiny_vocabulary, tiny_encoder, labels):
    return score_network(
        counts,
        tiny_vocabulary,
        settings=NetworkSettings(methods=("attention", "correlation", "ridge"), top=40, max_targets=30),
        encoder=tiny_encoder,
        ranked=rank_cells(counts, tiny_vocabulary),
        labels=labels,
        groups_column="cell_type",
    )


def test_every_group_and_method_has_its_edges(result, tiny_vocabulary):
    sizes = result.edges.groupby(["group", "method"]).size()
    assert set(sizes.index) == {(g, m) for g in "AB" for m in ("attention", "correlation", "ridge")}
    assert (sizes == 40).all()
    assert set(result.edges["source"]) <= set(result.universe.regulators)
    assert set(result.edges["target"]) <= set(result.universe.targets)
    assert set(result.universe.regulators) <= set(result.universe.targets)
    assert result.universe.n_cells == {"A": 40, "B": 40}
    assert result.edges["source_symbol"].str.startswith("GENE").all()
    regulators = set(tiny_vocabulary.ensembl_ids[tiny_vocabulary.is_regulator])
    assert set(result.universe.regulators) <= regulators


def test_signs_and_agreement(result):
    signed = result.edges["method"] != "attention"
    assert (result.edges.loc[~signed, "sign"] == 0).all()
    assert (result.edges.loc[signed, "sign"] != 0).all()
    assert result.edges["agreement"].dropna().between(0, 100).all()
    for group in "AB":
        assert set(result.agreement[group]) == {"attention", "ridge"}
        assert result.agreement[group]["ridge"]["spearman"] > 0.3
        assert result.agreement[group]["ridge"]["with"] == "correlation"


def test_correlation_edges_are_those_of_the_group_alone(result, counts, tiny_vocabulary, labels):
    expression = log_normalised(counts).toarray()[labels == "B"]
    column = {gene: i for i, gene in enumerate(tiny_vocabulary.ensembl_ids[counts.column_tokens].tolist())}
    edges = result.edges.query("group == 'B' and method == 'correlation'")
    for row in edges.itertuples():
        expected = np.corrcoef(expression[:, column[row.source]], expression[:, column[row.target]])[0, 1]
        assert row.weight == pytest.approx(expected, abs=1e-5)


def test_targets_are_the_most_variable_and_the_regulators(result, counts, tiny_vocabulary):
    sd = log_normalised(counts).toarray().std(axis=0)
    genes = tiny_vocabulary.ensembl_ids[counts.column_tokens]
    most = set(genes[np.argsort(-sd, kind="stable")[:30]])
    assert set(result.universe.targets) == most | set(result.universe.regulators)


def test_small_groups_are_skipped_and_named(counts, tiny_vocabulary, caplog):
    labels = np.array(["big"] * 70 + ["small"] * 10, dtype=object)
    result = score_network(
        counts, tiny_vocabulary, settings=NetworkSettings(methods=("correlation",)), labels=labels
    )
    assert set(result.edges["group"]) == {"big"}
    assert result.skipped == {"small": 10}
    assert "small (10)" in caplog.text
    assert "agreement" not in result.edges.columns
    with pytest.raises(ValueError, match=r"no group has the 90 cells.*big \(70\), small \(10\)"):
        score_network(
            counts,
            tiny_vocabulary,
            settings=NetworkSettings(methods=("correlation",), min_cells=90),
            labels=labels,
        )


def test_methods_that_cannot_take_a_group_are_left_out_of_it_alone(caplog):
    def fails(error):
        def score(rows, regulators, targets):
            raise error

        return score

    score = {
        "a": lambda *genes: {"a": genes},
        "few": fails(ValueError("20 cells")),
        "no": fails(ImportError("x")),
    }
    call = (np.arange(3), np.arange(2), np.arange(4))
    assert set(score_group(score, *call, group="B", lenient=True)) == {"a"}
    assert [record.getMessage() for record in caplog.records] == [
        "left out: no: x",
        "group 'B': left out: few: 20 cells",
    ]
    assert set(score) == {"a", "few"}, "another group may take it"
    with pytest.raises(ValueError, match=r"^20 cells"):
        score_group(score, *call, group="B", lenient=False)
    with pytest.raises(ValueError, match="no method can take group 'B': few: 20 cells"):
        score_group({"few": score["few"]}, *call, group="B", lenient=True)


def test_what_takes_hours_runs_only_by_name(caplog):
    settings = NetworkSettings(methods="all", cells_per_regulator=10)

    def left_out(n_regulators, n_targets):
        caplog.clear()
        found = affordable(settings, n_genes=100, n_regulators=n_regulators, n_targets=n_targets)
        return set(settings.chosen) - set(found)

    assert not left_out(250, 1_000)
    assert not caplog.text
    assert left_out(250, 1_001) == {"genie3", "grnboost"}
    assert "ask for them by name (--methods genie3,grnboost)" in caplog.text
    assert not left_out(400, 100)
    assert left_out(401, 100) == {"influence"}
    assert left_out(1_501, 100) == {"influence", "gene_shifts"}
    for method in ("genie3", "influence"):
        named = NetworkSettings(methods=(method,))
        assert affordable(named, n_genes=100, n_regulators=10**4, n_targets=10**4) == (method,)


def test_heads_are_chosen_by_known_edges(counts, tiny_vocabulary, tiny_encoder):
    """The method is `select_heads` over all heads, and none of what is combined."""
    ranked, ids = rank_cells(counts, tiny_vocabulary), tiny_vocabulary.ensembl_ids
    cells = NetworkCells(
        expression=log_normalised(counts), counts=counts, vocabulary=tiny_vocabulary, encoder=tiny_encoder,
        ranked=ranked,
    )  # fmt: skip
    regulators = ids[tiny_vocabulary.is_regulator]
    rng = np.random.default_rng(0)
    known = [(r, t) for r in regulators for t in rng.choice(ids[5:], 8, replace=False)]
    truth = truth_of(pd.DataFrame(known, columns=["source", "target"]).assign(sign=0), name="some")
    settings = NetworkSettings(methods=("attention_selected", "correlation", "ridge", "combined"))
    result = score_groups(cells, settings=settings, truth=truth)
    assert set(result.edges["method"]) == {"attention_selected", "correlation", "ridge", "combined"}
    token_of = tiny_vocabulary.token_of
    asked = [
        np.array([token_of[gene] for gene in part])
        for part in (result.universe.regulators, result.universe.targets)
    ]
    heads = attention_by_head(
        tiny_encoder, ranked, regulators=asked[0], targets=asked[1],
        settings=AttentionSettings(min_support=settings.min_support),
    )  # fmt: skip
    expected = to_edges(select_heads(heads, truth).scores, top=settings.top, group="all")
    found = result.edges[result.edges["method"] == "attention_selected"]
    np.testing.assert_allclose(found["weight"], expected["weight"], rtol=1e-5)
    alone = score_groups(cells, settings=replace(settings, methods=settings.methods[1:]), truth=truth)
    for edges in (result.edges, alone.edges):
        edges.drop(edges.index[edges["method"] != "combined"], inplace=True)
    np.testing.assert_array_equal(result.edges["weight"], alone.edges["weight"])
    with pytest.raises(ValueError, match=r"chooses heads by known edges.*--truth"):
        score_groups(cells, settings=replace(settings, methods=("attention_selected",)))


def test_bad_calls(counts, tiny_vocabulary, tiny_encoder):
    with pytest.raises(ValueError, match=r"magic is not available; choose from attention, .*, or all"):
        NetworkSettings(methods=("magic",))
    with pytest.raises(ValueError, match="attention direction 'up' is unknown; use one of target_reads"):
        NetworkSettings(attention_direction="up")
    with pytest.raises(ValueError, match="combined needs two other methods or more, got correlation"):
        score_network(counts, tiny_vocabulary, settings=NetworkSettings(methods=("correlation", "combined")))
    with pytest.raises(ValueError, match="named twice"):
        NetworkSettings(methods=("ridge", "ridge"))
    with pytest.raises(ValueError, match="top must be at least 1"):
        NetworkSettings(top=0)
    with pytest.raises(ValueError, match="need a model"):
        score_network(counts, tiny_vocabulary)
    with pytest.raises(ValueError, match="3 group labels were given for 80 cells"):
        score_network(counts, tiny_vocabulary, labels=np.array(["a"] * 3, dtype=object))
    with pytest.raises(ValueError, match="regulators is expressed in 81 cells"):
        score_network(counts, tiny_vocabulary, settings=NetworkSettings(methods=("ridge",), min_support=81))
    other = replace(tiny_vocabulary, max_length=32)
    with pytest.raises(VocabularyMismatchError, match="the counts has vocabulary"):
        score_network(counts, other, encoder=tiny_encoder, ranked=rank_cells(counts, tiny_vocabulary))


def test_regulators_by_name(tiny_vocabulary, tmp_path, caplog):
    path = tmp_path / "tf.txt"
    path.write_text(
        "# factors\nENSG00000000003\tx\nENSG00000000001,y\n\nNOSUCHGENE # none\nENSG00000000003\n"
    )
    names = read_gene_list(path)
    assert names == ("ENSG00000000003", "ENSG00000000001", "NOSUCHGENE")
    tokens = regulator_tokens(names, tiny_vocabulary)
    assert tiny_vocabulary.ensembl_ids[tokens].tolist() == ["ENSG00000000001", "ENSG00000000003"]
    assert "regulators left out: 1 of 3 genes are not in the vocabulary of 60 genes" in caplog.text
    with pytest.raises(ValueError, match=r"regulators: 1 of 1 genes are not .* 'GENE33X' .*GENE33"):
        regulator_tokens(("GENE33X",), tiny_vocabulary)


def test_symbols_are_regulators_of_an_imported_vocabulary_too(tiny_vocabulary):
    tokens = regulator_tokens(("GENE3", "ENSG00000000001"), replace(tiny_vocabulary, aliases={}))
    assert tiny_vocabulary.ensembl_ids[tokens].tolist() == ["ENSG00000000001", "ENSG00000000003"]


def test_bad_gene_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="no gene list"):
        read_gene_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="names no gene"):
        read_gene_list(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_gene_list(tmp_path / "binary.txt")


def test_a_vocabulary_without_regulators_says_so(tiny_vocabulary):
    none = replace(tiny_vocabulary, is_regulator=np.zeros(len(tiny_vocabulary), dtype=bool))
    with pytest.raises(ValueError, match="--regulators FILE"):
        regulator_tokens("auto", none)

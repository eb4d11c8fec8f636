"""Scoring per group: same pairs for all methods, groups as if alone, what is skipped and what is refused."""

import numpy as np
import pytest

from geneformer_grn.cells.counts import log_normalised, read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.genes.vocabulary import VocabularyMismatchError
from geneformer_grn.workflows.network import NetworkSettings, _scored, score_network
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
    assert set(_scored(score, *call, group="B", lenient=True)) == {"a"}
    assert [record.getMessage() for record in caplog.records] == [
        "left out: no: x",
        "group 'B': left out: few: 20 cells",
    ]
    assert set(score) == {"a", "few"}, "another group may take it"
    with pytest.raises(ValueError, match=r"^20 cells"):
        _scored(score, *call, group="B", lenient=False)
    with pytest.raises(ValueError, match="no method can take group 'B': few: 20 cells"):
        _scored({"few": score["few"]}, *call, group="B", lenient=True)


def test_trees_of_too_many_pairs_run_only_by_name(caplog):
    settings = NetworkSettings(methods="all")
    assert set(affordable(settings, 100, 250_000)) == set(settings.chosen)
    assert not caplog.text
    assert set(settings.chosen) - set(affordable(settings, 100, 250_001)) == {"genie3", "grnboost"}
    assert "ask for them by name (--methods genie3,grnboost)" in caplog.text
    assert affordable(NetworkSettings(methods=("genie3",)), 100, 10**7) == ("genie3",)


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
    from dataclasses import replace

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
    from dataclasses import replace

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
    from dataclasses import replace

    none = replace(tiny_vocabulary, is_regulator=np.zeros(len(tiny_vocabulary), dtype=bool))
    with pytest.raises(ValueError, match="--regulators FILE"):
        regulator_tokens("auto", none)

"""Other tools' formats: what networkx, igraph and pandas read is what was written, and back."""

import gzip

import igraph
import networkx as nx
import numpy as np
import pandas as pd
import pytest

from geneformer_grn.network.edges import check_edges
from geneformer_grn.network.formats import FORMATS, read_network, write_network

SPI1, CEBPB, CD14, PAX5 = "ENSG00000066336", "ENSG00000172216", "ENSG00000170458", "ENSG00000196092"


@pytest.fixture
def edges():
    """Edges of two groups and two methods; one group has a name that XML has to escape."""
    return check_edges(
        pd.DataFrame(
            {
                "source": [SPI1, CEBPB, SPI1, SPI1, PAX5],
                "target": [CD14, CD14, CEBPB, CD14, SPI1],
                "weight": [0.5, -0.25, 0.1, 3.0, 1e-7],
                "support": [10, 20, 30, 40, 50],
                "sign": [1, -1, 1, 0, 0],
                "group": ['CD4 & "T" <b>', 'CD4 & "T" <b>', "B", "B", "B"],
                "method": ["ridge", "ridge", "ridge", "attention", "attention"],
                "p_value": [0.01, np.nan, 0.0, np.nan, np.nan],
                "q_value": [0.02, np.nan, 0.0, np.nan, np.nan],
            }
        )
    )


def test_graphml_as_networkx_reads_it(edges, tmp_path):
    assert write_network(edges, tmp_path / "n.graphml") == 5
    graph = nx.read_graphml(tmp_path / "n.graphml")
    assert isinstance(graph, nx.MultiDiGraph)  # SPI1 -> CD14 in two groups
    assert dict(graph.nodes(data="name")) == {SPI1: "SPI1", CEBPB: "CEBPB", CD14: "CD14", PAX5: "PAX5"}
    assert dict(graph.nodes(data="is_regulator")) == {SPI1: True, CEBPB: True, CD14: False, PAX5: True}
    back = pd.DataFrame(
        [{"source": source, "target": target, **data} for source, target, data in graph.edges(data=True)]
    )
    keys = ["source", "target", "group", "method"]
    pd.testing.assert_frame_equal(
        back.sort_values(keys, ignore_index=True),
        edges.sort_values(keys, ignore_index=True)[list(back.columns)],
        check_dtype=False,
        check_exact=False,
        rtol=1e-6,
    )


def test_graphml_as_igraph_reads_it(edges, tmp_path):
    write_network(edges, tmp_path / "n.graphml", names="ensembl")
    graph = igraph.Graph.Read_GraphML(str(tmp_path / "n.graphml"))
    assert graph.is_directed()
    assert set(graph.vs["name"]) == {SPI1, CEBPB, CD14, PAX5}
    found = {
        (graph.vs[edge.source]["name"], graph.vs[edge.target]["name"], edge["group"], edge["method"]): edge[
            "weight"
        ]
        for edge in graph.es
    }
    keys = zip(edges["source"], edges["target"], edges["group"], edges["method"], strict=True)
    expected = dict(zip(keys, edges["weight"], strict=True))
    assert found == {key: pytest.approx(float(weight), rel=1e-6) for key, weight in expected.items()}


def test_names_that_xml_does_not_allow(tmp_path):
    table = pd.DataFrame({"source": ["a\x00b<&\"'"], "target": ["é😀"], "weight": [1.0]})
    write_network(table, tmp_path / "n.graphml")
    graph = nx.read_graphml(tmp_path / "n.graphml")
    assert set(graph.nodes) == {"a�b<&\"'", "é😀"}


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".tsv.gz", ".csv.gz"])
def test_decoupler_there_and_back(edges, tmp_path, ending):
    path = tmp_path / f"net{ending}"
    assert write_network(edges, path, form="decoupler", group='CD4 & "T" <b>') == 2
    read = pd.read_csv(path, sep="," if ".csv" in ending else "\t")
    assert list(read.columns) == ["source", "target", "weight"]
    assert read.to_numpy().tolist() == [["SPI1", "CD14", 0.5], ["CEBPB", "CD14", -0.25]]
    pd.testing.assert_frame_equal(read_network(path)[["source", "target", "weight"]], read, check_dtype=False)


@pytest.mark.parametrize("header", [True, False])
def test_arboreto_there_and_back(edges, tmp_path, header):
    path = tmp_path / "adjacencies.tsv"
    write_network(edges, path, form="arboreto", method="ridge", group='CD4 & "T" <b>', names="ensembl")
    read = pd.read_csv(path, sep="\t")
    assert list(read.columns) == ["TF", "target", "importance"]
    assert read["importance"].tolist() == [0.5, 0.25]
    if not header:  # as arboreto's own guide saves it
        read.to_csv(path, sep="\t", header=False, index=False)
    back = read_network(path)
    assert back["source"].tolist() == [SPI1, CEBPB]
    assert back["weight"].tolist() == [0.5, 0.25]
    assert set(back["method"]) == {"arboreto"}
    assert (back["sign"] == 0).all()


def test_ours_there_and_back(edges, tmp_path):
    write_network(edges, tmp_path / "edges.tsv.gz", form="edges", names="ensembl")
    pd.testing.assert_frame_equal(read_network(tmp_path / "edges.tsv.gz"), edges)


def test_equal_tables_are_equal_files(edges, tmp_path):
    for name in ("a.tsv.gz", "b.tsv.gz"):
        write_network(edges, tmp_path / name, form="edges")
    assert gzip.decompress((tmp_path / "a.tsv.gz").read_bytes()).startswith(b"source\t")
    assert (tmp_path / "a.tsv.gz").read_bytes()[20:] == (tmp_path / "b.tsv.gz").read_bytes()[20:]


def test_sif(edges, tmp_path):
    write_network(edges, tmp_path / "n.sif", group='CD4 & "T" <b>')
    assert (tmp_path / "n.sif").read_text() == "SPI1\tactivates\tCD14\nCEBPB\trepresses\tCD14\n"
    write_network(edges, tmp_path / "n.sif", group="B", method="attention")
    assert (tmp_path / "n.sif").read_text() == "SPI1\tregulates\tCD14\nPAX5\tregulates\tSPI1\n"


def test_celloracle(edges, tmp_path):
    write_network(edges, tmp_path / "links.csv", form="celloracle_links", method="ridge")
    links = pd.read_csv(tmp_path / "links.csv")
    assert list(links.columns) == ["source", "target", "coef_mean", "coef_abs", "p", "-logp", "cluster"]
    assert links["coef_mean"].tolist() == [0.5, -0.25, 0.1]
    assert links["coef_abs"].tolist() == [0.5, 0.25, 0.1]
    assert links["-logp"][0] == pytest.approx(2.0)
    assert np.isnan(links["-logp"][1])
    assert np.isfinite(links["-logp"][2])
    assert links["cluster"].tolist() == ['CD4 & "T" <b>', 'CD4 & "T" <b>', "B"]
    write_network(edges, tmp_path / "base.parquet", form="celloracle_base", method="attention")
    base = pd.read_parquet(tmp_path / "base.parquet")
    assert list(base.columns) == ["peak_id", "gene_short_name", "PAX5", "SPI1"]
    assert base.set_index("gene_short_name").loc["CD14", ["PAX5", "SPI1"]].tolist() == [0.0, 1.0]
    assert base.set_index("gene_short_name").loc["SPI1", ["PAX5", "SPI1"]].tolist() == [1.0, 0.0]


def test_the_strongest_of_each_group_and_method(edges, tmp_path):
    assert write_network(edges, tmp_path / "t.tsv", form="edges", top=1, names="ensembl") == 3
    kept = read_network(tmp_path / "t.tsv")
    strongest = edges.groupby(["group", "method"])["weight"].agg(lambda weight: weight.abs().max())
    assert sorted(kept["weight"]) == sorted(strongest)


def test_two_genes_of_one_symbol_are_one_edge(tmp_path, caplog):
    table = pd.DataFrame(
        {
            "source": ["E1", "E2", "E1"],
            "target": ["E3", "E3", "E2"],
            "weight": [0.1, -0.9, 2.0],
            "source_symbol": ["TF", "TF", "TF"],
            "target_symbol": ["G", "G", "TF"],
        }
    )
    assert write_network(table, tmp_path / "n.tsv", form="decoupler") == 1
    assert pd.read_csv(tmp_path / "n.tsv", sep="\t").to_numpy().tolist() == [["TF", "G", -0.9]]
    assert "two genes of one symbol" in caplog.text


def test_refusals_leave_nothing(edges, tmp_path):
    with pytest.raises(ValueError, match=r"no format is known for 'n\.txt'; name one by --format \(edges: "):
        write_network(edges, tmp_path / "n.txt")
    with pytest.raises(ValueError, match="cytoscape format is known"):
        write_network(edges, tmp_path / "n.txt", form="cytoscape")
    for form in set(FORMATS) - {"edges", "graphml"}:
        with pytest.raises(ValueError, match=f"{form} holds one .*choose by --"):
            write_network(edges, tmp_path / "n.tsv", form=form)
    with pytest.raises(ValueError, match="no edges of method 'magic'; the table has 'ridge', 'attention'"):
        write_network(edges, tmp_path / "n.tsv", form="edges", method="magic")
    with pytest.raises(ValueError, match="no edges of group 'B'; the table has none"):
        write_network(edges[["source", "target", "weight"]].head(3), tmp_path / "n.sif", group="B")
    with pytest.raises(ValueError, match="by symbol or ensembl, not by 'entrez'"):
        write_network(edges, tmp_path / "n.graphml", names="entrez")
    assert not list(tmp_path.iterdir())


def test_what_is_no_network(tmp_path):
    with pytest.raises(FileNotFoundError, match="no edge table at"):
        read_network(tmp_path / "none.tsv")
    (tmp_path / "empty.tsv").touch()
    with pytest.raises(ValueError, match=r"empty\.tsv is no table of edges"):
        read_network(tmp_path / "empty.tsv")
    (tmp_path / "wide.tsv").write_text("TF\ttarget\timportance\nA\tB\tmuch\n")
    with pytest.raises(ValueError, match="'much' as weight in row 1"):
        read_network(tmp_path / "wide.tsv")


def test_beelines_table_is_read_whatever_separates_it(tmp_path):
    text = "Gene1,Gene2,EdgeWeight\nSPI1,CD14,0.5\nNA,PAX5,-0.25\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "b.csv").write_text(text.replace(",", "\t"))
    for name in ("a.csv", "b.csv"):
        found = read_network(tmp_path / name)
        assert found[["source", "target"]].to_numpy().tolist() == [["SPI1", "CD14"], ["NA", "PAX5"]]
        assert found["weight"].tolist() == [0.5, -0.25]
        assert set(found["method"]) == {"beeline"}

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.network.truth import canonical_genes, read_truth, truth_of

SPI1, CEBPB, CSF1R = "ENSG00000066336", "ENSG00000172216", "ENSG00000182578"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_symbols_and_ids_meet_under_one_name(tmp_path):
    table = write(
        tmp_path / "truth.tsv",
        f"source\ttarget\tsign\nSPI1\tCSF1R\t1\n{CEBPB}.9\t{CSF1R}\t-1\nmade_up\tCSF1R\t0\n",
    )
    truth = read_truth(table)
    found = {(row.source, row.target): row.sign for row in truth.edges.itertuples()}
    assert found == {(SPI1, CSF1R): 1, (CEBPB, CSF1R): -1, ("made_up", CSF1R): 0}
    assert truth.circular == ""


def test_published_columns_are_read(tmp_path):
    trrust = write(
        tmp_path / "trrust.tsv",
        f"tf\ttarget\tmode\tpmids\ttf_ensembl\ttarget_ensembl\nx\ty\tRepression\t1\t{SPI1}\t{CSF1R}\n",
    )
    assert read_truth(trrust).edges.values.tolist() == [[SPI1, CSF1R, -1]]
    beeline = write(tmp_path / "network.csv", "Gene1,Gene2,Type\nSPI1,CSF1R,+\n")
    assert read_truth(beeline).edges.values.tolist() == [[SPI1, CSF1R, 1]]


def test_inferred_classes_are_labelled_and_left_out_on_request(tmp_path):
    table = write(
        tmp_path / "dorothea.tsv",
        "tf\ttarget\tmode\tconfidence\nSPI1\tCSF1R\t1\tA\nCEBPB\tCSF1R\t-1\tE\n",
    )
    assert "inferred" in read_truth(table).circular
    kept = read_truth(table, confidence={"A"})
    assert len(kept) == 1
    assert kept.circular == ""
    with pytest.raises(ValueError, match="no confidence Z; it has A, E"):
        read_truth(table, confidence={"Z"})


def test_repeats_self_edges_and_contradictions():
    edges = pd.DataFrame(
        [("a", "b", 1), ("a", "b", 1), ("a", "c", 1), ("a", "c", -1), ("a", "a", 1), ("a", "", 1)],
        columns=["source", "target", "sign"],
    )
    truth = truth_of(edges, name="here")
    assert truth.edges.values.tolist() == [["a", "b", 1], ["a", "c", 0]]
    assert truth.n_self == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source\ttarget\tsign\nSPI1\tCSF1R\tperhaps\n", "'perhaps' as sign in row 1"),
        ("from\tto\nSPI1\tCSF1R\n", "no column source and target"),
        ("source\ttarget\n", "holds no edges"),
        ("source\ttarget\nSPI1\tSPI1\n", "no edge between two different genes"),
        ("", "no table of known edges"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_truth(write(tmp_path / "truth.tsv", text))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no truth table"):
        read_truth(tmp_path / "none.tsv")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_truth(tmp_path)


def test_canonical_names_of_nothing_and_of_missing_ones():
    assert canonical_genes([]).tolist() == []
    assert canonical_genes(["SPI1", "spi1", "gene 7", np.nan]).tolist() == [SPI1, SPI1, "gene 7", ""]

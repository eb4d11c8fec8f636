"""The gene table's build: by which rule a name finds its gene, on tables small enough to decide by hand."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from geneformer_grn.genes.build import (
    GENE_TABLE,
    ORTHOLOG_TABLE,
    REFERENCE_TABLES,
    SOURCES_FILE,
    build_gene_table,
)
from geneformer_grn.genes.table import DATA_FOLDER, GENES_FILE, IDENTIFIERS_FILE, read_gene_table

A, B, C, D, E, OLD, OLDER = (f"ENSG{number:011d}" for number in range(1, 8))
GENES = [
    # ensembl_id, symbol, hgnc_id, gencode_name, biotype, alias_symbols, previous_symbols
    (A, "AAA", "HGNC:1", "AAA", "lncRNA", "SHARED|c1orf9", "WAS"),
    (B, "BBB", "HGNC:2", "BBB", "protein_coding", "SHARED|AAA|WAS", "EARLIER"),
    (C, "CCC", "HGNC:3", "CCC", "protein_coding", "", "REFNAME"),
    (D, "Y_RNA", "", "Y_RNA", "misc_RNA", "", ""),
    (E, "Y_RNA", "", "Y_RNA", "misc_RNA", "", ""),
]
ORTHOLOGS = [
    (A, "ENSMUSG00000000001", "Bbb", "1"),
    (B, "ENSMUSG00000000002", "Bbb", "0"),  # the gene of that symbol in human, of low confidence though
    (C, "ENSMUSG00000000003", "Gm1", "0"),
    (D, "ENSMUSG00000000004", "Gm1", "1"),
    (E, "ENSMUSG00000000005", "", "1"),
    (OLD, "ENSMUSG00000000006", "Gone", "1"),  # its human gene is not in the table
]
COLUMNS = [
    "ensembl_id",
    "symbol",
    "hgnc_id",
    "gencode_name",
    "biotype",
    "alias_symbols",
    "previous_symbols",
]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    pd.DataFrame(GENES, columns=COLUMNS).to_csv(folder / GENE_TABLE, sep="\t", index=False)
    references = [
        [(E, "Y_RNA"), (A, "RP11-1.2"), (B, "REFNAME"), (OLD, "EARLIER"), (OLDER, "CCC")],
        [(OLDER, "CCC"), (C, "CCC-OLD")],
        [],
    ]
    for name, rows in zip(REFERENCE_TABLES, references, strict=True):
        pd.DataFrame(rows, columns=["ensembl_id", "symbol"]).to_csv(folder / name, sep="\t", index=False)
    columns = ["human_ensembl_id", "mouse_ensembl_id", "mouse_symbol", "confidence"]
    orthologs = pd.DataFrame(ORTHOLOGS, columns=columns)
    orthologs.to_csv(folder / ORTHOLOG_TABLE, sep="\t", index=False)
    return folder


@pytest.fixture
def regulators(tmp_path: Path) -> list[Path]:
    classes, plain = tmp_path / "classes.tsv", tmp_path / "plain.tsv"
    pd.DataFrame([("AAA", "tf", A), ("BBB", "cotf", B)], columns=["symbol", "class", "ensembl_id"]).to_csv(
        classes, sep="\t", index=False
    )
    pd.DataFrame([("ref-name", ""), ("EARLIER", ""), ("CCC", C)], columns=["symbol", "ensembl_id"]).to_csv(
        plain, sep="\t", index=False
    )
    return [classes, plain]


def test_names_go_to_the_gene_with_the_strongest_claim(sources, regulators, tmp_path):
    build_gene_table(sources, regulators, tmp_path / "out")
    table = read_gene_table(tmp_path / "out")
    assert table.ensembl_of["AAA"] == A  # approved beats alias, coding or not
    assert table.ensembl_of["WAS"] == A  # previous beats alias
    assert table.ensembl_of["SHARED"] == B  # two aliases: the protein-coding gene
    assert table.ensembl_of["REFNAME"] == B  # a reference's own name beats a previous symbol
    assert table.ensembl_of["Y_RNA"] == E  # two GENCODE names: the one in a reference
    assert table.ensembl_of["RP11-1.2"] == A
    assert table.ensembl_of["C1ORF9"] == A
    assert table.ambiguous_of["human"] == {"SHARED", "Y_RNA"}
    assert list(table.symbol_of) == [A, B, C, D, E]


def test_mouse_symbols_go_to_the_ortholog_of_that_name_or_of_high_confidence(sources, regulators, tmp_path):
    report = build_gene_table(sources, regulators, tmp_path / "out")
    table = read_gene_table(tmp_path / "out")
    ids = {f"ENSMUSG{number:011d}": gene for number, gene in enumerate((A, B, C, D, E), 1)}
    assert table.human_of_mouse == ids | {"BBB": B, "GM1": D}
    assert table.ambiguous_of["mouse"] == {"BBB", "GM1"}
    assert (report.n_orthologs, report.n_mouse_symbols, report.n_mouse_ambiguous) == (5, 2, 2)
    assert "GM1" not in table.ensembl_of  # a mouse symbol names no human gene


def test_retired_ids_follow_their_name_unless_both_are_in_one_reference(sources, regulators, tmp_path):
    report = build_gene_table(sources, regulators, tmp_path / "out")
    table = read_gene_table(tmp_path / "out")
    # EARLIER was B's symbol, but that reference holds B itself; CCC is not in the newest one, so OLDER is C.
    assert table.retired == {OLDER: C}
    assert (report.n_retired, report.n_retired_unresolved) == (1, 1)


def test_regulators_are_the_union_without_cofactors(sources, regulators, tmp_path):
    report = build_gene_table(sources, regulators, tmp_path / "out")
    table = read_gene_table(tmp_path / "out")
    assert table.regulators == {A, B, C}  # B by the name EARLIER of the second list, not as a co-factor
    assert report.n_regulators_unresolved == 1
    assert table.is_regulator(OLDER)


def test_two_builds_write_the_same_bytes(sources, regulators, tmp_path):
    for name in ("one", "two"):
        build_gene_table(sources, regulators, tmp_path / name)
    for name in (GENES_FILE, IDENTIFIERS_FILE, SOURCES_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / GENES_FILE).read_bytes()[4:8] == bytes(4)  # no time stamp
    assert str(tmp_path) not in (tmp_path / "one" / SOURCES_FILE).read_text()


def test_missing_tables_columns_and_lists_are_named(sources, regulators, tmp_path):
    with pytest.raises(ValueError, match="--regulators"):
        build_gene_table(sources, [], tmp_path / "out")
    pd.DataFrame({"gene": ["x"]}).to_csv(regulators[1], sep="\t", index=False)
    with pytest.raises(ValueError, match=r"plain\.tsv lacks the column\(s\) symbol, ensembl_id; it has gene"):
        build_gene_table(sources, regulators, tmp_path / "out")
    (sources / ORTHOLOG_TABLE).unlink()
    with pytest.raises(FileNotFoundError, match=ORTHOLOG_TABLE):
        build_gene_table(sources, regulators, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.shared
@pytest.mark.slow
def test_the_shipped_table_is_what_the_sources_give(shared_dir, tmp_path):
    data = shared_dir / "data"
    lists = [data / "grn/human_tf_cotf_pisces.tsv", data / "grn/human_tfs_beeline.tsv"]
    build_gene_table(data / "genes", lists, tmp_path)
    for name in (GENES_FILE, IDENTIFIERS_FILE):
        shipped, built = (gzip.decompress((folder / name).read_bytes()) for folder in (DATA_FOLDER, tmp_path))
        assert shipped == built
    assert (tmp_path / SOURCES_FILE).read_text() == (DATA_FOLDER / SOURCES_FILE).read_text()


@pytest.mark.shared
def test_names_agree_with_a_table_joined_by_others(shared_dir):
    """The joined table resolves names on its own; ours may differ where several genes share an alias."""
    joined = pd.read_csv(
        shared_dir / "data/genes/symbol_to_ensembl.tsv.gz", sep="\t", dtype=str, keep_default_na=False
    )
    table = read_gene_table(DATA_FOLDER)
    joined = joined[joined["ensembl_id"].isin(table.symbol_of) & (joined["symbol"] != joined["ensembl_id"])]
    approved = joined[joined["source"] == "hgnc_approved"]
    assert len(approved) > 39_000
    assert (approved["symbol"].str.upper().map(table.ensembl_of) == approved["ensembl_id"]).all()
    assert (joined["symbol"].str.upper().map(table.ensembl_of) == joined["ensembl_id"]).mean() > 0.997

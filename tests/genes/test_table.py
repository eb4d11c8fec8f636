"""The gene table that ships: what it holds, and that it holds together."""

import re

import pytest

from geneformer_grn.genes.table import (
    DATA_FOLDER,
    GENES_FILE,
    IDENTIFIERS_FILE,
    load_gene_table,
    read_gene_table,
)


def test_shipped_table_is_consistent():
    table = load_gene_table()
    genes = list(table.symbol_of)
    assert len(table) == 78_902
    assert genes == sorted(genes)
    assert all(re.fullmatch(r"ENSG\d{11}", gene) for gene in genes)
    assert set(table.ensembl_of.values()) <= set(genes)
    assert all(name == name.upper() for name in table.ensembl_of)
    assert table.regulators <= set(genes)
    assert 2_000 < len(table.regulators) < 3_000
    assert not set(table.retired) & set(genes)
    assert set(table.retired.values()) <= set(genes)
    assert set(table.human_of_mouse.values()) <= set(genes)
    assert all(name == name.upper() for name in table.human_of_mouse)
    assert len(table.ambiguous_of["human"]) == 1_384
    assert len(table.ambiguous_of["mouse"]) == 6


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("GATA1", "GATA1"),
        ("OCT4", "POU5F1"),  # alias
        ("MARCH1", "MARCHF1"),  # previous symbol, and what spreadsheets make dates of
        ("C1ORF112", "FIRRM"),
        ("CD3E", "CD3E"),
    ],
)
def test_names_people_use(name, symbol):
    table = load_gene_table()
    assert table.symbol_of[table.ensembl_of[name]] == symbol


def test_known_genes_are_what_they_are():
    table = load_gene_table()
    assert table.ensembl_of["CD74"] == "ENSG00000019582"
    assert table.biotype_of["ENSG00000019582"] == "protein_coding"
    assert table.retired["ENSG00000112096"] == table.ensembl_of["SOD2"]  # SOD2's ID in older references
    for regulator in ("GATA1", "SPI1", "STAT1", "NANOG"):
        assert table.is_regulator(table.ensembl_of[regulator])
    for other in ("CD74", "ACTB", "HBB"):
        assert not table.is_regulator(table.ensembl_of[other])


@pytest.mark.parametrize(
    ("mouse", "symbol"),
    [
        ("ENSMUSG00000024610", "CD74"),
        ("CD74", "CD74"),
        ("TRP53", "TP53"),
        ("MT-ND1", "MT-ND1"),
        ("NRG1", "NRG1"),  # two mouse genes have this symbol
    ],
)
def test_mouse_genes_have_their_orthologs(mouse, symbol):
    table = load_gene_table()
    assert table.symbol_of[table.human_of_mouse[mouse]] == symbol


def test_it_is_read_once():
    assert load_gene_table() is load_gene_table()


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"genes\.tsv\.gz is missing"):
        read_gene_table(tmp_path)


def test_the_shipped_files_stay_small():
    assert sum((DATA_FOLDER / name).stat().st_size for name in (GENES_FILE, IDENTIFIERS_FILE)) < 2.5e6

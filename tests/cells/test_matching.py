"""Columns of tokens: summed where several mean one gene, refused where an identifier is repeated."""

import logging

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.matching import check_duplicates, identifier_candidates, map_identifiers


def test_repeated_ensembl_ids_are_named():
    repeated = np.array(["ENSG00000000001", "ensg00000000001", "ENSG00000000002"], dtype=object)
    with pytest.raises(ValueError, match=r"ENSG00000000001 occurs 2 times in var_names.*--sum-duplicates"):
        check_duplicates(repeated, "var_names", "cells", refuse=True)
    assert check_duplicates(repeated, "var_names", "cells", refuse=False) == 1


@pytest.mark.parametrize("names", [["A", "A"], ["", ""], ["ENSG00000000001.1", "ENSG00000000001.2"]])
def test_other_repeats_are_not_refused(names):
    assert check_duplicates(np.array(names, dtype=object), "var_names", "cells", refuse=True) == 0


def mapped(vocabulary, index, gene_column=None, *, ours=False, species="human", **columns):
    var = pd.DataFrame(columns, index=pd.Index(index, dtype=object))
    return map_identifiers(
        var, vocabulary, gene_column=gene_column, mapped=ours, species=species, name="cells"
    )


def test_one_chance_match_does_not_decide_where_the_identifiers_are(tiny_vocabulary):
    symbols = [f"GENE{number}" for number in range(1, 21)]
    numbers = ["GENE1", *map(str, range(1, 20))]
    mapping, label = mapped(tiny_vocabulary, numbers, gene_symbol=symbols)
    assert label == "var['gene_symbol']"
    assert mapping.report["n_matched"] == 20
    assert mapped(tiny_vocabulary, numbers, "index", gene_symbol=symbols)[0].report["n_matched"] == 1


def test_near_ties_go_to_ensembl_ids_and_map_genes_decides(tiny_vocabulary):
    symbols = [f"GENE{number}" for number in range(1, 41)]
    ids = [f"ENSG{number:011d}" for number in [*range(1, 40), 999]]
    assert mapped(tiny_vocabulary, symbols, gene_ids=ids)[1] == "var['gene_ids']"
    few = [*ids[:5], *[""] * 35]
    assert mapped(tiny_vocabulary, symbols, ensembl_id=few)[1] == "var_names"
    mapping, label = mapped(tiny_vocabulary, symbols, ours=True, ensembl_id=few)
    assert (label, mapping.report["n_matched"]) == ("var['ensembl_id']", 5)


def test_all_places_looked_in_are_named(tiny_vocabulary):
    with pytest.raises(ValueError, match=r"looked in var_names \(first: '0'\), var\['symbol'\]"):
        mapped(tiny_vocabulary, ["0", "1"], symbol=["x", "y"])


@pytest.mark.parametrize("by", ["case", "ids"])
def test_mouse_genes_are_told(tiny_vocabulary, caplog, by):
    symbols = [f"GENE{number}" for number in range(1, 11)]
    columns = {}
    if by == "case":
        symbols = [symbol.capitalize() for symbol in symbols]
    else:
        columns = {"gene_ids": [f"ENSMUSG{number:011d}" for number in range(10)]}
    with caplog.at_level(logging.WARNING, "geneformer_grn"):
        mapping, label = mapped(tiny_vocabulary, symbols, **columns)
    assert label == "var_names"
    assert mapping.report["species_warning"].startswith("looks like mouse")
    assert "looks like mouse" in caplog.text


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_human_genes_are_not_taken_for_mouse(tiny_vocabulary, change):
    names = [change(name) for name in ["GENE1", "GENE2", "C1orf1"]]
    assert "species_warning" not in mapped(tiny_vocabulary, names)[0].report


def table(index, **columns):
    return pd.DataFrame(columns, index=pd.Index(index, dtype=object))


def names(var, column=None):
    return [label for label, _ in identifier_candidates(var, column)]


def test_identifiers_are_found_by_content():
    ids = ["ENSG00000000001.4", "ENSG00000000002"]
    assert names(table(["a", "b"], gene_ids=ids, n=[1, 2]))[0] == "var['gene_ids']"
    assert names(table(["a", "b"], accession=ids))[0] == "var['accession']"
    assert names(table(ids, gene_ids=["x", "y"]))[0] == "var_names"
    assert names(table(ids, ensembl_id=ids))[:2] == ["var['ensembl_id']", "var_names"]
    assert names(table(["0", "1"], gene_symbol=["A", "B"])) == ["var_names", "var['gene_symbol']"]


def test_the_column_asked_for_is_the_only_one():
    var = table(["ENSG00000000001"], symbol=pd.Categorical([None], categories=["A"]))
    assert names(var, "symbol") == ["var['symbol']"]
    assert next(identifier_candidates(var, "symbol"))[1].tolist() == [""]
    assert names(var, "index") == ["var_names"]
    with pytest.raises(ValueError, match="no column 'gene'; columns there: symbol"):
        names(var, "gene")

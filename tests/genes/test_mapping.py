"""Identifiers to tokens: versions, copies, retired IDs, symbols, mixtures, and vocabularies with aliases."""

from dataclasses import replace

import numpy as np
import pytest

from geneformer_grn.genes.mapping import WholeTable, find_genes, lookup, map_genes
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import SPECIAL_TOKENS, GeneVocabulary

CD74, GATA1, SOD2, POU5F1 = "ENSG00000019582", "ENSG00000102145", "ENSG00000291237", "ENSG00000204531"
PAR = "ENSG00000182378"  # PLCXD1, on both sex chromosomes
GENES = [CD74, GATA1, PAR, POU5F1, SOD2]


def make_vocabulary(aliases: dict[str, str] | None = None) -> GeneVocabulary:
    special = SPECIAL_TOKENS["default"]
    return GeneVocabulary(
        ensembl_ids=np.array([*special, *GENES], dtype=object),
        symbols=np.array([*special, "CD74", "GATA1", "PLCXD1", "POU5F1", "SOD2"], dtype=object),
        medians=np.array([np.nan] * len(special) + [1.0] * len(GENES)),
        is_regulator=np.zeros(len(special) + len(GENES), dtype=bool),
        aliases=aliases,
    )


def tokens_of(*genes: str) -> list[int]:
    return [make_vocabulary().token_of[gene] for gene in genes]


@pytest.mark.parametrize(
    ("identifier", "gene"),
    [
        (CD74, CD74),
        (CD74.lower(), CD74),
        (f" {CD74} ", CD74),
        (f"{CD74}.16", CD74),
        (f"{PAR}.15_PAR_Y", PAR),
        (f"{PAR}_PAR_Y", PAR),
        ("ENSGR0000182378.10", PAR),
        ("ENSG00000112096", SOD2),  # retired
        ("ENSG00000112096.17", SOD2),
        ("CD74", CD74),
        ("cd74", CD74),
        ("OCT4", POU5F1),
    ],
)
def test_every_way_to_name_a_gene(identifier, gene):
    assert map_genes([identifier], make_vocabulary()).tokens.tolist() == tokens_of(gene)


@pytest.mark.parametrize(
    "identifier",
    ["", "nan", "<pad>", "<cls>", "ENSG00000000003", "ENSMUSG00000024610", "TSPAN6", "CD74.1", "ENSG1"],
)
def test_what_is_no_gene_of_the_vocabulary(identifier):
    mapping = map_genes([identifier], make_vocabulary())
    assert mapping.tokens.tolist() == [-1]
    assert mapping.report["n_lost"] == 1
    assert mapping.report["first_lost"] == [identifier]


def test_mixed_files_are_mapped_one_by_one_and_counted():
    mapping = map_genes(["CD74", f"{CD74}.3", "GATA1", "unknown", "OCT4"], make_vocabulary())
    assert mapping.tokens.dtype == np.int32
    assert mapping.tokens.tolist() == [*tokens_of(CD74, CD74, GATA1), -1, *tokens_of(POU5F1)]
    assert mapping.naming == "mixed"
    report = mapping.report
    assert (report["n_genes"], report["n_matched"], report["n_lost"], report["n_summed"]) == (5, 4, 1, 1)
    assert report["first_lost"] == ["unknown"]
    assert report["first_summed"] == [f"{CD74}.3"]


@pytest.mark.parametrize(
    ("identifiers", "naming"),
    [([CD74, "noise"], "ensembl"), (["CD74", "ENSG00000999999"], "symbol"), (["ENSG00000999999"], "ensembl")],
)
def test_naming_is_that_of_the_matched(identifiers, naming):
    assert map_genes(identifiers, make_vocabulary()).naming == naming


def test_ambiguous_names_are_counted():
    vocabulary = make_vocabulary()
    symbols = vocabulary.symbols.copy()
    ids = vocabulary.ensembl_ids.copy()
    ids[-1], symbols[-1] = "ENSG00000195401", "Y_RNA"
    mapping = map_genes(["Y_RNA", "CD74"], replace(vocabulary, ensembl_ids=ids, symbols=symbols))
    assert mapping.report["n_matched"] == 2
    assert mapping.report["n_ambiguous"] == 1


def test_symbols_only_the_vocabulary_knows(tiny_vocabulary):
    assert map_genes(["gene7"], tiny_vocabulary).tokens.tolist() == [tiny_vocabulary.n_special + 6]


def test_own_aliases_decide_alone():
    vocabulary = make_vocabulary({CD74: CD74, "II": CD74, "CD74": GATA1, "GONE": "ENSG00000999999"})
    mapping = map_genes([CD74, "ii", "CD74", GATA1, "OCT4", "GONE", f"{CD74}.9"], vocabulary)
    assert mapping.tokens.tolist() == [*tokens_of(CD74, CD74, GATA1), -1, -1, -1, *tokens_of(CD74)]


def test_empty_aliases_are_the_identity():
    mapping = map_genes([CD74, CD74.lower(), "CD74", "ENSG00000112096", f"{CD74}.1"], make_vocabulary({}))
    assert mapping.tokens.tolist() == [*tokens_of(CD74, CD74), -1, -1, *tokens_of(CD74)]


def test_the_retired_id_wins_where_the_vocabulary_holds_it_itself():
    vocabulary = make_vocabulary()
    ids = vocabulary.ensembl_ids.copy()
    ids[-1] = "ENSG00000112096"
    assert map_genes(["ENSG00000112096"], replace(vocabulary, ensembl_ids=ids)).tokens.tolist() == [9]


def test_no_identifiers_give_an_empty_mapping():
    mapping = map_genes([], make_vocabulary())
    assert len(mapping.tokens) == 0
    assert mapping.report["n_genes"] == 0


# Versions, copies on the Y chromosome, retired IDs, symbols and aliases of one gene: all add up.
ONE_GENE = [
    ([f"{CD74}.16", f"{CD74}.3", CD74], CD74),
    ([PAR, f"{PAR}.15_PAR_Y", f"{PAR}_PAR_Y", "ENSGR0000182378.10", "ENSGR0000182378"], PAR),
    ([SOD2, "ENSG00000112096", "ENSG00000112096.2", "SOD2"], SOD2),
    (["OCT4", "POU5F1", "oct4", POU5F1], POU5F1),
]


@pytest.mark.parametrize(("identifiers", "gene"), ONE_GENE)
@pytest.mark.parametrize("aliases", [None, {}], ids=["table", "imported"])
def test_several_names_of_one_gene_are_summed(identifiers, gene, aliases):
    if aliases is not None:  # an imported vocabulary knows IDs only, and no retired ones
        identifiers = [name for name in identifiers if name.startswith("ENSG") and "112096" not in name]
    mapping = map_genes(identifiers, make_vocabulary(aliases))
    assert set(mapping.tokens) == set(tokens_of(gene))
    assert mapping.report["n_summed"] == len(identifiers) - 1
    assert mapping.report["first_summed"] == identifiers[1:][:5]
    assert mapping.report["n_lost"] == 0


def test_a_symbol_that_several_ids_carry_means_the_same_gene_every_time():
    table = load_gene_table()
    shared = sorted(table.ambiguous_of["human"])
    places = map_genes(shared, WholeTable()).tokens
    assert (places >= 0).all()
    assert [list(table.symbol_of)[place] for place in places] == [table.ensembl_of[name] for name in shared]
    assert map_genes(shared, WholeTable()).report["n_ambiguous"] == len(shared)
    assert map_genes([*shared, table.ensembl_of[shared[0]]], WholeTable()).report["n_ambiguous"] == len(
        shared
    )


MOUSE_CD74, MOUSE_PLCXD1 = "ENSMUSG00000024610", "ENSMUSG00000064247"


@pytest.mark.parametrize(
    "name", [MOUSE_CD74, f"{MOUSE_CD74}.15", MOUSE_CD74.lower(), "Cd74", "CD74", " cd74"]
)
@pytest.mark.parametrize("aliases", [None, {}, {CD74: CD74, "CD74": GATA1}])
def test_mouse_genes_map_through_their_orthologs(name, aliases):
    vocabulary = make_vocabulary(aliases)
    assert map_genes([name], vocabulary, species="mouse").tokens.tolist() == tokens_of(CD74)
    # Without asking, only the symbol can be taken for a human one.
    found = map_genes([name], vocabulary).tokens[0]
    assert (found >= 0) == (name[:3].upper() != "ENS" and aliases != {})


def test_mouse_genes_are_reported():
    names = ["Cd74", f"{MOUSE_CD74}.2", "Actb", "Gm99999", "H2-Aa", CD74, "ENSMUSG00000099999.1"]
    mapping = map_genes(names, make_vocabulary(), species="mouse")
    assert mapping.tokens.tolist() == [*tokens_of(CD74, CD74), -1, -1, -1, -1, -1]
    report = mapping.report
    assert (report["species"], report["n_matched"], report["n_lost"], report["n_summed"]) == (
        "mouse",
        2,
        5,
        1,
    )
    assert report["n_without_ortholog"] == 4  # Actb has one, which is not in the vocabulary
    assert report["naming"] == "mixed"
    assert map_genes([MOUSE_CD74], make_vocabulary(), species="mouse").naming == "ensembl"
    human = map_genes(["CD74"], make_vocabulary()).report
    assert human["species"] == "human"
    assert "n_without_ortholog" not in human


def test_mouse_symbols_of_several_genes_are_ambiguous():
    assert map_genes(["Nrg1", "Cd74"], WholeTable(), species="mouse").report["n_ambiguous"] == 1
    assert map_genes(["Nrg1", "Cd74"], WholeTable()).report["n_ambiguous"] == 0


@pytest.mark.parametrize("call", [lambda: map_genes([], make_vocabulary(), species="rat"),
                                  lambda: map_genes([], WholeTable(), species="rat")])  # fmt: skip
def test_other_species_are_refused(call):
    with pytest.raises(ValueError, match="species 'rat' is unknown; use human or mouse"):
        call()


def test_the_whole_table_in_a_vocabulary_s_place():
    table = load_gene_table()
    mapping = map_genes(["OCT4", f"{CD74}.2", "cd74", "nothing", "<pad>"], WholeTable())
    assert mapping.tokens.dtype == np.int32
    genes = list(table.symbol_of)
    assert [genes[place] if place >= 0 else None for place in mapping.tokens] == [
        POU5F1,
        CD74,
        CD74,
        None,
        None,
    ]
    report = mapping.report
    assert (report["n_matched"], report["n_lost"], report["n_summed"]) == (3, 2, 1)
    # More genes than a vocabulary can hold.
    assert map_genes(genes, WholeTable()).tokens.tolist() == list(range(78_902))
    assert map_genes(["Trp53"], WholeTable(), species="mouse").tokens.tolist() == [
        genes.index(table.ensembl_of["TP53"])
    ]


def test_the_same_names_mean_other_tokens_in_another_vocabulary():
    first, second = make_vocabulary(), make_vocabulary()
    swapped = second.ensembl_ids.copy()
    swapped[[5, 6]] = swapped[[6, 5]]
    second = replace(second, ensembl_ids=swapped)
    for _ in range(2):  # what is kept for one is never used for the other
        assert map_genes(["CD74"], first).tokens.tolist() == [5]
        assert map_genes(["CD74"], second).tokens.tolist() == [6]


def test_find_genes_keeps_the_order_asked_for():
    assert find_genes(["oct4", CD74, "GATA1"], make_vocabulary()) == tokens_of(POU5F1, CD74, GATA1)
    assert find_genes(["oct4", "gata1"], make_vocabulary({CD74: CD74})) == tokens_of(POU5F1, GATA1)


def test_lookup_parts_known_from_unknown():
    tokens, unknown = lookup(["oct4", "NOSUCH", f"{CD74}.3", "<pad>", "Oct4"], make_vocabulary())
    assert (tokens, unknown) == (tokens_of(POU5F1, CD74, POU5F1), ["NOSUCH", "<pad>"])
    # An imported V1 vocabulary maps a file's IDs by identity; what a user types may be a symbol all the same.
    assert lookup(["GATA1", "OCT4"], make_vocabulary({})) == (tokens_of(GATA1, POU5F1), [])


def test_find_genes_suggests_and_tells_known_genes_apart():
    with pytest.raises(
        ValueError, match=r"2 of 3 genes .* 'GATA11' \(nearest: GATA1\); 'ACTB' \(a known gene"
    ):
        find_genes(["GATA11", "ACTB", "CD74"], make_vocabulary())
    with pytest.raises(ValueError, match="'<pad>'"):
        find_genes(["<pad>"], make_vocabulary())


@pytest.mark.shared
def test_every_gene_of_the_golden_cells_maps(golden_dir):
    import anndata

    from geneformer_grn.genes.dictionaries import import_dictionaries

    var = anndata.read_h5ad(golden_dir / "pbmc400.h5ad", backed="r").var
    named = [str(gene) for gene in var["ensembl_id"]]
    # One of them is retired since; it stays retired where its name is ambiguous.
    assert map_genes(named, WholeTable()).report["n_matched"] >= len(named) - 1
    for setting in ("v1", "v2"):
        vocabulary = import_dictionaries(golden_dir / "dictionaries", setting)
        mapping = map_genes(named, vocabulary)
        assert mapping.naming == "ensembl"
        assert mapping.report["n_summed"] == 0
        oracle = [vocabulary.token_of.get(gene, -1) for gene in named]
        assert mapping.tokens.tolist() == oracle


@pytest.mark.shared
def test_symbols_map_through_the_published_aliases(golden_dir):
    from geneformer_grn.genes.dictionaries import import_dictionaries, read_published_pickle

    vocabulary = import_dictionaries(golden_dir / "dictionaries", "v2")
    published = read_published_pickle(golden_dir / "dictionaries/ensembl_mapping_dict_gc104M.pkl")
    names = list(published)[::97]
    oracle = [vocabulary.token_of.get(published[name], -1) for name in names]
    assert map_genes([name.lower() for name in names], vocabulary).tokens.tolist() == oracle

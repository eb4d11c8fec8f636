"""Non-zero medians and the vocabulary made of them, against numpy.median on dense matrices."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells import medians
from geneformer_grn.cells.counts import ReadSettings
from geneformer_grn.cells.medians import NonZeroMedians, VocabularySettings, build_vocabulary
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary

N_GENES = 40


def random_counts(seed: int, n_cells: int = 50) -> np.ndarray:
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.gamma(0.3, 2.0, N_GENES), size=(n_cells, N_GENES))
    counts[:, 0] += 1
    return counts.astype(np.float32)


def brute_force(blocks: list[np.ndarray], n_counts: list[np.ndarray], target_sum: float) -> np.ndarray:
    """Median of the non-zero entries of each column, from the dense matrix."""
    dense = np.concatenate([block.astype(np.float64) for block in blocks])
    scaled = dense / np.concatenate(n_counts)[:, None] * target_sum
    return np.array([np.median(column[column > 0]) if (column > 0).any() else np.nan for column in scaled.T])


@pytest.mark.parametrize("target_sum", [10_000.0, 1.0])
def test_medians_over_blocks_equal_numpy_to_the_last_bit(target_sum):
    blocks = [random_counts(seed, n_cells) for seed, n_cells in enumerate((50, 1, 33))]
    n_counts = [block.sum(axis=1, dtype=np.float64) + 17 for block in blocks]
    collected = NonZeroMedians(N_GENES, target_sum=target_sum)
    for block, totals in zip(blocks, n_counts, strict=True):
        collected.update(sparse.csr_matrix(block), totals, np.arange(N_GENES))
    expected = brute_force(blocks, n_counts, target_sum)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(collected.result(), expected)
    np.testing.assert_array_equal(collected.n_cells, (np.concatenate(blocks) > 0).sum(axis=0))


def test_blocks_may_hold_other_genes_in_another_order():
    first, second = random_counts(0), random_counts(1)
    shuffled = np.random.default_rng(2).permutation(N_GENES)[:25]
    collected = NonZeroMedians(N_GENES)
    collected.update(sparse.csr_matrix(first), first.sum(1), np.arange(N_GENES))
    collected.update(sparse.csr_matrix(second[:, shuffled]), second.sum(1), shuffled)
    absent = np.setdiff1d(np.arange(N_GENES), shuffled)
    n_counts = [first.sum(1).astype(float), second.sum(1).astype(float)]
    second = second.copy()
    second[:, absent] = 0
    np.testing.assert_array_equal(collected.result(), brute_force([first, second], n_counts, 1e4))


def test_stored_zeros_are_no_counts():
    matrix = sparse.csr_matrix((np.array([0.0, 4.0, 2.0]), [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    collected = NonZeroMedians(2, target_sum=8.0)
    collected.update(matrix, np.array([8.0, 2.0]), np.array([0, 1]))
    np.testing.assert_array_equal(collected.result(), [np.nan, 6.0])  # 4/8*8 and 2/2*8
    np.testing.assert_array_equal(collected.n_cells, [0, 2])


def test_wrong_blocks_are_refused():
    matrix = sparse.csr_matrix(np.ones((2, 2)))
    collected = NonZeroMedians(2)
    with pytest.raises(ValueError, match="same gene"):
        collected.update(matrix, np.ones(2), np.array([0, 0]))
    with pytest.raises(ValueError, match="1 cells have no positive total"):
        collected.update(matrix, np.array([1.0, 0.0]), np.array([0, 1]))


def write_file(path: Path, counts: np.ndarray, names: list[str], **uns: str) -> Path:
    cells = anndata.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(len(counts))]),
        var=pd.DataFrame(index=pd.Index(names)),
        uns=uns,
    )
    cells.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def genes() -> list[str]:
    """Real, protein-coding genes with a symbol of their own, ascending."""
    table = load_gene_table()
    coding = [gene for gene, kind in table.biotype_of.items() if kind == "protein_coding"]
    return [gene for gene in coding if table.ensembl_of.get(table.symbol_of[gene].upper()) == gene][:N_GENES]


@pytest.fixture
def two_files(tmp_path, genes) -> tuple[list[Path], list[np.ndarray]]:
    """One file by Ensembl ID, in descending order and with a gene nobody knows, one by symbol."""
    first, second = random_counts(0), random_counts(1, 30)
    stranger = np.full((len(first), 1), 3.0, dtype=np.float32)
    symbols = [load_gene_table().symbol_of[gene] for gene in genes]
    files = [
        write_file(
            tmp_path / "first.h5ad",
            np.hstack([first[:, ::-1], stranger]),
            [*genes[::-1], "stranger"],
            license="CC0",
            source="generated",
        ),
        write_file(tmp_path / "second.h5ad", second, symbols),
    ]
    return files, [first, second]


@pytest.mark.parametrize("min_cells", [1, 10])
def test_vocabulary_equals_brute_force(two_files, genes, min_cells):
    files, blocks = two_files
    vocabulary = build_vocabulary(files, VocabularySettings(min_cells=min_cells))
    totals = [blocks[0].sum(1) + 3.0, blocks[1].sum(1).astype(float)]  # the unknown gene counts
    seen = (np.concatenate(blocks) > 0).sum(axis=0) >= min_cells
    assert 0 < seen.sum() < N_GENES
    assert vocabulary.ensembl_ids[5:].tolist() == list(np.array(genes)[seen])
    np.testing.assert_array_equal(vocabulary.medians[5:], brute_force(blocks, totals, 1e4)[seen])
    table = load_gene_table()
    assert vocabulary.symbols[5:].tolist() == [table.symbol_of[gene] for gene in vocabulary.ensembl_ids[5:]]
    assert vocabulary.is_regulator[5:].tolist() == [
        table.is_regulator(gene) for gene in vocabulary.ensembl_ids[5:]
    ]


def test_a_vocabulary_survives_its_folder(two_files, tmp_path):
    vocabulary = build_vocabulary(two_files[0], VocabularySettings(min_cells=2, max_length=64))
    vocabulary.save(tmp_path / "vocabulary")
    again = GeneVocabulary.load(tmp_path / "vocabulary")
    assert again.fingerprint == vocabulary.fingerprint
    assert (again.setting, again.max_length) == ("default", 64)


def test_provenance_names_files_and_licences_but_no_folder(two_files, tmp_path):
    facts = build_vocabulary(two_files[0], VocabularySettings(min_cells=2)).provenance
    assert [source["name"] for source in facts["sources"]] == ["first.h5ad", "second.h5ad"]
    assert [source["naming"] for source in facts["sources"]] == ["ensembl", "symbol"]
    assert facts["licences"] == ["CC0", "not stated"]
    assert (facts["n_cells"], facts["min_cells"]) == (80, 2)
    assert str(tmp_path) not in str(facts)


def test_many_genes_are_read_in_parts(two_files, monkeypatch):
    whole = build_vocabulary(two_files[0], VocabularySettings(min_cells=2, max_genes=10))
    monkeypatch.setattr(medians, "_MOST_TOKENS", 20)
    parts = build_vocabulary(two_files[0], VocabularySettings(min_cells=2, max_genes=10))
    assert parts.fingerprint == whole.fingerprint
    assert parts.provenance == whole.provenance
    with pytest.raises(ValueError, match="holds at most 15; raise --min-cells"):
        build_vocabulary(two_files[0], VocabularySettings(min_cells=2))


def test_max_genes_keeps_those_seen_in_most_cells(two_files, genes):
    files, blocks = two_files
    vocabulary = build_vocabulary(files, VocabularySettings(min_cells=1, max_genes=7, setting="v1"))
    n_cells = (np.concatenate(blocks) > 0).sum(axis=0)
    expected = sorted(range(N_GENES), key=lambda gene: (-n_cells[gene], gene))[:7]
    assert vocabulary.ensembl_ids.tolist() == ["<pad>", "<mask>", *(genes[gene] for gene in sorted(expected))]
    assert vocabulary.max_length == 2048


def test_biotypes(two_files):
    with pytest.raises(ValueError, match="no gene is seen in 1 cells"):
        build_vocabulary(two_files[0], VocabularySettings(min_cells=1, biotypes=("lncRNA",)))
    assert len(build_vocabulary(two_files[0], VocabularySettings(biotypes=("protein_coding",)))) > 5


def test_what_cannot_be_built_is_refused(two_files, tmp_path):
    files, blocks = two_files
    with pytest.raises(ValueError, match="at least one"):
        build_vocabulary([])
    with pytest.raises(ValueError, match=r"no gene is seen in 1000 cells .*lower --min-cells"):
        build_vocabulary(files, VocabularySettings(min_cells=1000))
    with pytest.raises(ValueError, match=r"first\.h5ad has the same content as first\.h5ad"):
        build_vocabulary([files[0], files[0]])
    mouse = write_file(
        tmp_path / "mouse.h5ad", blocks[0], [f"ENSMUSG{number:011d}" for number in range(N_GENES)]
    )
    with pytest.raises(ValueError, match=r"mouse\.h5ad: none of its 40 genes .*ENSMUSG00000000000"):
        build_vocabulary([mouse])
    with pytest.raises(ValueError, match="no layer 'raw_counts'"):
        build_vocabulary([files[1]], VocabularySettings(read=ReadSettings(layer="raw_counts")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"setting": "v3"}, "setting 'v3' is unknown"),
        ({"min_cells": 0}, "at least 1"),
        ({"max_genes": 0}, "at least 1"),
        ({"max_length": 3}, "at least 4"),
        ({"target_sum": 0.0}, "positive"),
        ({"biotypes": ("protein",)}, r"unknown biotype\(s\) protein; known are .*protein_coding"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VocabularySettings(**settings)


@pytest.mark.shared
def test_medians_of_real_cells(shared_dir):
    path = shared_dir / "data/pretrain/ipsc_tung140.h5ad"
    vocabulary = build_vocabulary([path])
    cells = anndata.read_h5ad(path)
    dense = cells.X.toarray()
    totals = dense.sum(axis=1, dtype=np.float64)
    row_of = {gene: row for row, gene in enumerate(cells.var_names)}
    for token in range(vocabulary.n_special, len(vocabulary), 331):
        column = dense[:, row_of[vocabulary.ensembl_ids[token]]].astype(np.float64) / totals * 10_000
        assert vocabulary.medians[token] == np.median(column[column > 0])

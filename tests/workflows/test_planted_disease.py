from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.planted_disease import PlantedSettings, planted_disease
from geneformer_grn.workflows.regulator_labels import gene_families, regulator_task, symbol_stem


@pytest.fixture(scope="module")
def ill():
    return planted_disease(seed=3)


def test_the_disease_is_in_ill_donors_and_both_studies(ill):
    table = ill.obs.groupby("donor")["disease"].unique()
    assert all(len(states) == 1 for states in table)
    assert ill.obs.drop_duplicates("donor")["disease"].value_counts().to_dict() == {"healthy": 6, "ill": 6}
    assert (ill.obs.groupby("study")["disease"].nunique() == 2).all()
    assert (ill.obs.groupby("donor")["study"].nunique() == 1).all()
    assert (ill.obs["severity"] > 0).equals(ill.obs["disease"] == "ill")


def test_its_genes_are_up_and_others_are_not(ill):
    """Against the shipped cells: mean counts of ill over healthy cells."""
    counts = ill.X.tocsr()
    assert np.array_equal(counts.data, np.round(counts.data))
    is_ill = (ill.obs["disease"] == "ill").to_numpy()
    up = np.asarray(counts[is_ill].mean(axis=0)).ravel()
    base = np.asarray(counts[~is_ill].mean(axis=0)).ravel()
    usual = base > 0.2
    change = np.log(up[usual] / base[usual])
    planted = ill.var["disease_gene"].to_numpy()[usual]
    assert planted.sum() > 20
    assert np.median(change[planted]) > 0.4
    assert abs(np.median(change[~planted])) < 0.1


def test_a_seed_repeats_it(ill):
    again = planted_disease(seed=3)
    assert (again.X != ill.X).nnz == 0
    assert again.obs.equals(ill.obs)
    few = planted_disease(PlantedSettings(n_donors=8), seed=3)
    assert few.obs["donor"].nunique() == 8


def test_regulators_are_paired_with_genes_found_in_as_many_cells(tiny_vocabulary: GeneVocabulary):
    generator = np.random.default_rng(0)
    detection = generator.uniform(0.05, 0.9, 60)
    detection[::5] *= 0.5  # regulators are found in fewer cells
    counts = (generator.uniform(size=(400, 60)) < detection).astype(np.float32)
    cells = CellCounts(
        matrix=sparse.csr_matrix(counts), column_tokens=np.arange(5, 65), n_counts=counts.sum(axis=1),
        obs=None, kept=np.arange(400),
    )  # fmt: skip
    task, pairs = regulator_task("regulator", cells, tiny_vocabulary, whole_families=False, seed=0)
    for pair in np.unique(pairs):
        assert sorted(task.values[pairs == pair]) == [0, 1]
    assert task.classes == ("other", "regulator")
    assert np.bincount(task.values).tolist() == [12, 12]
    assert np.array_equal(task.values == 1, tiny_vocabulary.is_regulator[task.gene_tokens])
    found = counts.sum(axis=0)[task.gene_tokens - 5]
    raw = counts.sum(axis=0)
    apart = raw[np.arange(60) % 5 > 0].mean() - raw[::5].mean()
    assert abs(found[task.values == 0].mean() - found[task.values == 1].mean()) < 0.25 * apart
    few = CellCounts(
        matrix=cells.matrix[:3], column_tokens=cells.column_tokens, n_counts=cells.n_counts[:3], obs=None,
        kept=np.arange(3),
    )  # fmt: skip
    with pytest.raises(ValueError, match="0 regulators and 0 other"):
        regulator_task("regulator", few, tiny_vocabulary, whole_families=False, seed=0)


def test_families_and_pairs_lie_in_one_block_and_blocks_stay_small(tiny_vocabulary: GeneVocabulary):
    """Families of three, of either kind or mixed; all genes are found in as many cells."""
    generator = np.random.default_rng(1)
    symbols = np.array([f"FAM{chr(65 + n // 23)}{chr(65 + n % 23)}X{n}" for n in np.arange(400) // 3])
    is_regulator = np.zeros(405, dtype=bool)
    is_regulator[5 + generator.choice(400, 120, replace=False)] = True
    vocabulary = SimpleNamespace(
        symbols=np.concatenate([np.full(5, ""), symbols]), is_regulator=is_regulator,
        ensembl_ids=np.array([f"ENSG{n:011d}" for n in range(405)]),
    )  # fmt: skip
    counts = (generator.uniform(size=(100, 400)) < 0.5).astype(np.float32)
    cells = CellCounts(
        matrix=sparse.csr_matrix(counts), column_tokens=np.arange(5, 405), n_counts=counts.sum(axis=1),
        obs=None, kept=np.arange(100),
    )  # fmt: skip
    task, blocks = regulator_task("regulator", cells, vocabulary, whole_families=True, seed=0)
    assert np.bincount(task.values).tolist() == [120, 120]
    families = gene_families(task.gene_tokens, vocabulary)
    assert len(set(families)) > 60
    assert all(len(set(blocks[families == family])) == 1 for family in set(families))
    sizes = []
    for block in set(blocks):
        labels = task.values[blocks == block]
        assert labels.sum() * 2 == len(labels), "partners are in the block of the regulator"
        sizes.append(len(labels))
    assert len(sizes) == 12
    assert max(sizes) < 30


def test_symbol_stems(tiny_vocabulary):
    names = ["ZNF12", "ZNF13", "HOXA1", "HOXB13", "GATA3", "CREBBP", "7SK", "MT-ND1"]
    assert [symbol_stem(name) for name in names] == [
        "ZNF",
        "ZNF",
        "HOX",
        "HOX",
        "GAT",
        "CREBBP",
        "7SK",
        "MT-N",
    ]
    assert set(gene_families(np.arange(5, 20), tiny_vocabulary)) == {"GENE"}

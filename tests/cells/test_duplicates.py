"""Copies of cells are found by their counts: all planted ones, and no cells that only look alike."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.duplicates import find_duplicates
from geneformer_grn.cells.filters import read_left_out
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

N_GENES = 600


@pytest.fixture(scope="module")
def vocabulary() -> GeneVocabulary:
    return read_vocabulary(resolve_checkpoint("mini"))


def study(vocabulary, seed, n_cells=80, n_genes=N_GENES):
    """Cells of one kind: the same expected counts, drawn anew, so that they are as alike as cells can be."""
    rng = np.random.default_rng(seed)
    rates = np.random.default_rng(0).lognormal(-1.0, 1.2, N_GENES)[:n_genes]
    counts = rng.poisson(rates, (n_cells, n_genes)).astype(np.float32)
    genes = vocabulary.ensembl_ids[vocabulary.n_special :][:n_genes]
    names = [f"s{seed}-{cell}" for cell in range(n_cells)]
    return ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes))


def opened(vocabulary, **cells):
    settings = ReadSettings(drop_empty=True)
    return [read_counts(adata, vocabulary, settings, name=name) for name, adata in cells.items()]


def renamed(adata, seed=9):
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    copy = adata[order].copy()
    copy.obs_names = [f"copy-{place}" for place in range(copy.n_obs)]
    return copy, order


def test_planted_copies_are_found(vocabulary):
    whole = study(vocabulary, 1)
    some, order = renamed(whole[:30])
    panel = some[:, np.random.default_rng(2).permutation(N_GENES)[:300]].copy()
    table = find_duplicates(opened(vocabulary, whole=whole, some=some, panel=panel), len(vocabulary))
    for name in ("some", "panel"):
        found = table[table["file"] == name].sort_values("row")
        assert found["row"].tolist() == list(range(30))
        assert found["kept_file"].eq("whole").all()
        assert found["kept_row"].tolist() == order.tolist()
        assert found["kept_cell"].tolist() == whole.obs_names[order].tolist()
        assert found["share_equal"].eq(1).all()
    assert len(table) == 60


def test_other_cells_of_the_same_kind_are_not_copies(vocabulary):
    files = opened(
        vocabulary, a=study(vocabulary, 1), b=study(vocabulary, 2), c=study(vocabulary, 3, n_genes=200)
    )
    assert find_duplicates(files, len(vocabulary)).empty


@pytest.mark.parametrize("share", [0.005, 0.02, 0.3])
def test_a_few_other_counts_do_not_hide_a_copy_and_many_do(vocabulary, share):
    whole = study(vocabulary, 1)
    other = renamed(whole)[0]
    counts = other.X.toarray()
    changed = np.random.default_rng(4).random(counts.shape) < share
    other.X = sparse.csr_matrix(counts + changed)
    table = find_duplicates(opened(vocabulary, whole=whole, other=other), len(vocabulary))
    if share == 0.3:
        assert table.empty
    else:
        assert len(table) >= 0.9 * whole.n_obs
        assert (table["share_equal"] < 1).any()


def test_share_equal_is_what_a_dense_comparison_says(vocabulary):
    whole = study(vocabulary, 1, n_cells=20)
    other, order = renamed(whole)
    counts = other.X.toarray()
    counts[:, :9] += 1
    other.X = sparse.csr_matrix(counts)
    table = find_duplicates(opened(vocabulary, whole=whole, other=other), len(vocabulary)).sort_values("row")
    for row, genes, share in zip(table["row"], table["n_genes"], table["share_equal"], strict=True):
        a, b = whole.X[order[row]].toarray()[0], counts[row]
        either = (a > 0) | (b > 0)
        assert genes == either.sum()
        assert share == pytest.approx((a == b)[either].mean())
    assert len(table)


def test_copies_within_a_file_and_files_that_keep_their_cells(vocabulary):
    whole = study(vocabulary, 1)
    judged = renamed(whole[:10, :400])[0]
    rows = [*range(80), *range(5)]
    names = pd.DataFrame(index=[f"t{place}" for place in range(len(rows))])
    twice = ad.AnnData(whole.X[rows], obs=names, var=whole.var)
    within = find_duplicates(opened(vocabulary, twice=twice), len(vocabulary))
    assert within["row"].tolist() == [80, 81, 82, 83, 84]
    assert within["kept_row"].tolist() == [0, 1, 2, 3, 4]
    files = opened(vocabulary, whole=whole, judged=judged)
    assert set(find_duplicates(files, len(vocabulary))["file"]) == {"judged"}
    assert set(find_duplicates(files, len(vocabulary), stay=["judged"])["file"]) == {"whole"}
    with pytest.raises(ValueError, match="not among the files"):
        find_duplicates(files, len(vocabulary), stay=["nowhere"])


def test_cells_that_hold_too_little_to_tell_are_left_alone(vocabulary):
    poor = study(vocabulary, 1, n_genes=30)
    assert find_duplicates(opened(vocabulary, a=poor, b=renamed(poor)[0]), len(vocabulary)).empty


def test_a_bad_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such table"):
        read_left_out(tmp_path / "none.tsv", "a", pd.Index(["x"]))
    (tmp_path / "bad.tsv").write_text("file\tcell\na\tx\n")
    with pytest.raises(ValueError, match="no column row"):
        read_left_out(tmp_path / "bad.tsv", "a", pd.Index(["x"]))


@pytest.mark.shared
@pytest.mark.slow
def test_public_files_that_hold_each_others_cells(vocabulary, shared_dir):
    """Two panels of one study: all cells of the smaller table are in the larger, as their makers say."""
    folder = shared_dir / "data" / "dev_eval"
    names = ("kang_ifnb_1287g.h5ad", "kang_ifnb_2511g.h5ad", "pbmc3k.h5ad")
    files = [read_counts(folder / name, vocabulary, ReadSettings(drop_empty=True)) for name in names]
    table = find_duplicates(files, len(vocabulary))
    assert len(table) == len(files[1].kept)
    assert set(table["file"]) == {names[0]}
    assert set(table["kept_file"]) == {names[1]}

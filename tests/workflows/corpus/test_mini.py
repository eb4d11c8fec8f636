"""The recipe of the shipped model over the public files: the copies that are known, and no others."""

import json

import pytest

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.identity import file_rows
from geneformer_grn.workflows.corpus_build import build_corpus

KNOWN = {
    ("kang_ifnb_1287g.h5ad", "kang_ifnb_2511g.h5ad"),
    ("kang_ifnb_1287g.h5ad", "kang_ifnb_subset_9k.h5ad"),
    ("kang_ifnb_2511g.h5ad", "kang_ifnb_subset_9k.h5ad"),
    ("pbmc_multi_study.h5ad", "pbmc3k.h5ad"),
    ("mouse_pancreas_cider.h5ad", "mouse_pancreas_cider.h5ad"),  # it repeats cells of its own
}
"""One experiment in several panels, a sample that is another file, and a file that repeats its own cells."""


@pytest.mark.shared
@pytest.mark.slow
def test_no_pair_between_studies_and_no_cell_of_pbmc3k_in_training(repository, shared_dir, tmp_path):
    import anndata

    data = shared_dir / "data"
    card = build_corpus(repository / "pretrain" / "corpora" / "mini.toml", data, tmp_path / "out")
    assert {(pair["file"], pair["kept_file"]) for pair in card["duplicates"]["pairs"]} == KNOWN
    assert card["may_be_shipped"]
    for entry in card["files"]:
        assert (
            sum(entry["left_out"].values()) + entry["n_train"] + entry["n_held_out"] == entry["n_cells_file"]
        )
    train = Corpus.open(tmp_path / "out" / "train")
    obs = anndata.read_h5ad(data / "pretrain" / "pbmc_multi_study.h5ad", backed="r").obs
    trained = set(obs["donor"].iloc[file_rows(train, "pbmc_multi_study.h5ad")])
    assert trained.isdisjoint({"GSE115189", "10x_6K"})  # the person of pbmc3k, under two names
    assert len(trained) == 5
    assert str(data) not in json.dumps(card)

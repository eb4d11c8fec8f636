"""`info` of a corpus says what `corpus info` says, one fact a line."""

import anndata

from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.workflows.describe import describe


def test_a_corpus(tiny_h5ad, tiny_vocabulary, tmp_path):
    settings = CorpusSettings(columns=("cell_type",))
    corpus = write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary, settings)
    facts = describe(tmp_path / "corpus")
    assert (facts["type"], facts["path"]) == ("corpus", str(tmp_path / "corpus"))
    assert facts["n_cells"] == anndata.read_h5ad(tiny_h5ad).n_obs
    assert facts["n_tokens"] == len(corpus.input_ids)
    assert facts["columns"] == "input_ids, length, cell_id, source, cell_type"
    assert facts["files"] == "cells.h5ad"
    assert facts["vocabulary_fingerprint"] == tiny_vocabulary.fingerprint
    assert "datasets.load_from_disk" in facts["read_with"]
    assert all(isinstance(value, str | int | float) for value in facts.values())

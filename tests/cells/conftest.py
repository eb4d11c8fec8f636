"""A tiny corpus for the tests of this room."""

import pytest

from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus


@pytest.fixture(scope="session")
def tiny_corpus(tiny_adata, tiny_vocabulary, tmp_path_factory):
    """The tiny cells in two files, ``first.h5ad`` and ``second.h5ad``, 40 each, with their ``cell_type``."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, part in (("first", tiny_adata[:40]), ("second", tiny_adata[40:])):
        part.copy().write_h5ad(folder / f"{name}.h5ad")
    files = [folder / "first.h5ad", folder / "second.h5ad"]
    return write_corpus(files, folder / "corpus", tiny_vocabulary, CorpusSettings(columns=("cell_type",)))

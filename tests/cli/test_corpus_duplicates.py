"""``corpus duplicates`` and ``tokenize --without``: from copies to a corpus that holds each cell once."""

import json

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint


def write_cells(path, counts, prefix):
    vocabulary = read_vocabulary(resolve_checkpoint("mini"))
    genes = vocabulary.ensembl_ids[vocabulary.n_special :][: counts.shape[1]]
    names = [f"{prefix}{cell}" for cell in range(len(counts))]
    cells = ad.AnnData(
        sparse.csr_matrix(counts), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes)
    )
    cells.write_h5ad(path)


def test_copies_are_listed_and_left_out(invoke, tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.lognormal(-1, 1.2, 600), (40, 600)).astype(np.float32)
    write_cells(tmp_path / "whole.h5ad", counts, "a")
    write_cells(tmp_path / "some.h5ad", counts[rng.permutation(40)[:12], :400], "b")
    table, corpus = tmp_path / "copies.tsv", tmp_path / "corpus"
    whole, some = tmp_path / "whole.h5ad", tmp_path / "some.h5ad"
    answer = invoke("corpus", "duplicates", whole, some, "--keep", some, "--out", table, "--json")
    assert answer.code == 0
    assert json.loads(answer.out.strip().splitlines()[-1])["n_copies"] == 12
    assert "12 of whole.h5ad are in some.h5ad" in answer.out
    assert invoke("tokenize", whole, some, "--out", corpus, "--without", table, "--quiet").code == 0
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest["n_cells"] == 40
    assert manifest["n_dropped_copies"] == 12
    assert manifest["settings"]["read"]["without"] == "copies.tsv"


def test_a_table_of_another_state_is_refused(invoke, tmp_path):
    write_cells(tmp_path / "cells.h5ad", np.ones((5, 60), dtype=np.float32), "a")
    table, out = tmp_path / "copies.tsv", tmp_path / "corpus"
    table.write_text("file\trow\tcell\ncells.h5ad\t3\tanother\n")
    answer = invoke("tokenize", tmp_path / "cells.h5ad", "--out", out, "--without", table)
    assert answer.code == 2
    assert "another state" in answer.err
    assert not out.exists()
    missing = invoke("tokenize", tmp_path / "cells.h5ad", "--out", out, "--without", tmp_path / "none.tsv")
    assert missing.code == 2
    assert "no such table" in missing.err

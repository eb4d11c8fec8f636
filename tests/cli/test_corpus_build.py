"""``corpus build`` as it is called: the card on the screen, a line of JSON, exit code 2 for a bad recipe."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.genes.vocabulary import GeneVocabulary


@pytest.fixture
def recipe(tmp_path):
    """A recipe over two files of 20 cells, of which one holds 5 cells of the other."""
    vocabulary = GeneVocabulary.load("human")
    genes = vocabulary.ensembl_ids[vocabulary.n_special :][:120]
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.lognormal(0, 1, 120), (35, 120)).astype(np.float32)
    (tmp_path / "data").mkdir()
    for name, rows in (("a", range(20)), ("b", range(15, 35))):
        cells = ad.AnnData(
            sparse.csr_matrix(counts[list(rows)]),
            obs=pd.DataFrame(index=[f"{name}{row}" for row in rows]),
            var=pd.DataFrame(index=genes),
            uns={"license": "CC0"},
        )
        cells.write_h5ad(tmp_path / "data" / f"{name}.h5ad")
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[files]\ncells = ["*.h5ad"]\n[held_out]\nfiles = ["b.h5ad"]\n[vocabulary]\nmin_cells = 2\n'
    )
    return path


def test_build(invoke, recipe, tmp_path):
    out = tmp_path / "out"
    answer = invoke("corpus", "build", recipe, "--data", tmp_path / "data", "--out", out, "--json")
    assert answer.code == 0
    assert "| a.h5ad | 20 | 15 | 0 | 5 copy of a held-out cell | CC0 |" in answer.out
    summary = json.loads(answer.out.strip().splitlines()[-1])
    assert summary["parts"]["train"]["n_cells"] == 15
    assert summary["parts"]["heldout"]["n_cells"] == 20
    assert summary["out"] == "out"
    assert (out / "data_card.md").read_text().strip() in answer.out
    told = json.loads(invoke("corpus", "info", out / "train", "--json", "--quiet").out)
    assert told["n_cells"] == 15


def test_a_bad_recipe_exits_2(invoke, recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("[held_out]\nfiles", "[held_out]\nfile"))
    answer = invoke("corpus", "build", recipe, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "unknown key 'held_out.file'; did you mean 'held_out.files'?" in answer.err
    assert not (tmp_path / "out").exists()

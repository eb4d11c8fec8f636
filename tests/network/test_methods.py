"""Every method of the table: one call, one result, whatever the matrix."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.network.methods import GENE_LIMITS, MODEL_FREE, ON_DEVICE, PAIR_LIMITS, SEEDED
from geneformer_grn.network.propagation import UNITLESS_METHODS
from geneformer_grn.network.scored import to_edges

GENES = np.array([f"G{i}" for i in range(8)], dtype=object)


@pytest.mark.parametrize("method", MODEL_FREE)
def test_one_call_for_all(method):
    """G1 follows G0, G2 goes against it; the rest is noise. Dense and sparse cells are the same cells."""
    generator = np.random.default_rng(0)
    cells = np.maximum(generator.normal(size=(300, 8)), 0.0)
    cells[:, 1] = np.maximum(cells[:, 0] + 0.3 * generator.normal(size=300), 0.0)
    cells[:, 2] = np.maximum(1.0 - cells[:, 0] + 0.3 * generator.normal(size=300), 0.0)
    call = {"regulators": ["G0", "G7"], "targets": ["G1", "G2", "G3", "G7"]}
    dense = MODEL_FREE[method](cells, GENES, **call)
    pairs = MODEL_FREE[method](sparse.csr_matrix(cells), GENES, **call)
    np.testing.assert_allclose(dense.weights, pairs.weights, atol=1e-6)
    assert pairs.method == method
    assert pairs.weights.dtype == np.float32
    assert pairs.support.dtype == np.int32
    assert np.isnan(pairs.weights[1, 3])
    best = to_edges(pairs, top=2).sort_values("target")
    signs = [1, -1] if pairs.signed else [0, 0]
    assert best[["source", "target"]].to_numpy().tolist() == [["G0", "G1"], ["G0", "G2"]]
    assert best["sign"].tolist() == signs


def test_the_tables_name_the_same_methods():
    assert set(MODEL_FREE) >= ON_DEVICE | set(GENE_LIMITS) | set(PAIR_LIMITS)
    for option, methods in (("seed", SEEDED), ("device", ON_DEVICE)):
        takes = {name for name, infer in MODEL_FREE.items() if option in inspect.signature(infer).parameters}
        assert takes == methods
    assert {"correlation", "spearman", "partial_correlation", "graphical_lasso"} < UNITLESS_METHODS
    assert not UNITLESS_METHODS & {"ridge", "lasso", "elastic_net"}


@pytest.mark.parametrize(("method", "extra"), [("grnboost", "trees"), ("bayesian_network", "bayes")])
def test_a_missing_extra_names_the_way_out(method, extra, monkeypatch):
    for library in ("lightgbm", "pgmpy", "pgmpy.causal_discovery"):
        monkeypatch.setitem(sys.modules, library, None)
    cells = np.random.default_rng(0).normal(size=(30, 8))
    cells[:, 1] += 3 * cells[:, 0]
    with pytest.raises(ImportError, match=rf'pip install "geneformer-grn\[{extra}\]"'):
        MODEL_FREE[method](cells, GENES, regulators=["G0"], targets=["G1"])


def test_the_table_loads_no_heavy_library():
    code = (
        "import sys, geneformer_grn.network.methods\n"
        "print({'torch', 'sklearn', 'lightgbm', 'pgmpy', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

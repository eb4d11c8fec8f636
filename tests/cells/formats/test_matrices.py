"""Matrices in memory as rows: copied only where they have to be."""

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.cells.formats.matrices import as_csr


def test_as_csr_copies_nothing_that_is_csr(tiny_adata):
    assert np.shares_memory(as_csr(tiny_adata.X, "X").data, tiny_adata.X.data)


@pytest.mark.parametrize(
    "convert", [sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array, lambda X: X.toarray()]
)
def test_as_csr_from_anything(tiny_adata, convert):
    assert (as_csr(convert(tiny_adata.X), "X") != tiny_adata.X).nnz == 0


def test_as_csr_refuses_what_has_no_numbers():
    with pytest.raises(TypeError, match="X is a list"):
        as_csr([[1, 2]], "X")
    with pytest.raises(ValueError, match="holds object values"):
        as_csr(np.array([["a"]], dtype=object), "X")


def test_half_precision_becomes_float32():
    matrix = as_csr(np.array([[0, 2], [1, 0]], dtype=np.float16), "X")
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix.toarray(), [[0, 2], [1, 0]])

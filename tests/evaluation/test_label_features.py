"""What label baselines read, against scikit-learn."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from geneformer_grn.evaluation.label_features import over_deviation


def test_log_counts_over_their_deviation_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    counts = generator.poisson(0.7, (60, 12)).astype(np.float32)
    counts[:, 3] = 0  # in no cell
    counts[:, 5] = 2  # the same in all
    counts[:40, 7] = 0  # in no cell seen
    seen = np.arange(40)
    found = over_deviation(sparse.csr_matrix(counts), seen)
    kept = np.setdiff1d(np.arange(12), [3, 5, 7])
    scaler = StandardScaler(with_mean=False).fit(counts[seen][:, kept].astype(np.float64))
    np.testing.assert_allclose(found.toarray(), scaler.transform(counts[:, kept].astype(np.float64)))
    assert sparse.issparse(found)

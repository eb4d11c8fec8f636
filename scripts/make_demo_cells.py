"""Re-encode the demo cells.

Usage: ``python scripts/make_demo_cells.py SOURCE.h5ad geneformer_grn/_demo/cells.h5ad``. SOURCE holds the 559
immune cells of the celltypist wheel (MIT) as raw counts with Ensembl IDs. Written are the same counts as
uint16, the genes seen in at least one cell, and cell names without meaning. Nothing else is changed.
"""

import argparse
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from geneformer_grn._runtime import atomic_path


def main() -> None:
    """Read SOURCE, keep seen genes, write TARGET."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    cells = anndata.read_h5ad(arguments.source)
    seen = np.asarray((cells.X > 0).sum(axis=0)).ravel() > 0
    counts = sparse.csr_matrix(cells.X[:, seen])
    if counts.data.max() > np.iinfo(np.uint16).max or np.any(counts.data != np.rint(counts.data)):
        raise ValueError("the source does not hold integer counts below 65,536")
    compact = anndata.AnnData(
        sparse.csr_matrix((counts.data.astype(np.uint16), counts.indices, counts.indptr), shape=counts.shape),
        obs=pd.DataFrame(index=[f"cell{number:03d}" for number in range(cells.n_obs)]),
        var=pd.DataFrame({"gene_symbol": cells.var["gene_symbol"].astype(str)[seen]}),
        uns={"source": "celltypist 1.7.1 wheel, data/samples/sample_cell_by_gene.csv", "license": "MIT"},
    )
    with atomic_path(arguments.target) as path:
        compact.write_h5ad(path, compression="gzip", compression_opts=9)


if __name__ == "__main__":
    main()

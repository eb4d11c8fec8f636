"""Refit and propagation per group, against the same done by hand on the group's cells."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.counts import log_normalised, read_counts
from geneformer_grn.network.propagation import PropagationSettings, propagate
from geneformer_grn.network.refit import refit_signed
from geneformer_grn.workflows.propagation import find_sources, propagate_cells


@pytest.fixture(scope="module")
def counts(tiny_adata, tiny_vocabulary):
    return read_counts(tiny_adata, tiny_vocabulary)


@pytest.fixture(scope="module")
def labels(counts):
    return counts.obs["cell_type"].astype(str).to_numpy(dtype=object)


def gene(number: int) -> str:
    return f"ENSG{number:011d}"


@pytest.fixture
def edges() -> pd.DataFrame:
    pairs = [(1, 6), (1, 20), (6, 11), (11, 30), (16, 20)]
    table = pd.DataFrame([(gene(a), gene(b), 1.0) for a, b in pairs], columns=["source", "target", "weight"])
    return pd.concat([table.assign(group=group, method="attention") for group in "AB"], ignore_index=True)


def test_groups_are_refitted_to_their_own_cells(counts, tiny_vocabulary, labels, edges):
    result = propagate_cells(edges, counts, tiny_vocabulary, sources=[gene(1)], labels=labels)
    expression = log_normalised(counts)
    ids = tiny_vocabulary.ensembl_ids[counts.column_tokens]
    for group in "AB":
        inside = expression[labels == group]
        signed = refit_signed(edges[edges["group"] == group], inside, ids)
        mean = np.asarray(inside.mean(axis=0)).ravel()
        floor = dict(zip(ids, -mean, strict=True))
        expected = propagate(signed, {gene(1): floor[gene(1)]}, lowest=floor)
        found = result.effects[result.effects["group"] == group]
        assert found["gene"].tolist() == expected["gene"].tolist()
        np.testing.assert_allclose(found["effect"], expected["effect"], rtol=1e-5)
    assert set(result.edges["group"]) == {"A", "B"}
    assert (result.effects["gene_symbol"].str.startswith("GENE")).all()
    assert set(result.effects["gene"]) <= {gene(n) for n in (1, 6, 20, 11, 30)}


def test_covariance_is_that_of_each_groups_cells(counts, tiny_vocabulary, labels, edges):
    result = propagate_cells(
        edges, counts, tiny_vocabulary, sources=[gene(1)], labels=labels,
        settings=PropagationSettings(method="covariance"),
    )  # fmt: skip
    expression = log_normalised(counts).toarray().astype(float)
    ids = tiny_vocabulary.ensembl_ids[counts.column_tokens].tolist()
    for group in "AB":
        inside = expression[labels == group]
        covariance = np.cov(inside, rowvar=False)
        source = ids.index(gene(1))
        response = -inside[:, source].mean() * covariance[source] / covariance[source, source]
        found = result.effects[result.effects["group"] == group].set_index("gene")["effect"]
        of_edges = [gene(n) for n in (1, 6, 11, 16, 20, 30)]
        assert set(found.index) == {name for name in of_edges if response[ids.index(name)] != 0}
        np.testing.assert_allclose(found, [response[ids.index(name)] for name in found.index], rtol=1e-5)


def test_sources_that_move_nothing_are_reported(counts, tiny_vocabulary, edges, labels, caplog):
    result = propagate_cells(edges, counts, tiny_vocabulary, sources=[gene(30)], labels=labels)
    assert result.effects.empty
    assert f"nothing to propagate from {gene(30)}" in caplog.text


def test_groups_without_cells(counts, tiny_vocabulary, edges, labels):
    with pytest.raises(ValueError, match=r"group 'C' have no cells here.*groups found: A, B"):
        propagate_cells(
            edges.assign(group="C", method=["x", "y"] * 5).drop_duplicates(["source", "target"]),
            counts, tiny_vocabulary, sources=[gene(1)], labels=labels,
        )  # fmt: skip


def test_sources_by_symbol_id_or_any_case():
    edges = pd.DataFrame({"source": ["ENSG00000066336", "mine"], "target": ["B", "B"], "weight": [1.0, 2.0]})
    assert find_sources(["spi1", "MINE", "ensg00000066336"], edges) == ["ENSG00000066336", "mine"]
    with pytest.raises(ValueError, match=r"'NOPE' is not among the 3 genes.*largest regulators are SPI1"):
        find_sources(["NOPE"], edges)
    with pytest.raises(ValueError, match="no gene is not among"):
        find_sources([], edges)

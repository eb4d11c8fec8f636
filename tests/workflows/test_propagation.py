"""Refit and propagation per group, against the same done by hand on the group's cells."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.counts import log_normalised, read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.extraction.propagation import RerankSettings, rerank_effects
from geneformer_grn.network.ordered_response import counting_noise, ordered_response
from geneformer_grn.network.ordering import scaled_levels
from geneformer_grn.network.propagation import PropagationSettings, propagate
from geneformer_grn.network.refit import refit_signed
from geneformer_grn.network.responses import clamped_response
from geneformer_grn.workflows.cells import OpenedCells
from geneformer_grn.workflows.ordered_propagation import first_symbols
from geneformer_grn.workflows.propagation import (
    PropagateRequest,
    find_sources,
    propagate_cells,
    propagate_opened,
)


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


ORDERED = PropagationSettings(method="ordered", seed=3)


@pytest.mark.parametrize(
    ("kind", "named"), [("delete", None), ("overexpress", ["GENE1", gene(11), "GENE41"])]
)
def test_ordered_is_the_response_of_each_groups_counts(counts, tiny_vocabulary, labels, edges, kind, named):
    result = propagate_cells(
        edges, counts, tiny_vocabulary, sources=[gene(1)], labels=labels, settings=ORDERED,
        kind=kind, regulators=named,
    )  # fmt: skip
    assert result.edges.empty
    of_edges = [gene(n) for n in (1, 6, 11, 16, 20, 30)] + ([] if named is None else [gene(41)])
    ids = tiny_vocabulary.ensembl_ids[counts.column_tokens]
    columns = np.flatnonzero(np.isin(ids, of_edges))
    for group in "AB":
        raw = counts.matrix.toarray()[labels == group].astype(float)
        levels = scaled_levels(raw)
        mean = dict(zip(ids, levels.mean(axis=0), strict=True))
        x = levels[:, ids.tolist().index(gene(1))]
        target = 0 if kind == "delete" else np.percentile(x[x > 0], 95)
        expected = ordered_response(
            levels[:, columns], ids[columns], {gene(1): target - x.mean()},
            regulators=[gene(n) for n in ((1, 6, 11, 16) if named is None else (1, 11, 41))],
            noise=counting_noise(raw)[columns], n_halves=30, seed=3,
        )  # fmt: skip
        total = counts.n_counts[labels == group].mean() * levels.sum() / raw.sum()
        before = np.array([mean[name] for name in expected["gene"]])
        after = np.maximum(before + expected["effect"].to_numpy(), 0)
        found = result.effects[result.effects["group"] == group].set_index("gene")["effect"]
        effects = pd.Series(np.log1p(1e4 * after / total) - np.log1p(1e4 * before / total), expected["gene"])
        assert len(found) >= 4
        np.testing.assert_allclose(found, effects[effects != 0].loc[found.index], rtol=1e-6)
        if kind == "delete":
            assert found[gene(1)] == pytest.approx(-np.log1p(1e4 * mean[gene(1)] / total))


def test_ordered_takes_states_out_of_edges_of_all_cells(counts, tiny_vocabulary, labels, edges):
    pooled = edges[edges["group"] == "A"].assign(group="all")
    asked = {"sources": [gene(1)], "settings": ORDERED}
    states, none = (
        propagate_cells(pooled, counts, tiny_vocabulary, labels=given, **asked).effects.set_index("gene")
        for given in (labels, None)
    )
    ids = tiny_vocabulary.ensembl_ids[counts.column_tokens]
    columns = np.isin(ids, [gene(n) for n in (1, 6, 11, 16, 20, 30)])
    raw = counts.matrix.astype(float)
    found = ordered_response(
        scaled_levels(raw)[:, columns], ids[columns], {gene(1): -1.0}, labels=labels,
        regulators=[gene(n) for n in (1, 6, 11, 16)], noise=counting_noise(raw)[columns], seed=3,
    ).set_index("gene")["effect"]  # fmt: skip
    assert set(states["group"]) == {"all"}
    assert (np.sign(states["effect"]) == np.sign(found[states.index])).all()
    assert not states["effect"].equals(none["effect"])


def test_ordered_refuses(counts, tiny_vocabulary, labels, edges, caplog):
    call = {"sources": [gene(1)], "labels": labels, "settings": ORDERED}
    normalised = replace(counts, report={**counts.report, "normalised": True})
    with pytest.raises(ValueError, match="raw counts, and these values are normalised"):
        propagate_cells(edges, normalised, tiny_vocabulary, **call)
    few = np.where(np.arange(len(labels)) < 5, "A", "B").astype(object)
    with pytest.raises(ValueError, match=r"needs 6 cells, and group 'A' has 5.*groups found: A, B"):
        propagate_cells(edges, counts, tiny_vocabulary, **call | {"labels": few})
    other = edges.assign(source="x" + edges["source"])
    with pytest.raises(ValueError, match=r"none of 4 regulators .*same kind of gene ID"):
        propagate_cells(other, counts, tiny_vocabulary, **call)
    with pytest.raises(ValueError, match="iterated follows the edges"):
        PropagateRequest(sources=("A",), regulators=("B",))
    with pytest.raises(ValueError, match=r"ordered response is one of cells.*--expression FILE"):
        propagate(edges.drop(columns=["method"]), {gene(1): -1.0}, settings=ORDERED)
    result = propagate_cells(edges, counts, tiny_vocabulary, **call | {"sources": [gene(30)]})
    assert result.effects.empty
    assert f"nothing to propagate from {gene(30)}" in caplog.text


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_clamped_is_the_mean_over_each_groups_cells(counts, tiny_vocabulary, labels, edges, kind):
    settings = PropagationSettings(method="clamped", n_hops=2)
    call = {"sources": [gene(1)], "labels": labels, "settings": settings, "kind": kind}
    found = propagate_cells(edges, counts, tiny_vocabulary, **call)
    expression, ids = log_normalised(counts), tiny_vocabulary.ensembl_ids[counts.column_tokens]
    one = ids.tolist().index(gene(1))
    for group in "AB":
        inside = expression[labels == group].toarray().astype(float)
        high = np.quantile(inside[inside[:, one] > 0, one], 0.95)
        shifts = clamped_response(
            found.edges[found.edges["group"] == group].drop(columns=["source_symbol", "target_symbol"]),
            inside, ids, source=gene(1), level=0.0 if kind == "delete" else high, n_steps=2,
        ).mean(axis=0)  # fmt: skip
        effects = found.effects[found.effects["group"] == group]
        assert set(effects["hop"]) == {0, 1, 2}
        total = effects.groupby("gene")["effect"].sum().reindex(ids, fill_value=0.0)
        np.testing.assert_allclose(total, shifts, atol=1e-6)
        assert np.count_nonzero(shifts) >= 3


def test_rerank_is_the_models_own_answer_in_each_group(counts, tiny_vocabulary, tiny_encoder, labels, edges):
    how = PropagationSettings(method="rerank", n_hops=2, cells_per_source=3, seed=4)
    request = PropagateRequest(sources=(gene(1),), settings=how)
    cells = OpenedCells(counts=counts, vocabulary=tiny_vocabulary, encoder=tiny_encoder, labels=labels)
    result = propagate_opened(edges, cells, request, sources=[gene(1)])
    assert result.edges.empty
    asked = RerankSettings(n_hops=2, cells_per_source=3, seed=4)
    for group in "AB":
        expected = rerank_effects(
            tiny_encoder, rank_cells(counts, tiny_vocabulary), [tiny_vocabulary.token_of[gene(1)]],
            cells=np.flatnonzero(labels == group), settings=asked,
        ).set_index(["gene", "hop"])["effect"]  # fmt: skip
        found = result.effects[result.effects["group"] == group].set_index(["gene", "hop"])["effect"]
        assert set(found.index.get_level_values("gene")) <= {gene(n) for n in (1, 6, 11, 16, 20, 30)}
        assert set(found.index.get_level_values("hop")) == {1, 2}
        np.testing.assert_array_equal(found, expected[found.index])
    with pytest.raises(ValueError, match="rerank takes a gene out"):
        PropagateRequest(sources=("A",), kind="overexpress", settings=how)
    with pytest.raises(ValueError, match="through a model by rerank, and there is none"):
        propagate_opened(edges, replace(cells, encoder=None), request, sources=[gene(1)])


def test_genes_are_told_by_symbol():
    assert first_symbols(["ENSG00000107485", "contig7"]) == "GATA3, contig7"
    assert first_symbols([f"g{number}" for number in range(7)]) == "g0, g1, g2, g3, g4 and 2 more"


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

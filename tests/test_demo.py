"""The demo: six outputs from what the package carries, and a report that a browser shows as it is."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import pandas as pd
import pytest

from geneformer_grn.model.folder import SHIPPED
from geneformer_grn.workflows.run import OUTPUTS, RunResult, run_demo

needs_mini = pytest.mark.skipif(not (SHIPPED / "mini").is_dir(), reason="no shipped checkpoint here")


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> tuple[RunResult, Path]:
    out = tmp_path_factory.mktemp("demo") / "demo_out"
    return run_demo(out, device="cpu"), out


@pytest.mark.slow
@needs_mini
def test_the_demo_writes_its_six_outputs(demo):
    result, out = demo
    assert {path.name for path in out.iterdir()} == {name for name, _ in OUTPUTS} | {"edges.universe.json"}
    cells = anndata.read_h5ad(out / "cells.h5ad")
    assert cells.n_obs >= 150
    assert cells.obsm["X_geneformer"].shape[0] == cells.obsm["X_umap"].shape[0] == cells.n_obs
    assert cells.obs["geneformer_group"].nunique() > 2
    record = json.loads((out / "run.json").read_text())
    assert record["input"]["name"] == "demo cells"
    assert record["input"]["n_cells"] == record["parameters"]["n_cells"] == cells.n_obs
    assert record["perturbation"]["n_passes"] <= 500
    assert record["groups"]["source"] == "clusters"
    for name in ("edges", "effects", "propagated"):
        table = pd.read_csv(out / f"{name}.tsv", sep="\t")
        assert len(table) > 0
        assert set(table["group"]) <= set(cells.obs["geneformer_group"])
    assert set(pd.read_csv(out / "edges.tsv", sep="\t")["method"]) == {"attention", "correlation"}
    assert len(result.effects) == len(pd.read_csv(out / "effects.tsv", sep="\t"))


@pytest.mark.slow
@needs_mini
def test_the_demo_finds_blood_cells_by_their_markers(demo):
    _, out = demo
    groups = " ".join(anndata.read_h5ad(out / "cells.h5ad").obs["geneformer_group"].cat.categories)
    assert "B cell" in groups
    assert "monocyte" in groups
    assert "clustered by their counts" in (out / "report.html").read_text()


@pytest.mark.browser
@needs_mini
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_the_report_and_is_asked_for_nothing(demo, browser_page, width):
    _, out = demo
    path = out / "report.html"
    page, requests, problems = browser_page(path, width)
    page.screenshot(path=out.parent / f"report{width}.png", full_page=True)
    assert requests == [path.as_uri()]
    assert problems == []
    boxes = page.eval_on_selector_all(
        "svg[role=img]", "all => all.map(x => [x.getBoundingClientRect().width, x.getBBox().height])"
    )
    assert len(boxes) >= 3
    assert all(box_width > 150 and height > 20 for box_width, height in boxes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for section in ("headline", "inputs", "cells", "network", "perturbation", "downstream", "methods"):
        assert page.locator(f"#{section}").is_visible()

"""Fixtures shared by all rooms: tiny, made once a session, no network."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Workers side by side take their share of the cores.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    for pool in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(pool, str(max(1, (os.cpu_count() or 1) // workers)))

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.genes.vocabulary import SPECIAL_TOKENS, GeneVocabulary

REPOSITORY = Path(__file__).resolve().parent.parent
N_GENES = 60
N_CELLS = 80
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def logger_level():
    """A verb sets how much is logged; each test begins as if none had run, nor a fixture of its module."""
    package = logging.getLogger("geneformer_grn")
    package.setLevel(logging.NOTSET)
    yield
    package.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The shared data folder: GENEFORMER_GRN_SHARED, else ../shared; skipped where there is none."""
    folder = Path(os.environ.get("GENEFORMER_GRN_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder} (set GENEFORMER_GRN_SHARED)")
    return folder


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    folder = shared_dir / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden outputs at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_vocabulary() -> GeneVocabulary:
    """60 genes in our own setting, medians drawn once; every fifth gene is a regulator."""
    generator = np.random.default_rng(0)
    special = SPECIAL_TOKENS["default"]
    genes = [f"ENSG{number:011d}" for number in range(1, N_GENES + 1)]
    medians = np.concatenate([np.full(len(special), np.nan), generator.uniform(0.5, 8.0, N_GENES)])
    regulators = np.zeros(len(special) + N_GENES, dtype=bool)
    regulators[len(special) :: 5] = True
    return GeneVocabulary(
        ensembl_ids=np.array([*special, *genes], dtype=object),
        symbols=np.array([*special, *(f"GENE{number}" for number in range(1, N_GENES + 1))], dtype=object),
        medians=medians,
        is_regulator=regulators,
        setting="default",
        max_length=48,
        provenance={"sources": ["generated for tests"]},
    )


@pytest.fixture(scope="session")
def tiny_adata(tiny_vocabulary: GeneVocabulary):
    """80 cells of integer counts in two groups whose genes differ; n_genes = 60, csr float32."""
    import anndata
    from scipy import sparse

    generator = np.random.default_rng(1)
    base = generator.gamma(0.6, 2.0, N_GENES)
    group = np.repeat(["A", "B"], N_CELLS // 2)
    rates = np.tile(base, (N_CELLS, 1))
    rates[group == "B", :15] *= 6.0
    rates[group == "A", 15:30] *= 6.0
    counts = generator.poisson(rates).astype(np.float32)
    counts[:, 0] += 1.0  # no cell is empty
    return anndata.AnnData(
        X=sparse.csr_matrix(counts),
        obs=pd.DataFrame({"cell_type": pd.Categorical(group)}, index=[f"cell{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(
            index=pd.Index(tiny_vocabulary.ensembl_ids[tiny_vocabulary.n_special :].astype(str))
        ),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_vocabulary: GeneVocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint folder of ours: 2 layers × 32, 2 heads."""
    from geneformer_grn.model.encoder import ModelConfig, new_model, save_checkpoint

    config = ModelConfig(n_layers=2, hidden_size=32, n_heads=2, ffn_size=64, initializer_range=0.2)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(new_model(config, tiny_vocabulary, seed=0), tiny_vocabulary, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tiny_checkpoint: Path):
    from geneformer_grn.model.encoder import load_encoder

    return load_encoder(tiny_checkpoint, device="cpu")


@pytest.fixture
def tiny_h5ad(tiny_adata, tmp_path: Path) -> Path:
    path = tmp_path / "cells.h5ad"
    tiny_adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Debian's browser; skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    return path


@pytest.fixture
def browser_page(chromium: str, tmp_path: Path):
    """Return a function (address, width, scheme) -> (page, requests, problems)."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        contexts = []

        def open_page(path: Path, width: int, scheme: str = "light", *, script: bool = True):
            context = playwright.chromium.launch_persistent_context(
                tmp_path / f"profile{len(contexts)}",
                executable_path=chromium,
                args=BROWSER_FLAGS,
                headless=True,
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                java_script_enabled=script,
            )
            contexts.append(context)
            requests, problems = [], []

            def decide(route) -> None:
                requests.append(route.request.url)
                if route.request.url.startswith("file://"):
                    route.continue_()
                else:
                    route.abort()

            context.route("**/*", decide)
            page = context.new_page()
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(path.as_uri())
            return page, requests, problems

        yield open_page
        for context in contexts:
            context.close()

"""Tokenising in parts: the tokens of a brute-force ranking, and the same bytes however the work is done."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn.cells.corpora.cluster import run_on_ray, run_share
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.plan import CorpusPlan, finish_plan, make_plan, unfinished
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import groups, run_plan, write_corpus
from geneformer_grn.cells.reading import ReadSettings

DTYPES = ("uint8", "uint16", "int32", "int64", "uint64", "float32", "float64")
LAYOUTS = ("csr", "csc", "dense")


def brute_force(dense, column_tokens, vocabulary, room):
    """Rank each row by float64 count over float64 median, descending, ties by ascending token."""
    cells = []
    for row in dense.astype(np.float64):
        sums = {}
        for count, token in zip(row, column_tokens, strict=True):
            if token >= 0 and count:
                sums[token] = sums.get(token, 0.0) + count
        ranked = sorted(sums, key=lambda token: (-(sums[token] / vocabulary.medians[token]), token))
        if ranked:
            cells.append([2, *ranked[:room], 3])
    return cells


@st.composite
def count_matrices(draw):
    n_cells, n_genes = draw(st.integers(1, 7)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from(DTYPES))
    largest = draw(st.sampled_from([1, 3, 30, 250, 2**24 if dtype not in ("uint8", "uint16") else 250]))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, largest, (n_cells, n_genes), endpoint=True)
    dense[rng.random(dense.shape) < draw(st.sampled_from([0.0, 0.5, 0.95]))] = 0
    dense[:, 0] += rng.random() < 0.7  # now and then a cell stays empty
    # 60 known genes, and 10 strangers
    genes = rng.choice(70, n_genes, replace=draw(st.booleans()) or n_genes > 70)
    return dense.astype(dtype), genes


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
@given(
    made=count_matrices(), layout=st.sampled_from(LAYOUTS), part_cells=st.integers(1, 8), data=st.randoms()
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_are_those_of_brute_force(tiny_vocabulary, tmp_path_factory, made, layout, part_cells, data):
    dense, genes = made
    column_tokens = np.where(genes < 60, genes + 5, -1)
    matrix = dense if layout == "dense" else sparse.csr_array(dense).asformat(layout)
    if layout == "csr" and dense.size > 1:
        matrix = sparse.csr_array(sparse.csr_matrix(dense))
        matrix.data[data.randrange(len(matrix.data)) if len(matrix.data) else slice(0)] = 0  # a stored zero
        dense = matrix.toarray()
    folder = tmp_path_factory.mktemp("generated")
    var = pd.DataFrame(index=[f"ENSG{gene + 1:011d}" if gene < 60 else f"X{gene}" for gene in genes])
    expected = brute_force(dense, column_tokens, tiny_vocabulary, room=46)
    if (column_tokens >= 0).sum() == 0 or not expected:
        return
    known = sum(dense[:, token >= 0].sum() for token in [column_tokens])
    if known < 0.25 * dense.sum():
        return
    adata = anndata.AnnData(X=matrix, var=var)
    adata.write_h5ad(folder / "cells.h5ad")
    corpus = write_corpus(
        [folder / "cells.h5ad"],
        folder / "corpus",
        tiny_vocabulary,
        CorpusSettings(read=ReadSettings(sum_duplicates=True, drop_empty=True), part_cells=part_cells),
    )
    assert [corpus.cell(i).tolist() for i in range(len(corpus))] == expected
    shutil.rmtree(folder)


def contents(corpus: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(corpus.iterdir())}


@pytest.fixture
def files(tiny_adata, tmp_path):
    """Three files: 80 cells as csr, 30 as csc, 11 dense, with a column."""
    made = []
    for name, part, convert in (
        ("one", tiny_adata, sparse.csr_matrix),
        ("two", tiny_adata[:30], sparse.csc_matrix),
        ("three", tiny_adata[40:51], lambda X: X.toarray()),
    ):
        adata = part.copy()
        adata.X = convert(adata.X)
        made.append(tmp_path / f"{name}.h5ad")
        adata.write_h5ad(made[-1])
    return made


SMALL = CorpusSettings(columns=("cell_type",), part_cells=7, keep_counts=True)


@pytest.fixture
def whole(files, tiny_vocabulary, tmp_path):
    return contents(write_corpus(files, tmp_path / "whole", tiny_vocabulary, SMALL, threads=1).path)


@pytest.mark.parametrize("values", [1, 50, 1 << 22])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_no_byte(
    files, whole, tiny_vocabulary, tmp_path, monkeypatch, values, threads
):
    from geneformer_grn.cells.source import CountSource

    monkeypatch.setitem(CountSource.row_blocks.__kwdefaults__, "max_values", values)
    corpus = write_corpus(files, tmp_path / "corpus", tiny_vocabulary, SMALL, threads=threads)
    assert contents(corpus.path) == whole


@pytest.mark.slow
def test_processes_change_no_byte(files, whole, tiny_vocabulary, tmp_path):
    corpus = write_corpus(files, tmp_path / "corpus", tiny_vocabulary, SMALL, workers=2)
    assert contents(corpus.path) == whole


def test_shares_of_a_cluster_in_any_order(files, whole, tiny_vocabulary, tmp_path):
    out = tmp_path / "corpus"
    make_plan(files, out, tiny_vocabulary, SMALL).save()
    with pytest.raises(ValueError, match=r"parts of .* are not done yet"):
        finish_plan(CorpusPlan.load(out))
    n_done = [run_share(out, index=index, count=4, threads=1) for index in (2, 0, 3, 1)]
    assert sum(n_done) == 12 + 5 + 2
    assert min(n_done) > 0
    assert run_share(out, index=2, count=4) == 0
    finish_plan(CorpusPlan.load(out))
    assert contents(out) == whole
    assert not unfinished(out).exists()
    with pytest.raises(ValueError, match="share 4 of 4"):
        make_plan(files, out, tiny_vocabulary, SMALL).save() or run_share(out, index=4, count=4)


def test_a_file_that_is_not_read_by_rows_is_one_share(files, tiny_vocabulary, tmp_path):
    plan = make_plan(files, tmp_path / "corpus", tiny_vocabulary, SMALL)
    found = groups(plan, plan.pending(), apart=True)
    assert [len(numbers) for file, numbers in found if file == 0] == [1] * 12
    assert [numbers for file, numbers in found if file == 1] == [[0, 1, 2, 3, 4]]


@pytest.mark.slow
def test_ray(files, whole, tiny_vocabulary, tmp_path):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    try:
        plan = make_plan(files, tmp_path / "corpus", tiny_vocabulary, SMALL)
        run_on_ray(plan)
        finish_plan(plan)
    finally:
        ray.shutdown()
    assert contents(tmp_path / "corpus") == whole


def test_finished_parts_are_used(files, whole, tiny_vocabulary, tmp_path):
    out = tmp_path / "corpus"
    plan = make_plan(files, out, tiny_vocabulary, SMALL)
    plan.save()
    run_share(out, index=0, count=2, threads=1)
    before = {file.name: file.stat().st_mtime_ns for file in unfinished(out).glob("part-*")}
    assert before
    again = make_plan(files, out, tiny_vocabulary, SMALL)
    run_plan(again)
    after = {file.name: file.stat().st_mtime_ns for file in unfinished(out).glob("part-*")}
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)
    finish_plan(again)
    assert contents(out) == whole


def test_other_settings_or_files_use_no_old_part(files, tiny_vocabulary, tmp_path):
    out = tmp_path / "corpus"
    plan = make_plan(files, out, tiny_vocabulary, SMALL)
    plan.save()
    run_share(out, index=0, count=1, threads=1)
    assert plan.pending() == []
    for other in (replace(SMALL, min_genes=3), replace(SMALL, seed=1), replace(SMALL, part_cells=8)):
        assert len(make_plan(files, out, tiny_vocabulary, other).pending()) > 15
    assert make_plan(files, out, replace(tiny_vocabulary, max_length=40), SMALL).pending()
    os.utime(files[1], ns=(1, 1))
    assert {file for file, _ in make_plan(files, out, tiny_vocabulary, SMALL).pending()} == {1}
    with pytest.raises(ValueError, match=r"two\.h5ad changed since its work was planned"):
        finish_plan(CorpusPlan.load(out))


def test_filters_are_counted_apart(tiny_adata, tiny_vocabulary, tmp_path):
    adata = tiny_adata.copy()
    adata.obs["filter_pass"] = np.where(np.arange(80) < 10, 0, 1)
    adata.obs["age"] = np.arange(80)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    totals = tiny_adata.X.sum(axis=1).A1
    lengths = np.diff(tiny_adata.X.indptr)
    least = float(np.median(totals))
    settings = CorpusSettings(
        read=ReadSettings(where="age < 60"), min_counts=least, min_genes=25, part_cells=9
    )
    corpus = write_corpus([tmp_path / "cells.h5ad"], tmp_path / "corpus", tiny_vocabulary, settings)
    rows = np.arange(10, 60)
    short = lengths[rows] < 25
    shallow = ~short & (totals[rows] < least)
    expected = rows[~short & ~shallow]
    assert corpus.column("cell_id").tolist() == [f"cells:{row}" for row in expected]
    manifest = corpus.manifest
    names = ("filter", "where", "empty", "min_genes", "min_counts")
    dropped = [manifest[f"n_dropped_{name}"] for name in names]
    assert dropped == [10, 20, 0, int(short.sum()), int(shallow.sum())]
    assert sum(dropped) + manifest["n_cells"] == manifest["n_cells_file"] == 80


def test_counts_lie_beside_their_tokens(tiny_adata, tiny_h5ad, tiny_vocabulary, tmp_path):
    settings = CorpusSettings(keep_counts=True)
    corpus = write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary, settings)
    counts = corpus.table.column("counts")
    for index in (0, 41, 79):
        beside = counts[index].as_py()
        assert (beside[0], beside[-1]) == (0, 0)
        dense = tiny_adata.X[index].toarray().ravel()
        assert beside[1:-1] == dense[corpus.cell(index)[1:-1].astype(int) - 5].tolist()


def test_a_fraction_in_the_last_row_leaves_nothing(tiny_adata, tiny_vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr("geneformer_grn.cells.formats.matrices._SAMPLE_PLACES", 1)
    adata = tiny_adata.copy()
    adata.X.data[-1] += 0.5
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("geneformer_grn.cells.source.CountSource.sample", lambda self: np.array([1.0]))
    with pytest.raises(ValueError, match="holds fractions"):
        write_corpus([tmp_path / "cells.h5ad"], tmp_path / "corpus", tiny_vocabulary, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pool", "ray"])
def test_a_refusal_elsewhere_leaves_nothing(tiny_adata, tiny_vocabulary, tmp_path, monkeypatch, how):
    for name, spoilt in (("bad", True), ("good", False)):
        adata = tiny_adata.copy()
        adata.X.data[60] = np.nan if spoilt else adata.X.data[60]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    files = [tmp_path / "good.h5ad", tmp_path / "bad.h5ad"]
    monkeypatch.setattr("geneformer_grn.cells.source.CountSource.sample", lambda self: np.array([1.0]))
    options = {"workers": 2} if how == "pool" else {"ray": True}
    if how == "ray":
        pytest.importorskip("ray", reason="ray is not installed").init(
            num_cpus=2, include_dashboard=False, configure_logging=False
        )
    try:
        with pytest.raises(ValueError, match="NaN or infinite"):
            write_corpus(files, tmp_path / "corpus", tiny_vocabulary, SMALL, **options)
    finally:
        if how == "ray":
            sys.modules["ray"].shutdown()
    time.sleep(0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.h5ad", "good.h5ad"]


def test_names_are_told_apart_whatever_they_are(tiny_adata, tiny_vocabulary, tmp_path):
    files = [tmp_path / "a" / "cells.h5ad", tmp_path / "b" / "cells.h5ad", tmp_path / "a" / "cells~2.h5ad"]
    for number, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        tiny_adata[number : number + 3].copy().write_h5ad(file)
    corpus = write_corpus(files, tmp_path / "corpus", tiny_vocabulary)
    assert len(set(corpus.column("cell_id"))) == 9
    names = [entry["name"] for entry in corpus.manifest["files"]]
    assert names == ["cells.h5ad", "cells~2.h5ad", "cells~2~2.h5ad"]


def test_what_became_of_each_file_is_told(tiny_adata, tiny_vocabulary, tmp_path, caplog):
    adata = tiny_adata.copy()
    adata.obs["filter_pass"] = np.where(np.arange(80) < 10, 0, 1)
    adata.var_names = ["X1", *adata.var_names[1:]]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with caplog.at_level("INFO", "geneformer_grn"):
        write_corpus([tmp_path / "cells.h5ad"], tmp_path / "corpus", tiny_vocabulary)
    assert "59 of 60 genes known (ensembl in var_names; 1 lost, 0 summed, 0 ambiguous)" in caplog.text
    assert "70 of 80 cells, 10 dropped (filter)" in caplog.text


def test_normalised_files_are_looked_at_once(tiny_adata, tiny_vocabulary, tmp_path, monkeypatch):
    adata = tiny_adata.copy()
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    looked = []
    from geneformer_grn.cells import reading

    scale = reading._scale
    monkeypatch.setattr(reading, "_scale", lambda *arguments: looked.append(1) or scale(*arguments))
    settings = CorpusSettings(read=ReadSettings(allow_normalised=True), part_cells=20)
    plan = make_plan([tmp_path / "cells.h5ad"], tmp_path / "corpus", tiny_vocabulary, settings)
    plan.save()
    for index in range(4):
        run_share(tmp_path / "corpus", index=index, count=4, threads=1)
    finish_plan(CorpusPlan.load(tmp_path / "corpus"))
    assert looked == [1]
    counts = write_corpus([raw_of(tiny_adata, tmp_path)], tmp_path / "raw", tiny_vocabulary)
    np.testing.assert_array_equal(Corpus.open(tmp_path / "corpus").input_ids, counts.input_ids)


def raw_of(adata, folder):
    adata.write_h5ad(folder / "raw.h5ad")
    return folder / "raw.h5ad"


SCRIPT = """
import sys
from pathlib import Path
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.genes.vocabulary import GeneVocabulary
folder = Path(sys.argv[1])
settings = CorpusSettings(columns=("cell_type",), part_cells=3, keep_counts=True)
files = [folder / "one.h5ad", folder / "two.h5ad"]
write_corpus(files, folder / "corpus", GeneVocabulary.load(folder / "v"), settings)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(files, tiny_vocabulary, tmp_path):
    tiny_vocabulary.save(tmp_path / "v")
    settings = CorpusSettings(columns=("cell_type",), part_cells=3, keep_counts=True)
    whole = contents(write_corpus(files[:2], tmp_path / "whole", tiny_vocabulary, settings).path)
    rng = np.random.default_rng(0)
    out, done, n_killed = tmp_path / "corpus", {}, 0
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while process.poll() is None and not list(unfinished(out).glob("part-*.json")):
            time.sleep(0.002)
            assert time.monotonic() - started < 120
        time.sleep(rng.uniform(0.0, 0.03))
        process.send_signal(signal.SIGKILL)
        n_killed += process.wait() == -signal.SIGKILL
        if out.exists():
            break
        now = {file: file.stat().st_mtime_ns for file in unfinished(out).glob("part-*.json")}
        assert {file: now[file] for file in done} == done  # nothing is written twice
        for file in now:
            assert json.loads(file.read_text())["n_cells"] >= 0
        done = now
    else:
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, capture_output=True)
    assert n_killed
    assert contents(out) == whole
    assert len(Corpus.open(out)) == 110
    assert not unfinished(out).exists()

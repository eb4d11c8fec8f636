"""A perturbation in parts: interrupted, shared out, joined; always the tables of an undisturbed run."""

import json
import logging
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.perturbation import parts as engine_parts
from geneformer_grn.perturbation.effects import run_screen
from geneformer_grn.perturbation.screen import PerturbationPlan
from geneformer_grn.workflows import perturb as workflow
from geneformer_grn.workflows.perturb import (
    PerturbOptions,
    PerturbSource,
    merge_perturbation,
    perturb_counts,
    perturb_file,
)
from geneformer_grn.workflows.perturb_options import NULL_GENES, PART_TOKENS

EVERYTHING = {
    "groups": "cell_type", "states": "cell_type", "start": "A", "goal": "B", "donors": "donor",
    "readouts": ("cell", "state", "genes", "expression"), "statistics": ("reference",), "kind": "knockout",
}  # fmt: skip


@pytest.fixture(scope="module")
def cells_file(tiny_adata, tmp_path_factory):
    adata = tiny_adata[::2].copy()
    adata.obs["donor"] = [f"d{number % 3}" for number in range(adata.n_obs)]
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture
def source(cells_file, tiny_checkpoint):
    return PerturbSource(file=cells_file, model=str(tiny_checkpoint), device="cpu")


def options(**changes):
    given = {"genes": ("GENE3", "GENE8"), "n_null": 6, "null_cells": 3, "part_tokens": 700}
    return PerturbOptions(**{**given, **changes})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def stop_after(monkeypatch):
    """Return a function after which only so many parts are computed until the user interrupts."""
    real = engine_parts.perturb_part

    def limit(n_parts):
        calls = iter(range(n_parts))

        def perturb_part(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(engine_parts, "perturb_part", perturb_part)

    return limit


def test_the_constants_are_those_of_the_rooms_below():
    from geneformer_grn.perturbation import matching

    assert (NULL_GENES, PART_TOKENS) == (matching.NULL_GENES, engine_parts.PART_TOKENS)


@pytest.mark.parametrize(
    "changes",
    [
        EVERYTHING,
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"genes": "all", "kind": "overexpress", "n_null": 0}, marks=pytest.mark.slow),
    ],
)
def test_interrupted_twice_it_ends_as_if_never_interrupted(source, tmp_path, stop_after, changes):
    whole = perturb_file(source, tmp_path / "whole", options(**changes))
    assert whole["finished"]
    for n_parts in (2, 3):
        stop_after(n_parts)
        with pytest.raises(KeyboardInterrupt):
            perturb_file(source, tmp_path / "cut", options(**changes))
        assert not (tmp_path / "cut").exists()
    work = tmp_path / "cut.unfinished"
    assert len(list((work / "parts").glob("[0-9]*[0-9].parquet"))) == 5
    stop_after(1000)
    assert perturb_file(source, tmp_path / "cut", options(**changes)) == whole
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


def test_the_tables_are_those_of_a_screen_in_memory(source, tiny_encoder, cells_file, tmp_path):
    """Parts and slices against one screen with all tables in memory."""
    import anndata

    from geneformer_grn.cells.counts import read_counts
    from geneformer_grn.cells.ranking import rank_cells
    from geneformer_grn.perturbation.effects import CellFacts
    from geneformer_grn.perturbation.requests import PerturbSettings

    perturb_file(
        source, tmp_path / "out", options(groups="cell_type", donors="donor", readouts=("cell", "genes"))
    )
    vocabulary = tiny_encoder.vocabulary
    counts = read_counts(anndata.read_h5ad(cells_file), vocabulary)
    plan = PerturbationPlan(cells_per_gene=3, tested_cells="all", n_null=6)
    genes = [vocabulary.token_of[name] for name in ("ENSG00000000003", "ENSG00000000008")]
    result = run_screen(
        tiny_encoder, rank_cells(counts, vocabulary), counts.obs["cell_type"], genes, plan,
        settings=PerturbSettings(readouts=("cell", "genes")),
        known=CellFacts(counts=counts, donors=counts.obs["donor"]),
    )  # fmt: skip
    tables = {name: pd.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("effects", "cells")}
    pd.testing.assert_frame_equal(
        tables["effects"][result.effects.columns], result.effects, check_dtype=False, atol=1e-6
    )
    names = counts.obs.index.to_numpy()
    expected = result.cells.assign(cell_id=names[result.cells["cell_id"]])
    pd.testing.assert_frame_equal(tables["cells"], expected, check_dtype=False, atol=1e-6)
    shifts = pd.read_parquet(tmp_path / "out" / "gene_shifts.parquet")
    np.testing.assert_allclose(shifts["shift"], result.gene_shifts["shift"], atol=1e-6)
    effects = tables["effects"]
    np.testing.assert_allclose(effects["excess"], effects["shift_compared"] - effects["null_mean"])
    assert effects.columns[-1] == "gene_symbol"


@pytest.mark.parametrize("one_folder", [True, False])
def test_shares_are_joined_to_the_tables_of_one_run(source, tmp_path, one_folder):
    whole = perturb_file(source, tmp_path / "whole", options(**EVERYTHING))
    folders = [tmp_path / ("node" if one_folder else f"node{index}") for index in range(3)]
    for index, folder in enumerate(folders):
        state = perturb_file(source, folder, options(**EVERYTHING), share=(index, 3))
        assert not state["finished"]
        n_parts = state["n_parts"]
        made = range(index + 1) if one_folder else [index]
        assert state["n_parts_done"] == sum(len(range(share, n_parts, 3)) for share in made)
    merged = merge_perturbation(list(dict.fromkeys(folders)), tmp_path / "node")
    assert {key: merged[key] for key in whole if key != "finished"} == {
        key: value for key, value in whole.items() if key != "finished"
    }
    assert contents(tmp_path / "node") == contents(tmp_path / "whole")
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".unfinished"))
    assert left == ([] if one_folder else [f"node{index}.unfinished" for index in range(3)])


def test_a_plain_call_finishes_what_shares_began(source, tmp_path):
    perturb_file(source, tmp_path / "whole", options())
    perturb_file(source, tmp_path / "out", options(), share=(1, 2))
    perturb_file(source, tmp_path / "out", options())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_missing_and_foreign_parts_are_refused_by_name(source, tmp_path):
    perturb_file(source, tmp_path / "one", options(), share=(0, 2))
    with pytest.raises(ValueError, match=r"parts are missing from one\.unfinished: 1, 3, .*--part I/N"):
        merge_perturbation([tmp_path / "one"], tmp_path / "out")
    perturb_file(source, tmp_path / "other", options(kind="knockout"), share=(1, 2))
    with pytest.raises(ValueError, match=r"other\.unfinished belongs to another run than one\.unfinished: .*"
                                         r"kind \(delete, now knockout\)"):  # fmt: skip
        merge_perturbation([tmp_path / "one", tmp_path / "other"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no unfinished perturbation in .*nowhere"):
        merge_perturbation([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ValueError, match="made with seed 0, not 5"):
        merge_perturbation([tmp_path / "one"], tmp_path / "out", seed=5)
    for path in (tmp_path / "other.unfinished" / "parts").iterdir():
        shutil.copy(path, tmp_path / "one.unfinished" / "parts")
    with pytest.raises(ValueError, match=r"00001\.parquet in .*one\.unfinished.* of another run"):
        merge_perturbation([tmp_path / "one"], tmp_path / "out")
    (tmp_path / "one.unfinished" / "plan.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        merge_perturbation([tmp_path / "one"], tmp_path / "out")
    (tmp_path / "one.unfinished" / "plan.json").write_text("[]")
    with pytest.raises(ValueError, match="not the plan of a perturbation"):
        merge_perturbation([tmp_path / "one"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_input_or_option_is_refused_by_name(source, cells_file, tiny_adata, tmp_path, stop_after):
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        perturb_file(source, tmp_path / "out", options())
    stop_after(1000)
    work = tmp_path / "out.unfinished"
    before = contents(work / "parts")
    for changes, message in (
        ({"seed": 1}, r"other seed \(0, now 1\); give the same"),
        ({"kind": "knockout", "n_null": 5}, r"kind \(delete, now knockout\) and n_null \(6, now 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            perturb_file(source, tmp_path / "out", options(**changes))
    adata = tiny_adata[::2].copy()
    adata.obs["donor"] = "d0"
    adata.X[0, 0] += 1
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match=r"out\.unfinished holds an unfinished run with other cells; .*"):
        perturb_file(replace(source, file=tmp_path / "cells.h5ad"), tmp_path / "out", options())
    assert contents(work / "parts") == before
    perturb_file(replace(source, file=tmp_path / "cells.h5ad"), tmp_path / "new", options(), share=(0, 1))
    shutil.copy(cells_file, tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match=r"cells\.h5ad or the package changed since .*: other cells;"):
        merge_perturbation([tmp_path / "new"], tmp_path / "new")
    (tmp_path / "cells.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match=r"cells\.h5ad, which new\.unfinished was planned for"):
        merge_perturbation([tmp_path / "new"], tmp_path / "new")


def test_bf16_is_measured_said_and_refused_where_it_is_too_coarse(source, tmp_path, caplog, monkeypatch):
    from geneformer_grn.perturbation import noise

    coarse = replace(source, precision="bf16")
    monkeypatch.setattr(noise, "MOST_NOISE", 1e-9)
    with pytest.raises(ValueError, match=r"of the median effect of .* run with precision fp32"):
        perturb_file(coarse, tmp_path / "out", options())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(noise, "MOST_NOISE", 1e9)
    with caplog.at_level(logging.INFO, "geneformer_grn"):
        facts = perturb_file(coarse, tmp_path / "out", options())
    assert "bf16 changes shifts by" in caplog.text
    parameters = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert parameters["parameters"]["precision"] == "bf16"
    assert parameters["found"]["bf16_noise_share"] == facts["bf16_noise_share"] > 0
    assert 0 < facts["bf16_noise"] < facts["median_effect"] * 1e9


@pytest.mark.slow
def test_memory_does_not_grow_with_genes_and_cells(tiny_encoder, tiny_adata, tmp_path, monkeypatch):
    """32 times the pairs: what Python and numpy hold at the peak stays, but for a few bytes a pair.

    All that is done a slice at a time is done in small slices here, as the run is small.
    """
    from geneformer_grn import statistics
    from geneformer_grn.cells.counts import read_counts
    from geneformer_grn.perturbation import effects_table
    from geneformer_grn.workflows.perturb_job import make_job
    from geneformer_grn.workflows.perturb_parts import PerturbWork
    from geneformer_grn.workflows.perturb_tables import write_tables

    monkeypatch.setattr(engine_parts, "_WINDOW_PAIRS", 256)
    monkeypatch.setattr(effects_table, "_SLICE", 256)
    monkeypatch.setattr(statistics, "_BLOCK", 4096)
    peaks, pairs = [], []
    for run, (n_cells, names) in enumerate(((10, 12), (10, 12), (80, 48))):  # the first fills caches
        counts = read_counts(tiny_adata[:n_cells].copy(), tiny_encoder.vocabulary)
        genes = tuple(f"GENE{number}" for number in range(1, names + 1))
        job = make_job(counts, tiny_encoder.vocabulary, options(genes=genes, n_null=0, part_tokens=1500))
        work = PerturbWork.open(tmp_path / f"work{run}", job.facts(), {})
        tables = tmp_path / f"tables{run}"
        tables.mkdir()
        tracemalloc.start()
        work.run_share(job, (0, 1), tiny_encoder)
        write_tables(job, [work], tables)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        pairs.append(job.parts.n_pairs)
    assert pairs[2] == 32 * pairs[1]
    assert peaks[2] < peaks[1] + 100 * (pairs[2] - pairs[1])


def test_in_memory_and_on_disk_are_one(source, tiny_encoder, cells_file, tmp_path):
    import anndata

    from geneformer_grn.cells.counts import read_counts

    perturb_file(source, tmp_path / "out", options(**EVERYTHING))
    counts = read_counts(anndata.read_h5ad(cells_file), tiny_encoder.vocabulary)
    result = perturb_counts(tiny_encoder, counts, options(**EVERYTHING))
    for name in ("effects", "cells", "gene_shifts", "expression"):
        on_disk = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        pd.testing.assert_frame_equal(getattr(result, name), on_disk, check_exact=True)
    assert set(result.reference) == {"aggregate", "mixture", "goal_state", "aggregate_gene_shifts"}
    assert result.effects["n_donors"].max() == 3
    assert set(result.effects["readout"]) == {"cell", "state"}


def test_processes_of_a_launch_take_their_turns(monkeypatch):
    assert workflow.process_share((0, 1)) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = [workflow.process_share((index, 3)) for index in range(3)]
    assert shares == [(3, 6), (4, 6), (5, 6)]  # within the share, however many processes there are


def test_a_failure_before_the_first_part_leaves_nothing_in_the_way(source, tmp_path, stop_after):
    stop_after(0)
    with pytest.raises(KeyboardInterrupt):
        perturb_file(source, tmp_path / "out", options())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):  # a task of an array may share the folder: it stays
        perturb_file(source, tmp_path / "out", options(), share=(0, 2))
    assert (tmp_path / "out.unfinished" / "plan.json").is_file()
    stop_after(1000)
    perturb_file(source, tmp_path / "out", options(seed=1))  # no part was done: another run may take over
    assert json.loads((tmp_path / "out" / "parameters.json").read_text())["parameters"]["seed"] == 1


def test_tables_of_an_earlier_run_go_and_other_files_stay(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    perturb_file(source, out, options(readouts=("cell", "genes"), statistics=("reference",)))
    before = {path.name for path in out.iterdir()}
    assert {"gene_shifts.parquet", "notes.txt"} < before
    perturb_file(source, out, options(genes=("GENE3",)))
    left = {path.name for path in out.iterdir()}
    assert left == {"effects.parquet", "cells.parquet", "parameters.json", "notes.txt"}


def test_the_bound_on_passes_counts_those_of_the_readout_expression(source, tmp_path):
    asked = options(readouts=("cell", "expression"), n_null=0)
    facts = perturb_file(source, tmp_path / "out", asked)
    with pytest.raises(ValueError, match=r"takes up to [\d,]+ passes, 9 for each gene and cell; at most 200"):
        perturb_file(source, tmp_path / "less", replace(asked, max_passes=200))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    counts = int(facts["n_passes"])
    enough = perturb_file(source, tmp_path / "more", replace(asked, max_passes=10 * counts))
    assert enough["n_passes"] == counts


def test_bf16_is_refused_where_its_noise_is_not_measured(source, tmp_path):
    coarse = replace(source, precision="bf16")
    for changes, name in ({"readouts": ("genes",)}, "genes"), ({"pairs": True}, "interaction"):
        with pytest.raises(ValueError, match=f"cell and state, not for {name}; run with precision fp32"):
            perturb_file(coarse, tmp_path / "out", options(**changes))
    assert list(tmp_path.iterdir()) == []

"""The standard suite end to end on tiny files, and the arithmetic of its questions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geneformer_grn._runtime import sha256_file
from geneformer_grn.cells.counts import read_counts
from geneformer_grn.evaluation.masked_genes import prepare
from geneformer_grn.genes.vocabulary import SPECIAL_TOKENS
from geneformer_grn.model.encoder import ModelConfig, load_encoder, new_model, save_checkpoint
from geneformer_grn.workflows import evaluate, suite, suite_embeddings, suite_stimulus
from geneformer_grn.workflows.card import render_card
from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model
from geneformer_grn.workflows.suite import Question, ask, energy, run_suite, suite_table, suite_verdict
from geneformer_grn.workflows.suite_bench import Bench, data_folder, labelled, suite_files
from geneformer_grn.workflows.suite_effects import STAND_INS
from geneformer_grn.workflows.suite_rows import verdict

SETTINGS = EvaluateSettings(suite="standard", device="cpu", max_cells=15, seed=4)


def with_obs(adata, **columns):
    made = adata.copy()
    for name, values in columns.items():
        made.obs[name] = np.asarray(values, dtype=object)
    return made


def edges_of(vocabulary) -> pd.DataFrame:
    """All regulators on every third gene."""
    genes = vocabulary.ensembl_ids[vocabulary.n_special :]
    regulators = vocabulary.ensembl_ids[vocabulary.is_regulator]
    rows = [
        (source, target, "ABCD"[place % 4])
        for place, source in enumerate(regulators)
        for target in genes[place % 3 :: 3]
        if source != target
    ]
    return pd.DataFrame(rows, columns=["source", "target", "confidence"])


def perturbed(adata):
    """Controls and two knock-outs, each of which lowers 20 genes to a fifth."""
    import anndata
    from scipy import sparse

    rng = np.random.default_rng(0)
    rates = np.tile(rng.gamma(2.0, 2.0, adata.n_vars), (150, 1))
    target = np.repeat(["non-targeting", str(adata.var_names[0]), str(adata.var_names[30])], 50)
    rates[50:100, 1:21] *= 0.2
    rates[100:, 31:51] *= 0.2
    obs = pd.DataFrame({"target": target, "grna_fraction": 0.9}, index=[f"c{i}" for i in range(150)])
    matrix = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    return anndata.AnnData(matrix, obs=obs, var=adata.var.copy())


def contrasts(adata):
    """Two knock-outs measured in bulk, each of which moves 20 genes, and a contrast to leave out."""
    import anndata

    rng = np.random.default_rng(3)
    effect = rng.normal(0, 0.1, (3, adata.n_vars)).astype(np.float32)
    padj = np.full(effect.shape, 0.9)
    for row, start in enumerate((1, 31)):
        effect[row, start : start + 20] = np.where(rng.random(20) < 0.5, -2, 2)
        padj[row, start : start + 20] = 1e-6
    obs = pd.DataFrame(
        {
            "kind": "knockout_vs_WT",
            "ko_gene": ["a", "b", "Auxin"],
            "ko_ensembl": [*adata.var_names[[0, 30]], ""],
        },
        index=["c1", "c2", "c3"],
    )
    layers = {"padj": padj, "tested": np.ones(effect.shape, dtype=np.float32)}
    return anndata.AnnData(effect, obs=obs, var=adata.var.copy(), layers=layers)


def stimulated(adata):
    """Cells of two types, half of them stimulated: 10 genes fall and 10 rise, in both types alike."""
    import anndata
    from scipy import sparse

    rng = np.random.default_rng(5)
    rates = np.tile(rng.gamma(2.0, 2.0, adata.n_vars), (160, 1))
    rates[::2, 40:] *= 5.0
    rates[80:, :10] *= 0.2
    rates[80:, 10:20] *= 5.0
    types = np.where(np.arange(160) % 2, "B cells", "CD4 T cells").astype(object)
    types[80:] = "unknown"
    obs = pd.DataFrame(
        {"condition": np.repeat(["ctrl", "IFNB"], 80), "cell_type": types},
        index=[f"c{i}" for i in range(160)],
    )
    matrix = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    return anndata.AnnData(matrix, obs=obs, var=adata.var.copy())


@pytest.fixture(scope="module")
def data(tiny_adata, tiny_vocabulary, tmp_path_factory):
    """A folder with a tiny file for each one of the suite."""
    folder, listed = tmp_path_factory.mktemp("data"), suite_files()
    donors = np.tile(["d1", "d2", "d3", "d4"], 20)
    blood = with_obs(tiny_adata, donor=donors)
    tables = {
        "pbmc3k": blood,
        "kang": blood,
        "lung_celseq2": with_obs(tiny_adata[::2], assay=["CEL-seq2"] * 40),
        "lung_dropseq": with_obs(tiny_adata[1::2], assay=["Drop-seq"] * 40),
        "mouse_pancreas": tiny_adata,
        "papalexi": perturbed(tiny_adata),
        "morphic": contrasts(tiny_adata),
        "interferon": stimulated(tiny_adata),
        **dict.fromkeys(STAND_INS, with_obs(tiny_adata, tissue=["iPSC"] * 80)),
    }
    for key, file in listed.items():
        path = folder / file.path
        path.parent.mkdir(exist_ok=True)
        if key in tables:
            tables[key].write_h5ad(path)
        else:
            edges_of(tiny_vocabulary).to_csv(path, sep="\t", index=False)
    return folder


@pytest.fixture
def quick(monkeypatch, tiny_adata):
    """The demo cells hold none of the tiny genes; scib-metrics takes its time and has tests of its own."""

    def fixed(embeddings, _data, *, n_halves, seed):
        scores = {name: {"bio": 0.5, "batch": 0.6, "total": 0.54} for name in embeddings}
        gaps = {"difference": 0.25, "low": 0.125, "high": 0.5}
        others = [name for name in embeddings if name != "model"]
        return {"scores": scores, "differences": {n: dict.fromkeys(scores["model"], gaps) for n in others}}

    monkeypatch.setattr(suite_stimulus, "COMPLEX", ("GENE6", "GENE11"))
    monkeypatch.setattr(evaluate, "demo_cells", lambda: ("demo cells", tiny_adata, "0" * 64))
    monkeypatch.setattr("geneformer_grn.evaluation.integration.score_integration", fixed)
    monkeypatch.setattr("geneformer_grn.evaluation.integration.require_integration", lambda: None)
    monkeypatch.setattr(
        "geneformer_grn.evaluation.integration.harmonised", lambda values, batches, *, seed: values
    )


@pytest.fixture
def bench(trained, data):
    encoder = load_encoder(trained.folder, device="cpu")
    return Bench(contestants=prepare(encoder, None, seed=1), folder=data, listed=suite_files())


def test_every_question_is_answered_or_says_why_not(quick, trained, data, tmp_path):
    out = tmp_path / "results.json"
    evaluate_model(trained.folder, trained.held_out[:1], SETTINGS, data=data, out=out)
    results = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert results["masked_genes"]["all"]["model"]["n_cells"] == 15
    rows = results["suite"]["rows"]
    left_out = {(row["task"], row["data"]) for row in rows if "not_run" in row}
    # the tiny vocabulary knows none of the simulator's genes, and its genes are of one family
    assert left_out == {("network truth", "simulated network"), ("gene class", "demo cells")}
    assert all(row["not_run"] for row in rows if "not_run" in row)
    answered = [row for row in rows if "not_run" not in row]
    assert {row["task"] for row in rows} == {question.task for question in suite.QUESTIONS}
    assert rows[0]["data"] == "first.h5ad", "the caller's own files come first"
    for row in answered:
        assert set(row) == {
            "task", "measure", "data", "higher_is_better", "model", "untrained", "baselines",
            "ahead_of_untrained", "ahead_of_baseline", "ahead_of", "n", "seconds", "note",
        }  # fmt: skip
        assert row["baselines"]
        assert row["model"] is not None
        assert row["seconds"] >= 0
        sign = 1 if row["higher_is_better"] else -1
        assert (
            row["ahead_of_untrained"]["mean"]
            == pytest.approx(sign * (row["model"] - row["untrained"]), abs=1e-6)
            or row["task"] == "cell embeddings"
        )
    assert {file["as_listed"] for file in results["suite"]["files"]} == {False}
    assert str(data) not in out.read_text()
    check_card(results, answered)


@pytest.mark.parametrize("setting", ["v1", "v2"])
def test_a_model_of_another_setting_without_records_is_asked_the_same(
    quick, data, tiny_vocabulary, tmp_path, setting
):
    """As an imported one is: other special tokens and length, no training record, no rank positions."""
    special = SPECIAL_TOKENS[setting]
    n_ours = tiny_vocabulary.n_special
    vocabulary = replace(
        tiny_vocabulary, setting=setting, max_length=40,
        ensembl_ids=np.array([*special, *tiny_vocabulary.ensembl_ids[n_ours:]], dtype=object),
        symbols=np.array([*special, *tiny_vocabulary.symbols[n_ours:]], dtype=object),
        medians=np.concatenate([np.full(len(special), np.nan), tiny_vocabulary.medians[n_ours:]]),
        is_regulator=np.concatenate([np.zeros(len(special), bool), tiny_vocabulary.is_regulator[n_ours:]]),
        provenance={"imported": "dictionaries", "sources": [{"name": "tokens.pkl", "sha256": "1" * 64}]},
    )  # fmt: skip
    config = ModelConfig(n_layers=2, hidden_size=32, n_heads=2, ffn_size=64, activation="relu")
    save_checkpoint(new_model(config, vocabulary, seed=0), vocabulary, tmp_path / "model")
    results = evaluate_model(tmp_path / "model", (), SETTINGS, data=data)
    rows = results["suite"]["rows"]
    left_out = {(row["task"], row["data"]) for row in rows if "not_run" in row}
    assert left_out == {("network truth", "simulated network"), ("gene class", "demo cells")}
    for row in rows:
        assert "not_run" in row or row["model"] is not None
        assert "rank_position" not in row.get("baselines", {})
    masked = [row["note"] for row in rows if row["task"] == "masked genes"]
    assert all("carries no rank-position frequencies" in note for note in masked)
    check_card(json.loads(json.dumps(results)), [row for row in rows if "not_run" not in row])


def check_card(results, answered):
    card = render_card(results)
    table = suite_table(results["suite"])
    assert table in card
    lines = [line for line in card.splitlines() if line.startswith("| ") and "(lower is better)" in line]
    assert len(lines) == sum(not row["higher_is_better"] for row in answered)
    for row in answered:
        best = row["ahead_of_baseline"]
        (line,) = [
            line
            for line in table.splitlines()
            if line.startswith(f"| {row['task']} | {row['data']} | {row['measure']}")
        ]
        assert f"| {row['model']:.3f} |" in line
        assert best["name"].replace("_", " ") in line
        assert line.endswith(f"{verdict(best)} |")
    assert suite_verdict(results["suite"]) in card
    assert f"{results['suite']['energy']['kwh']:.4f} kWh" in card
    assert "--suite standard" in card
    assert "## Cost" in card
    assert "Misuse" in card
    for wrong in ("{{", "{%", "None", "nan", "Undefined"):
        assert wrong not in card, wrong


def test_without_any_data_the_demo_cells_are_still_scored(quick, trained, monkeypatch, tmp_path):
    monkeypatch.setenv("GENEFORMER_GRN_SHARED", str(tmp_path))
    found = evaluate_model(trained.folder, (), SETTINGS)["suite"]["rows"]
    run = {(row["task"], row["data"]) for row in found if "not_run" not in row}
    assert run == {("masked genes", "demo cells")}
    reasons = {row["task"]: row for row in found if row["data"] == "Papalexi THP-1"}
    row = reasons["perturbation truth"]
    assert "no folder of data was found for perturbation/papalexi" in row["not_run"]
    assert "GSE153056" in row["source"]


def test_a_file_the_model_was_trained_on_is_not_scored(bench, data):
    digest = sha256_file(bench.path("kang"))
    known = Bench(
        contestants=bench.contestants, folder=data, listed=bench.listed,
        known={digest: "was in this model's training corpus"},
    )  # fmt: skip
    question = Question(task="t", data="d", run=pytest.fail, needs=("kang",))
    (row,) = ask(question, known)
    assert row["not_run"] == "kang_ifnb_1287g.h5ad was in this model's training corpus (same sha256)"


def test_cells_that_only_stand_in_may_have_been_seen_and_the_rows_say_so(bench, data):
    digest = sha256_file(bench.path("stem_embryo"))
    known = replace(bench, known={digest: "was in this model's training corpus"})
    question = next(one for one in suite.QUESTIONS if one.inputs)
    for row in ask(question, known):
        assert "embryo_blakeley.h5ad was in this model's training corpus (same sha256)" in row["note"]
        assert row["n"] == 2
        assert row["ahead_of_untrained"]["low"] is not None
        assert "other_perturbations" in row["baselines"]
    (row,) = ask(question, replace(bench, folder=None))
    assert "no folder of data was found for perturbation/morphic" in row["not_run"]
    assert "embryo_blakeley" in row["source"]


def test_one_stimulus_decides_nothing(bench, quick):
    """Its responders move together, so that the interval over them is in the note and not in the verdict."""
    rows = suite_stimulus.interferon_rows(bench)
    for row in rows:
        assert row["n"] == 1
        assert set(row["baselines"]) <= {"coexpression", "ridge", "mean_expression"}
        for gain in (row["ahead_of_untrained"], row["ahead_of_baseline"]):
            assert gain["low"] is None
            assert verdict(gain) == "level"
        gain = row["model"] - row["untrained"]
        assert f"untrained is {gain:+.3f} (" in row["note"]
    assert "2 types" in rows[0]["note"]


def test_a_file_that_the_record_names_is_noted(bench, data):
    named = Bench(
        contestants=bench.contestants, folder=data, listed=bench.listed,
        training={"corpus": {"files": [{"name": "x"}], "dropped": ["12 cells that are in PBMC3k"]}},
    )  # fmt: skip
    assert named.overlap("pbmc3k") == "the record of the training names it: 12 cells that are in PBMC3k"
    assert named.overlap("kang") == ""
    assert bench.overlap("pbmc3k") == ""


def test_only_what_was_refused_on_purpose_becomes_a_row(bench):
    def refuses(bench):
        labelled(read_counts(bench.path("papalexi"), bench.encoder.vocabulary))

    (row,) = ask(Question(task="t", data="d", run=refuses), bench)
    assert "has no obs column 'cell_type'" in row["not_run"]
    with pytest.raises(ValueError, match="could not convert"):
        ask(Question(task="t", data="d", run=lambda bench: float("x")), bench)


def test_single_tasks(bench):
    with pytest.raises(ValueError, match="no task begins with 'flight'"):
        run_suite(bench, only=["flight"])
    found = run_suite(bench, only=["robustness: sp"])
    assert [row["task"] for row in found["rows"]] == ["robustness: species"]
    with pytest.raises(ValueError, match="belong to the suite standard"):
        EvaluateSettings(only=("masked",))


def test_the_folder_of_data(tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_GRN_SHARED", str(tmp_path))
    assert data_folder(None) is None
    (tmp_path / "data").mkdir()
    assert data_folder(None) == tmp_path / "data"
    assert data_folder(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match="no folder of data"):
        data_folder(tmp_path / "none")


def test_data_without_the_suite_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="for the suite standard"):
        evaluate_model(trained.folder, trained.held_out[:1], EvaluateSettings(device="cpu"), data=tmp_path)


def test_energy_is_power_times_hours():
    assert energy(2.0, threads=4)["kwh"] == pytest.approx(2 * 4 * suite.WATTS_PER_THREAD / 1000)
    assert energy(2.0, threads=4, gpu=True)["kwh"] == pytest.approx(
        2 * (4 * suite.WATTS_PER_THREAD + suite.GPU_WATTS) / 1000
    )


def test_files_are_listed_with_hash_source_and_licence():
    listed = suite_files()
    assert {key for one in suite.QUESTIONS for key in (*one.needs, *one.inputs)} == set(listed)
    for file in listed.values():
        assert len(file.sha256) == 64
        assert file.source
        assert file.license


@pytest.mark.shared
def test_the_listed_files_are_those_of_the_shared_data(shared_dir):
    for file in suite_files().values():
        assert sha256_file(shared_dir / "data" / file.path) == file.sha256, file.path


def test_both_protocols_are_joined(bench):
    counts = suite_embeddings.both_protocols(bench)
    assert len(counts) == 80
    assert set(counts.obs["assay"]) == {"CEL-seq2", "Drop-seq"}


def test_a_copy_of_a_checkpoint_without_a_record_is_scored(quick, trained, data, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    for name in ("training.json", "rank_position.npz"):
        (folder / name).unlink()
    settings = EvaluateSettings(suite="standard", only=("masked",), device="cpu", max_cells=5)
    results = evaluate_model(folder, trained.held_out[:1], settings, data=data)
    rows = results["suite"]["rows"]
    assert all("rank_position" not in row.get("baselines", {}) for row in rows)
    card = render_card(json.loads(json.dumps(results, default=str)))
    assert "the checkpoint says nothing of hours or hardware" in card
    assert "--only masked" in card

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from geneformer_grn.cells.rank_position import RankPositionBaseline
from geneformer_grn.cells.tokenizing import write_corpus
from geneformer_grn.genes.vocabulary import VocabularyMismatchError
from geneformer_grn.model.encoder import ModelConfig, load_encoder, new_model
from geneformer_grn.training.config import read_config
from geneformer_grn.training.initialization import start_bias_at_frequencies
from geneformer_grn.training.pretrain import open_data, run_pretraining
from geneformer_grn.training.tracking import read_log
from geneformer_grn.training.validation import masked_cells, masked_gene_scores

TIMINGS = {"tokens_per_s", "mfu", "data_wait_s", "data_wait_share", "peak_memory_mb"}


def without_timings(path: Path) -> list[dict]:
    return [{key: line[key] for key in line if key not in TIMINGS} for line in read_log(path)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_same_run(one: Path, two: Path, *, tolerance: float = 0.0) -> None:
    for name, weight in weights(one).items():
        assert float((weight - weights(two)[name]).abs().max()) <= tolerance, name
    ours, theirs = without_timings(one / "log.jsonl"), without_timings(two / "log.jsonl")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    if tolerance == 0.0:
        assert ours == theirs
    np.testing.assert_allclose(
        [line["loss"] for line in ours if "loss" in line],
        [line["loss"] for line in theirs if "loss" in line], atol=tolerance, rtol=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, request) -> Path:
    """A run of 12 steps that nobody interrupted."""
    config_file = request.getfixturevalue("config_file")
    corpus = request.getfixturevalue("corpus_folder")
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run_pretraining(read_config(config_file, [f"data.corpus={corpus}"]), out)
    return out


def test_a_run_leaves_what_it_promises(make_config, held_out_folder, tmp_path, tiny_vocabulary):
    config = make_config(
        f"data.validation={held_out_folder}", "run.validate_every=5", "run.validation_cells=30"
    )
    summary = run_pretraining(config, tmp_path / "run")
    assert summary["finished"]
    assert summary["step"] == summary["total_steps"] == 12
    out = tmp_path / "run"
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["data"]["corpus"] == "train"
    assert record["vocabulary"] == tiny_vocabulary.fingerprint
    log = read_log(out / "log.jsonl")
    assert [line["step"] for line in log if "validation_loss" in line] == [5, 10, 12]
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 13))
    assert json.loads((out / "result.json").read_text())["validation_loss"] == log[-1]["validation_loss"]

    for folder in (out / "model", out / "best"):
        model = AutoModelForMaskedLM.from_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).vocab_size == len(tiny_vocabulary)
        baseline = RankPositionBaseline.load(folder / "rank_position.npz")
        cells = masked_cells(open_data(config).validation, tiny_vocabulary, max_cells=30)
        assert baseline.score(cells)["loss"] == pytest.approx(summary["baseline_loss"])
    model = load_encoder(out / "model", device="cpu").model
    scores = masked_gene_scores(model, open_data(config).validation, tiny_vocabulary, max_cells=30)
    assert scores["loss"] == pytest.approx(summary["validation_loss"], abs=1e-5)


def test_the_bias_starts_at_the_frequencies(make_config, corpus):
    model = new_model(ModelConfig(**make_config().model.shape), corpus.vocabulary, seed=0)
    embedding = model.bert.embeddings.word_embeddings.weight.clone()
    start_bias_at_frequencies(model, corpus)
    genes = corpus.input_ids[corpus.input_ids >= corpus.vocabulary.n_special]
    common, rare = np.argmax(np.bincount(genes)), int(genes.min())
    bias = model.cls.predictions.decoder.bias.detach()
    odds = (np.sum(genes == common) + 1) / (np.sum(genes == rare) + 1)
    assert float((bias[common] - bias[rare]).exp()) == pytest.approx(odds, rel=1e-5)
    assert float(bias.exp().sum()) == pytest.approx(1.0)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, embedding)


def test_stopped_again_and_again_is_as_if_never_stopped(make_config, undisturbed, tmp_path):
    out = tmp_path / "run"
    for expected in (1, 2, 3):
        stopped = run_pretraining(make_config("run.max_minutes=1e-9"), out, resume=True)
        assert not stopped["finished"]
        assert stopped["step"] == expected
        assert not (out / "model").exists()
    assert run_pretraining(make_config(), out, resume=True)["finished"]
    assert_same_run(undisturbed, out)


def test_resuming_a_finished_run_changes_nothing(make_config, undisturbed):
    before = weights(undisturbed)
    summary = run_pretraining(make_config(), undisturbed, resume=True)
    assert summary["finished"]
    assert summary["loss"] == read_log(undisturbed / "log.jsonl")[-1]["loss"]
    assert all(torch.equal(before[name], weight) for name, weight in weights(undisturbed).items())


def test_a_signal_saves_and_stops(make_config, tmp_path, undisturbed, monkeypatch):
    from geneformer_grn.training import loop

    take_step = loop.take_step

    def with_signal(run, data, *, waited):
        take_step(run, data, waited=waited)
        if run.position.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "take_step", with_signal)
    assert run_pretraining(make_config(), tmp_path / "run")["step"] == 7
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run_pretraining(make_config(), tmp_path / "run", resume=True)["finished"]
    assert_same_run(undisturbed, tmp_path / "run")


def test_what_cannot_be_started_is_refused(make_config, undisturbed, tmp_path):
    with pytest.raises(FileExistsError, match="--resume"):
        run_pretraining(make_config(), undisturbed)
    with pytest.raises(ValueError, match=r"optim.lr was 0.005, is 0.1"):
        run_pretraining(make_config("optim.lr=0.1"), undisturbed, resume=True)
    with pytest.raises(FileNotFoundError, match="not a corpus"):
        run_pretraining(make_config(f"data.corpus={tmp_path / 'nowhere'}"), tmp_path / "run")
    with pytest.raises(ValueError, match="token budget 20 is smaller"):
        run_pretraining(make_config("data.token_budget=20"), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        run_pretraining(make_config(), tmp_path / "file")
    assert not (tmp_path / "run").exists()


def test_a_held_out_corpus_of_another_vocabulary_is_refused(
    make_config, tiny_adata, tiny_vocabulary, tmp_path
):
    from dataclasses import replace

    other = replace(tiny_vocabulary, max_length=40)
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    write_corpus([tmp_path / "cells.h5ad"], tmp_path / "other", other)
    with pytest.raises(VocabularyMismatchError, match="corpus other"):
        run_pretraining(make_config(f"data.validation={tmp_path / 'other'}"), tmp_path / "run")


def test_held_out_cells_that_are_trained_on_are_refused(make_config, corpus_folder, tmp_path):
    with pytest.raises(ValueError, match=r"files that data\.corpus trains on .*: cells\.h5ad"):
        run_pretraining(make_config(f"data.validation={corpus_folder}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_held_out_cells_the_baseline_is_exported_too(undisturbed, corpus):
    fitted = RankPositionBaseline.fit(corpus, corpus.vocabulary)
    exported = RankPositionBaseline.load(undisturbed / "model" / "rank_position.npz")
    np.testing.assert_array_equal(exported.counts, fitted.counts)


def launch(repository: Path, arguments: list[str], *, processes: int = 0) -> subprocess.Popen:
    """Start the verb in a process of its own, or in several under torchrun."""
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes else []
    program = str(repository / "tests" / "training" / "pretrain_here.py")
    return subprocess.Popen(
        [sys.executable, *launcher, program, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_never_killed(
    repository, config_file, corpus_folder, make_config, tmp_path
):
    length = ["run.max_steps=120", "run.checkpoint_every=5"]
    run_pretraining(make_config(*length), tmp_path / "undisturbed")
    out = tmp_path / "killed"
    changes = [
        argument for change in (f"data.corpus={corpus_folder}", *length) for argument in ("--set", change)
    ]
    arguments = [str(config_file), *changes, "--out", str(out), "--resume"]
    kills = 0
    log = out / "log.jsonl"
    for _ in range(4):
        before = log.stat().st_mtime_ns if log.exists() else None
        process = launch(repository, arguments)
        while process.poll() is None and (not log.exists() or log.stat().st_mtime_ns == before):
            time.sleep(0.02)  # it is still starting
        time.sleep(random.uniform(0.0, 0.6))  # noqa: S311 - any moment will do
        kills += process.poll() is None
        process.kill()
        process.communicate()
        for folder in (out / "checkpoints").glob("step-*"):
            torch.load(folder / "state.pt", weights_only=True)
    assert kills > 0
    process = launch(repository, arguments)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert_same_run(tmp_path / "undisturbed", out, tolerance=1e-6)
    assert not list(out.glob("**/.geneformer-grn-*"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_equal_eager_ones(repository, config_file, corpus_folder, tmp_path):
    losses = []
    for compiled in ("false", "true"):
        changes = [
            f"data.corpus={corpus_folder}",
            "run.max_steps=4",
            "model.dropout=0",
            f"run.compile={compiled}",
        ]
        arguments = [argument for change in changes for argument in ("--set", change)]
        process = launch(repository, [str(config_file), *arguments, "--out", str(tmp_path / compiled)])
        text, _ = process.communicate()
        assert process.returncode == 0, text
        losses.append([line["loss"] for line in read_log(tmp_path / compiled / "log.jsonl")])
    np.testing.assert_allclose(*losses, atol=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("dropout", [0, 0.1])
def test_two_processes_do_what_one_does(
    repository, config_file, corpus_folder, make_config, tmp_path, dropout: float
):
    shared = [f"model.dropout={dropout}", "run.max_steps=9", "data.token_budget=500"]
    run_pretraining(make_config(*shared, "optim.accumulation=2"), tmp_path / "one")
    changes = [
        argument for change in (f"data.corpus={corpus_folder}", *shared) for argument in ("--set", change)
    ]
    process = launch(
        repository,
        [str(config_file), *changes, "--out", str(tmp_path / "two"), "--expect-world", "2"],
        processes=2,
    )
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    plan = json.loads((tmp_path / "two" / "run.json").read_text())["plan"]
    assert plan["processes"] == 2
    ours = [line["loss"] for line in read_log(tmp_path / "one" / "log.jsonl")]
    theirs = [line["loss"] for line in read_log(tmp_path / "two" / "log.jsonl")]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert [line["tokens"] for line in read_log(tmp_path / "one" / "log.jsonl")] == [
        line["tokens"] for line in read_log(tmp_path / "two" / "log.jsonl")
    ]
    for name, weight in weights(tmp_path / "one").items():
        torch.testing.assert_close(weight, weights(tmp_path / "two")[name], atol=1e-5, rtol=0, msg=name)

from __future__ import annotations

import errno
import importlib.util
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
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from geneformer_grn.cells.corpora.dealing import SplitSettings
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.splitting import split_corpus
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.rank_position import RankPositionBaseline
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
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        run_pretraining(make_config("model.start_from=nowhere"), tmp_path / "run")
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
def test_killed_twenty_times_it_ends_as_if_never_killed(repository, config_file, corpus_folder, tmp_path):
    length = ["run.max_steps=400", "run.checkpoint_every=5", "run.log_every=5"]
    changes = [
        argument for change in (f"data.corpus={corpus_folder}", *length) for argument in ("--set", change)
    ]

    def start(out: Path) -> subprocess.Popen:
        return launch(repository, [str(config_file), *changes, "--out", str(out), "--resume"])

    whole = start(tmp_path / "undisturbed")
    text, _ = whole.communicate()
    assert whole.returncode == 0, text
    out = tmp_path / "killed"
    log = out / "log.jsonl"
    kills, resumed_at = 0, []
    while kills < 20:
        before = log.stat().st_mtime_ns if log.exists() else None
        process = start(out)
        while process.poll() is None and (not log.exists() or log.stat().st_mtime_ns == before):
            time.sleep(0.01)  # it is still starting
        time.sleep(random.uniform(0.0, 0.3))  # noqa: S311 - any moment will do
        if process.poll() is not None:
            text, _ = process.communicate()
            assert process.returncode == 0, text
            break
        kills += 1
        process.kill()
        process.communicate()
        folders = sorted((out / "checkpoints").glob("step-*"))
        for folder in folders:
            torch.load(folder / "state.pt", weights_only=True)
            AutoModelForMaskedLM.from_pretrained(folder / "model")
        resumed_at.append(folders[-1].name if folders else "")
    assert kills == 20
    assert resumed_at == sorted(resumed_at), "no checkpoint is lost"
    process = start(out)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert_same_run(tmp_path / "undisturbed", out)
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


def test_every_checkpoint_holds_a_plain_model(undisturbed, tiny_vocabulary):
    folders = sorted((undisturbed / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step-00000008", "step-00000012"]
    for folder in folders:
        state = torch.load(folder / "state.pt", weights_only=True)["model"]
        model = AutoModelForMaskedLM.from_pretrained(folder / "model")
        assert AutoTokenizer.from_pretrained(folder / "model").vocab_size == len(tiny_vocabulary)
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, state[name]), name
    last = load_file(folders[-1] / "model" / "model.safetensors")
    assert all(torch.equal(last[name], weight) for name, weight in weights(undisturbed).items())


def test_a_full_disk_in_the_log_keeps_the_checkpoint(make_config, undisturbed, tmp_path, monkeypatch):
    """Neither writing to the log nor closing it works any more, as on a disk that stays full."""
    from geneformer_grn.training.tracking import RunLog

    flush, calls = RunLog.flush, []

    class FullFile:
        def write(self, text: str) -> None:
            pass

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        close = flush

    def full(self):
        calls.append(1)
        if len(calls) == 4:
            self._file.close()
            self._file = FullFile()
        flush(self)

    monkeypatch.setattr(RunLog, "flush", full)
    with pytest.raises(OSError, match=r"disk of .* is full, step-00000004 is whole.*--resume"):
        run_pretraining(make_config(), tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / "checkpoints" / "step-00000004").is_dir()
    run_pretraining(make_config(), tmp_path / "run", resume=True)
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.parametrize("folder", ["best", "model"])
def test_a_full_disk_in_an_export_keeps_the_checkpoint(
    make_config, held_out_folder, tmp_path, monkeypatch, folder: str
):
    """What safetensors raises there is no OSError."""
    from geneformer_grn.training import pretrain

    save = pretrain.save_checkpoint

    def full(model, vocabulary, path, **options):
        if path.name == folder and path.parent.parent == tmp_path / "run":
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save(model, vocabulary, path, **options)

    config = make_config(f"data.validation={held_out_folder}", "run.validate_every=12")
    monkeypatch.setattr(pretrain, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"disk of .* is full, step-000000\d+ is whole.*--resume"):
        run_pretraining(config, tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run" / folder).exists()
    assert run_pretraining(config, tmp_path / "run", resume=True)["finished"]
    assert (tmp_path / "run" / folder / "model.safetensors").is_file()


def test_a_held_out_loss_that_is_not_finite_stops_the_run(
    make_config, held_out_folder, tmp_path, monkeypatch
):
    from geneformer_grn.training import pretrain

    scores, calls = pretrain.masked_gene_scores, []

    def broken(*given, **options):
        calls.append(1)
        return scores(*given, **options) | ({"loss": float("nan")} if len(calls) == 2 else {})

    monkeypatch.setattr(pretrain, "masked_gene_scores", broken)
    config = make_config(f"data.validation={held_out_folder}", "run.validate_every=5")
    with pytest.raises(ValueError, match=r"held-out loss \(nan\) of step 10 is not finite.*optim\.lr"):
        run_pretraining(config, tmp_path / "run")
    out = tmp_path / "run"
    assert [folder.name for folder in sorted((out / "checkpoints").iterdir())] == [
        "step-00000004",
        "step-00000008",
    ]
    assert read_log(out / "log.jsonl")[-1]["step"] == 10
    assert (out / "best").is_dir()
    monkeypatch.undo()
    assert run_pretraining(config, out, resume=True)["finished"]


def test_a_batch_beyond_the_gpus_memory_is_told(make_config, tmp_path, monkeypatch):
    from geneformer_grn.training import loop

    def out_of_memory(*_given, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(loop, "take_step", out_of_memory)
    with pytest.raises(ValueError, match=r"batch of 400 tokens does not fit.*activation_checkpointing"):
        run_pretraining(make_config(), tmp_path / "run")


def test_parts_of_one_split_may_train_and_validate(make_config, tiny_h5ad, tiny_vocabulary, tmp_path):
    columns = CorpusSettings(columns=("cell_type",))
    write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary, columns)
    settings = SplitSettings(by="cell_type", fractions={"train": 0.5, "valid": 0.5})
    split_corpus(tmp_path / "corpus", tmp_path / "parts", settings)
    train, valid = tmp_path / "parts" / "train", tmp_path / "parts" / "valid"
    config = make_config(f"data.corpus={train}", f"data.validation={valid}", "run.max_steps=3")
    summary = run_pretraining(config, tmp_path / "run")
    assert summary["validation_loss"] > 0
    for corpus, held_out in ((tmp_path / "corpus", valid), (train, train)):
        config = make_config(f"data.corpus={corpus}", f"data.validation={held_out}")
        with pytest.raises(ValueError, match=r"cells\.h5ad.*corpus split"):
            run_pretraining(config, tmp_path / "other")


def test_a_vanished_shard_is_named_and_the_run_goes_on_when_it_is_back(
    make_config, corpus_folder, undisturbed, tmp_path
):
    corpus = tmp_path / "train"
    shutil.copytree(corpus_folder, corpus)
    here = f"data.corpus={corpus}"
    run_pretraining(make_config(here, "run.max_minutes=1e-9"), tmp_path / "run")
    (shard,) = corpus.glob("*.arrow")
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"corpus .*train is damaged .*\.arrow"):
        run_pretraining(make_config(here), tmp_path / "run", resume=True)
    (tmp_path / "elsewhere").rename(shard)
    run_pretraining(make_config(here), tmp_path / "run", resume=True)
    assert_same_run(undisturbed, tmp_path / "run")


def test_an_unwritable_folder_is_refused_before_any_work(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="cannot write the run"):
        run_pretraining(make_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_attention_and_trackers_that_are_not_there_are_refused(make_config, tmp_path):
    with pytest.raises(ValueError, match="'varlen' cannot train on cpu"):
        run_pretraining(make_config("run.attention=varlen"), tmp_path / "run")
    with pytest.raises(ValueError, match="there is one process"):
        run_pretraining(make_config("run.sharding=fsdp2"), tmp_path / "sharded")
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ImportError, match=r"run\.tracker is 'tensorboard'"):
            run_pretraining(make_config("run.tracker=tensorboard"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_column_to_balance_must_be_there(make_config, tmp_path):
    with pytest.raises(ValueError, match="has no column 'tissue'"):
        run_pretraining(make_config("data.balance=tissue"), tmp_path / "run")
    summary = run_pretraining(
        make_config("data.balance=source", "data.curriculum=[[0.5, 20]]", "optim.optimizer=muon"),
        tmp_path / "run",
    )
    assert summary["finished"]

"""What a checkpoint says of its own training, against its log and against sums by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.dealing import SplitSettings
from geneformer_grn.cells.corpora.splitting import split_corpus
from geneformer_grn.cells.corpora.tokenizing import CorpusSettings, write_corpus
from geneformer_grn.training.data import open_data
from geneformer_grn.training.pretrain import run_pretraining
from geneformer_grn.training.record import (
    FILE,
    device_name,
    earlier_training,
    read_training_record,
    training_record,
    training_stages,
)
from geneformer_grn.training.tracking import read_log

CPU = torch.device("cpu")
KEYS = {
    "config", "corpus", "held_out", "steps", "tokens", "hours", "loss_curve", "validation", "device",
    "versions", "started_from",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, request):
    """A tiny run with a held-out corpus: its folder and the record beside its weights."""
    from geneformer_grn.training.config import read_config

    corpus = request.getfixturevalue("corpus_folder")
    held_out = request.getfixturevalue("held_out_folder")
    changes = [f"data.corpus={corpus}", f"data.validation={held_out}", "run.validate_every=6"]
    out = tmp_path_factory.mktemp("recorded") / "run"
    run_pretraining(read_config(request.getfixturevalue("config_file"), changes), out)
    return out, json.loads((out / "model" / "training.json").read_text())


def log_lines(n_steps: int) -> list[dict]:
    rng = np.random.default_rng(n_steps)
    return [
        {
            "step": step,
            "loss": float(rng.normal(5, 2)),
            "masked_tokens": int(rng.integers(1, 900)),
            "tokens": 1000 + step,
            "tokens_per_s": 500.0,
        }
        for step in range(1, n_steps + 1)
    ]


def test_a_run_leaves_its_record(made, corpus, held_out_folder):
    out, record = made
    held_out = Corpus.open(held_out_folder)
    log = read_log(out / "log.jsonl")
    assert set(record) == KEYS
    assert record["steps"] == 12
    assert record["tokens"] == sum(line["tokens"] for line in log if "loss" in line)
    assert record["hours"] >= 0
    assert [point["step"] for point in record["loss_curve"]] == list(range(1, 13))
    assert [line["step"] for line in record["validation"]] == [6, 12]
    assert record["validation"][-1]["baseline_loss"] > 0
    assert record["config"]["data.corpus"] == "train"
    assert record["config"]["optim.lr"] == 5e-3
    parts = {"corpus": (corpus, 80, "cells.h5ad"), "held_out": (held_out, 60, "other.h5ad")}
    for key, (cells, n_cells, name) in parts.items():
        assert record[key]["n_cells"] == len(cells) == n_cells
        assert record[key]["n_tokens"] == len(cells.input_ids)
        assert [entry["name"] for entry in record[key]["files"]] == [name]
        assert len(record[key]["files"][0]["sha256"]) == 64
        assert record[key]["files"][0]["left_out"] == {}
    assert record["device"].startswith("cpu (")
    assert record["versions"]["torch"] == torch.__version__


def test_a_record_names_no_directory(made, corpus_folder):
    out, record = made
    text = json.dumps(record)
    assert str(corpus_folder.parent) not in text
    assert str(out.parent) not in text
    assert not [value for value in _strings(record) if value.startswith(("/", "~"))]


def test_a_record_says_what_was_left_out_and_where_the_model_began(
    make_config, corpus, held_out_folder, monkeypatch, tmp_path
):
    entry = corpus.manifest["files"][0] | {
        "n_dropped_copies": 157,
        "n_dropped_where": 3,
        "n_dropped_empty": 4,
    }
    monkeypatch.setitem(corpus.manifest, "files", [entry])
    (tmp_path / "before").mkdir()
    config = make_config(f"model.start_from={tmp_path / 'before'}")
    record = training_record(config, log_lines(1), corpus=corpus, held_out=None, device=CPU)
    assert record["corpus"]["files"][0]["left_out"] == {"copies": 157, "rules": 7}
    assert record["config"]["model.start_from"] == "before", "a name, not a directory"


def test_a_run_remembers_the_training_of_its_start(made, config_file, corpus_folder, tmp_path):
    from geneformer_grn.training.config import read_config

    out, first = made
    assert first["started_from"] is None
    changes = [f"data.corpus={corpus_folder}", f"model.start_from={out / 'model'}"]
    config = read_config(config_file, changes)
    run_pretraining(config, tmp_path / "second")
    second = read_training_record(tmp_path / "second" / "model")
    assert second["config"]["model.start_from"] == out.name == "run", "the run, not its folder called model"
    assert second["started_from"] == {"name": "run", "training": first}
    assert training_stages(second) == [second, first]
    assert training_stages(None) == []
    (tmp_path / "second" / "model" / "training.json").unlink()
    further = read_config(config_file, [changes[0], f"model.start_from={tmp_path / 'second' / 'model'}"])
    assert earlier_training(further) == {"name": "second", "training": None}
    assert earlier_training(read_config(config_file, changes[:1])) is None


def test_held_out_cells_that_the_start_was_trained_on_are_refused(
    made, make_config, corpus_folder, held_out_folder, tmp_path, caplog
):
    out, first = made
    start = tmp_path / "start"
    shutil.copytree(out / "model", start)
    asked = (f"data.corpus={held_out_folder}", f"model.start_from={start}")
    open_data(make_config(*asked, "data.validation=none"))
    with pytest.raises(
        ValueError, match=r"'start', which training starts from, was trained on .*cells\.h5ad"
    ):
        open_data(make_config(*asked, f"data.validation={corpus_folder}"))

    def recorded(**changes):
        entry = {**first["corpus"]["files"][0], **changes}
        entry = {key: value for key, value in entry.items() if value is not None}
        record = {**first, "corpus": {**first["corpus"], "files": [entry]}}
        (start / FILE).write_text(json.dumps(record), encoding="utf-8")
        return make_config(*asked, f"data.validation={corpus_folder}")

    with caplog.at_level("WARNING"):
        open_data(recorded(sha256="0" * 64))
    assert not caplog.records
    open_data(recorded(splits=None, left_out={"elsewhere": 3}))
    assert "start was trained on a part of cells.h5ad, and its record does not say which" in caplog.text


def test_another_part_of_a_split_may_be_held_out_from_a_start(
    made, make_config, tiny_adata, tiny_vocabulary, tmp_path
):
    out, _ = made
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    whole = write_corpus(
        [tmp_path / "cells.h5ad"], tmp_path / "whole", tiny_vocabulary, CorpusSettings(columns=("cell_type",))
    )
    groups = SplitSettings(by="cell_type", assign={"test": ["B"]})
    parts = split_corpus(whole.path, tmp_path / "parts", groups)
    shutil.copytree(out / "model", tmp_path / "start")
    record = training_record(
        make_config(), log_lines(1), corpus=parts["train"], held_out=None, device=torch.device("cpu")
    )
    (tmp_path / "start" / FILE).write_text(json.dumps(record), encoding="utf-8")
    asked = (f"data.corpus={parts['train'].path}", f"model.start_from={tmp_path / 'start'}")
    open_data(make_config(*asked, f"data.validation={parts['test'].path}"))
    with pytest.raises(ValueError, match="which training starts from"):
        open_data(
            make_config(
                f"data.corpus={parts['test'].path}", asked[1], f"data.validation={parts['train'].path}"
            )
        )


def _strings(value) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(("n_steps", "span"), [(1, 1), (40, 1), (41, 2), (100, 3), (803, 21)])
def test_the_curve_is_a_mean_per_masked_gene(make_config, corpus, n_steps, span):
    log = log_lines(n_steps)
    record = training_record(make_config(), log, corpus=corpus, held_out=None, device=CPU)
    assert record["held_out"] is None
    assert len(record["loss_curve"]) <= 40
    points = iter(record["loss_curve"])
    covered = 0
    for number, line in enumerate(log, start=1):
        if number % span and number != n_steps:
            continue
        part = log[covered:number]
        losses = [entry["loss"] for entry in part for _ in range(entry["masked_tokens"])]
        point = next(points)
        assert point["step"] == line["step"]
        assert point["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
        covered = number
    assert next(points, None) is None
    assert record["hours"] == pytest.approx(sum(entry["tokens"] / 500 / 3600 for entry in log), abs=6e-4)


def test_lines_of_validation_are_not_steps(make_config, corpus):
    log = [*log_lines(2), {"step": 2, "validation_loss": 3.0, "validation_accuracy": 0.1}]
    record = training_record(make_config(), log, corpus=corpus, held_out=corpus, device=CPU)
    assert record["steps"] == 2
    assert record["validation"] == log[2:]
    assert record["held_out"] == record["corpus"]


def test_the_device_says_its_threads():
    assert device_name(CPU).endswith(f"{torch.get_num_threads()} threads)")

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.model.objectives import recompute_activations
from geneformer_grn.training.checkpoints import Position
from geneformer_grn.training.flops import model_flops
from geneformer_grn.training.loop import Run, SummedLoss, seed_dropout, take_step, train
from geneformer_grn.training.optimizer import make_optimizer
from geneformer_grn.training.pretrain import open_data
from geneformer_grn.training.stream import Share, StepData, training_steps
from geneformer_grn.training.tracking import RunLog, read_log


@pytest.fixture
def make_run(tiny_vocabulary):
    """Return a run at its beginning; its log is closed when the test ends."""
    logs: list[RunLog] = []

    def make(config, out: Path) -> Run:
        run = begin_run(config, out, tiny_vocabulary)
        logs.append(run.log)
        return run

    yield make
    for log in logs:
        log.close()


def begin_run(config, out: Path, vocabulary) -> Run:
    accelerator = Accelerator(cpu=True)
    module = SummedLoss(
        new_model(ModelConfig(**config.model.shape), vocabulary, seed=0),
        config.run.precision,
        with_cells=config.optim.cell_loss > 0,
        n_special=vocabulary.n_special,
    )
    optimizer = make_optimizer(module, config.optim, device=accelerator.device)
    model, optimizer = accelerator.prepare(module, optimizer)
    return Run(
        config=config, out=out, accelerator=accelerator, model=model, optimizer=optimizer,
        log=RunLog(out, accelerator), total_steps=config.run.max_steps, position=Position(), facts={},
    )  # fmt: skip


def steps_of(config, accumulation: int = 1):
    data = open_data(config)
    return training_steps(data.corpus, data.vocabulary, data.batches, share=Share(0, 1, accumulation))


def cell_by_cell_mean_loss(model, data: StepData, n_special: int) -> torch.Tensor:
    """Each cell's hidden genes guessed from the mean state of its visible ones, one cell at a time."""
    losses = []
    for batch in data.batches:
        for left, right in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
            ids, labels = batch.input_ids[0, left:right], batch.labels[0, left:right]
            states = model.bert(ids[None], output_hidden_states=True).hidden_states[-2][0]
            cell = states[(labels == -100) & (ids >= n_special)].mean(dim=0)
            shares = (model.cls.predictions.decoder(cell)).log_softmax(dim=0)
            losses.append(-shares[labels[labels != -100]])
    return torch.cat(losses).sum() / data.n_masked


def test_the_cell_loss_is_added_with_its_weight(make_config, make_run, tmp_path, tiny_vocabulary):
    config = make_config("model.dropout=0", "optim.cell_loss=0.5", "optim.clip_norm=0.7")
    run = make_run(config, tmp_path)
    plain = new_model(ModelConfig(**config.model.shape), tiny_vocabulary, seed=0)
    plain.set_attn_implementation("eager")
    data = next(steps_of(config))
    take_step(run, data, waited=0.0)

    of_tokens = padded_mean_loss(plain, data)
    of_cells = cell_by_cell_mean_loss(plain, data, tiny_vocabulary.n_special)
    (of_tokens + 0.5 * of_cells).backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
    line = run.pending[0]
    sums = (line["loss_sums"] / line["masked_tokens"]).tolist()
    assert sums == pytest.approx([of_tokens.item(), of_cells.item()], abs=1e-5)
    assert float(line["grad_norm"]) == pytest.approx(float(norm), rel=1e-4)


def padded_mean_loss(model, data: StepData) -> torch.Tensor:
    """Plain BERT, one cell at a time with the full head: the mean over all masked tokens of the step."""
    losses = []
    for batch in data.batches:
        for left, right in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
            logits = model(batch.input_ids[:, left:right]).logits[0]
            losses.append(
                torch.nn.functional.cross_entropy(logits, batch.labels[0, left:right], reduction="none")
            )
    return torch.cat(losses).sum() / data.n_masked


@pytest.mark.parametrize("accumulation", [1, 3])
def test_one_step_equals_plain_bert_and_plain_adamw(
    make_config, make_run, tmp_path, tiny_vocabulary, accumulation: int
):
    config = make_config(
        "model.dropout=0", "optim.weight_decay=0", f"optim.accumulation={accumulation}", "optim.clip_norm=0.7"
    )
    run = make_run(config, tmp_path)
    plain = new_model(ModelConfig(**config.model.shape), tiny_vocabulary, seed=0)
    plain.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(
        plain.parameters(),
        lr=config.optim.lr / 2,
        betas=config.optim.betas,
        eps=config.optim.eps,
        weight_decay=0,
    )
    data = next(steps_of(config, accumulation))
    assert len(data.batches) == accumulation
    take_step(run, data, waited=0.0)

    loss = padded_mean_loss(plain, data)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
    optimizer.step()
    line = run.pending[0]
    assert float(line["loss_sums"][0]) / line["masked_tokens"] == pytest.approx(loss.item(), abs=1e-5)
    assert float(line["grad_norm"]) == pytest.approx(float(norm), rel=1e-4)
    for (name, ours), theirs in zip(run.bare_model.named_parameters(), plain.parameters(), strict=True):
        # Adam's first update is lr * sign(gradient): gradients of rounding size may flip, hence the mean.
        assert float((ours - theirs).detach().abs().mean()) < 2e-5, name


def test_it_learns_one_batch_by_heart(make_config, make_run, tmp_path):
    config = make_config("run.max_steps=150", "optim.lr=2e-2", "model.dropout=0", "model.hidden_size=32")
    run = make_run(config, tmp_path)
    one = next(steps_of(config))
    assert train(run, iter(lambda: one, None))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] > 3.0
    assert log[-1]["loss"] < 0.5


def test_the_log_counts_and_a_bf16_step_is_close(make_config, make_run, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        config = make_config(f"run.precision={precision}", "run.max_steps=3", "model.dropout=0")
        out = tmp_path / precision
        out.mkdir()
        run = make_run(config, out)
        assert train(run, steps_of(config))
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == [1, 2, 3]
        assert sum(line["tokens"] for line in log) == run.position.tokens
        assert all(line["tokens_per_s"] > 0 and line["peak_memory_mb"] > 0 for line in log)
        assert all(weight.dtype == torch.float32 for weight in run.bare_model.parameters())
        losses.append(log[-1]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_a_loss_that_is_not_finite_stops_the_run(make_config, make_run, tmp_path):
    config = make_config("run.checkpoint_every=1")
    run = make_run(config, tmp_path)
    steps = steps_of(config)
    take_step(run, next(steps), waited=0.0)
    with torch.no_grad():
        run.bare_model.bert.embeddings.LayerNorm.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"step 2 is not finite.*optim.lr"):
        train(run, steps)
    assert not (tmp_path / "checkpoints").exists(), "what is broken is never saved"
    (path,) = (tmp_path / "not_finite").iterdir()
    saved = torch.load(path, weights_only=True)
    again = steps_of(config)
    expected = [next(again), next(again)][1]
    assert path.name == "step-00000002-process-0.pt"
    assert saved["numbers"] == expected.numbers
    for found, batch in zip(saved["batches"], expected.batches, strict=True):
        assert torch.equal(found["input_ids"], batch.input_ids)
        assert torch.equal(found["labels"], batch.labels)


def test_dropout_depends_on_the_place_in_the_data_only():
    draws = []
    for number in [(0, 1), (0, 2), (0, 1)]:
        seed_dropout(7, number)
        draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_the_log_measures_arithmetic_and_waiting(make_config, make_run, tmp_path):
    config = make_config("run.max_steps=2", "run.log_every=2")
    run = make_run(config, tmp_path)
    run.peak_flops = 1e9
    steps = list(islice(steps_of(config), 2))
    assert train(run, steps)
    for line, data in zip(read_log(tmp_path / "log.jsonl"), steps, strict=True):
        lengths = torch.cat([batch.cu_seqlens.diff() for batch in data.batches]).numpy()
        step_s = line["tokens"] / line["tokens_per_s"]
        needed = model_flops(run.bare_model.config, lengths, line["masked_tokens"])
        assert line["tokens"] == lengths.sum()
        assert line["masked_tokens"] == sum(int((batch.labels >= 0).sum()) for batch in data.batches)
        assert line["mfu"] == pytest.approx(needed / step_s / 1e9, rel=0.02, abs=1e-4)
        assert line["data_wait_share"] == pytest.approx(line["data_wait_s"] / step_s, rel=0.05, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    ["run.activation_checkpointing=true", "run.attention=buckets", "static"],
    ids=["activation checkpointing", "buckets", "one shape"],
)
def test_other_ways_to_the_same_step(make_config, make_run, tmp_path, change):
    weights = []
    for number, changes in enumerate(([], [change])):
        static = changes == ["static"]
        config = make_config("model.dropout=0", "optim.accumulation=2", *([] if static else changes))
        out = tmp_path / str(number)
        out.mkdir()
        run = make_run(config, out)
        data = open_data(config)
        if config.run.activation_checkpointing:
            recompute_activations(run.bare_model)
        calls = []
        run.bare_model.bert.encoder.layer[0].intermediate.register_forward_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        run.attention = None if config.run.attention == "auto" else config.run.attention
        settings = replace(data.batches, static=static)
        take_step(
            run, next(training_steps(data.corpus, data.vocabulary, settings, share=Share(0, 1, 2))), waited=0
        )
        assert len(calls) == (4 if config.run.activation_checkpointing else 2)
        weights.append(dict(run.bare_model.named_parameters()))
        line = run.pending[0]
        weights[-1]["loss"] = line["loss_sums"][0] / line["masked_tokens"]
        weights[-1]["norm"] = line["grad_norm"]
    for name, weight in weights[0].items():
        # Adam's first update is lr * sign(gradient): gradients of rounding size may flip, hence the mean.
        assert float((weight - weights[1][name]).detach().abs().mean()) < 2e-5, name


@pytest.mark.parametrize("changes", [["optim.optimizer=muon"], ["optim.schedule=wsd", "data.mask_rate=0.3"]])
def test_other_recipes_learn_one_batch_too(make_config, make_run, tmp_path, changes):
    config = make_config(
        "run.max_steps=100", "optim.lr=1e-2", "model.dropout=0", "model.hidden_size=32", *changes
    )
    run = make_run(config, tmp_path)
    one = next(steps_of(config))
    assert train(run, iter(lambda: one, None))
    log = read_log(tmp_path / "log.jsonl")
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]

"""Fine-tuning on tiny cells: what learns and what does not, the same numbers twice, and after a kill."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.model.fingerprint import checkpoint_fingerprint, encoder_fingerprint
from geneformer_grn.model.head_files import load_finetuned, save_finetuned
from geneformer_grn.training import finetune_loop
from geneformer_grn.training.finetune import finetune
from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneOptim, FinetuneSettings
from geneformer_grn.training.supervision import MISSING, Task

MODES = ["full", "frozen", "top", "lora"]
FAST = {"epochs": 2, "min_steps": 0, "token_budget": 800, "lr": 3e-3, "head_lr": 1e-2, "patience": None}


def settings(mode: str = "full", pooling: str = "mean", **changes) -> FinetuneSettings:
    of_model = {key: changes.pop(key) for key in list(changes) if key in FinetuneModel.model_fields}
    model = FinetuneModel(**{"mode": mode, "pooling": pooling, "top_layers": 1, **of_model})
    return FinetuneSettings(model=model, optim=FinetuneOptim(**{**FAST, **changes}))


def weights_of(result) -> dict[str, torch.Tensor]:
    found = {f"heads.{name}": weight for name, weight in result.model.heads.state_dict().items()}
    return found | dict(result.model.encoder.model.bert.state_dict())


def assert_same(one, two) -> None:
    """Equal to the last bit, history and weights."""
    assert one.history == two.history
    assert one.best_epoch == two.best_epoch
    theirs = weights_of(two)
    for name, weight in weights_of(one).items():
        assert torch.equal(weight, theirs[name]), name


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_begins_with_the_pretrained_weights_and_changes_what_it_should(
    tiny_encoder, tiny_checkpoint, ranked, tasks, splits, mode
):
    result = finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings(mode))
    on_disk = checkpoint_fingerprint(tiny_checkpoint)
    assert result.fingerprint_before == on_disk
    assert (result.fingerprint_after == on_disk) == (mode == "frozen")
    assert encoder_fingerprint(result.model.encoder.model) == result.fingerprint_after
    assert encoder_fingerprint(tiny_encoder.model) == on_disk, "the caller's encoder is left alone"
    start = tiny_encoder.model.bert.state_dict()
    after = result.model.encoder.model.bert.state_dict()
    assert after.keys() == start.keys(), "low-rank changes are merged"
    changed = {name for name, weight in after.items() if not torch.equal(weight, start[name])}
    learns = {
        "full": lambda name: True,
        "frozen": lambda name: False,
        "top": lambda name: "layer.1." in name,
        "lora": lambda name: name.endswith(("query.weight", "value.weight")),
    }[mode]
    ids = ("position_ids", "token_type_ids")
    assert changed == {name for name in start if learns(name) and not name.endswith(ids)}


@pytest.mark.parametrize("mode", MODES)
def test_another_encoder_in_place_of_the_given_one_is_noticed(
    tiny_encoder, tiny_vocabulary, ranked, tasks, splits, mode, monkeypatch
):
    """The reference's multi-task training never loads the pretrained weights."""
    config = ModelConfig(n_layers=2, hidden_size=32, n_heads=2, ffn_size=64)
    fresh = replace(tiny_encoder, model=new_model(config, tiny_vocabulary, seed=5).eval())
    real = finetune_loop.trainable_copy
    monkeypatch.setattr(
        finetune_loop, "trainable_copy", lambda encoder, *rest, **named: real(fresh, *rest, **named)
    )
    with pytest.raises(RuntimeError, match="is not the one given"):
        finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings(mode))


@pytest.mark.parametrize(
    ("mode", "pooling"), [("full", "cls"), ("frozen", "mean"), ("top", "mean"), ("lora", "attention")]
)
def test_heads_may_read_a_lower_layer_and_the_rest_is_left_out(
    tiny_encoder, ranked, tasks, splits, mode, pooling, tmp_path
):
    """What learns, is saved and is loaded is the model without its last layer."""
    lower = replace(tiny_encoder, model=tiny_encoder.up_to(-1).model)
    start = encoder_fingerprint(lower.model)
    given = ([tasks["kind"]], splits)
    result = finetune(tiny_encoder, ranked, *given, settings(mode, pooling, encoder_layer=-1))
    assert_same(result, finetune(lower, ranked, *given, settings(mode, pooling)))
    assert result.fingerprint_before == start != encoder_fingerprint(tiny_encoder.model)
    assert (result.fingerprint_after == start) == (mode == "frozen")
    assert encoder_fingerprint(lower.model) == start, "shared weights are left alone"
    save_finetuned(result.model, tmp_path / "model")
    loaded = load_finetuned(tmp_path / "model", device="cpu")
    assert loaded.encoder.n_layers == 1
    np.testing.assert_allclose(
        loaded.predict(ranked)["kind"], result.model.predict(ranked)["kind"], atol=1e-6
    )


@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_genes_are_read_from_a_lower_layer_and_a_killed_run_goes_on(
    tiny_encoder, ranked, tasks, splits, mode, tmp_path
):
    given = (tiny_encoder, ranked, [tasks["role"]], splits)
    asked = settings(mode, encoder_layer=-1, heads="steps")
    whole = finetune(*given, asked)

    def kill(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(*given, asked, out=tmp_path / "run", told=kill)
    assert_same(whole, finetune(*given, asked, out=tmp_path / "run", resume=True))
    with pytest.raises(ValueError, match="encoder_layer"):
        finetune(*given, settings(mode, heads="steps"), out=tmp_path / "run", resume=True)
    lower = replace(tiny_encoder, model=tiny_encoder.up_to(-1).model)
    assert_same(whole, finetune(lower, *given[1:], settings(mode, heads="steps")))


@pytest.mark.parametrize("pooling", ["mean", "cls", "attention"])
@pytest.mark.parametrize("name", ["kind", "grade", "age"])
def test_it_learns_what_cells_are(tiny_encoder, ranked, tasks, splits, name, pooling):
    """From the training part alone; without a validation part the last epoch is kept."""
    alone = {"cell": replace(splits["cell"], validation=np.array([], dtype=np.int64))}
    chosen = settings("full", pooling, epochs=6, token_budget=250)
    result = finetune(tiny_encoder, ranked, [tasks[name]], alone, chosen)
    assert result.best_epoch == 6
    found, truth = result.model.predict(ranked)[name], tasks[name].values
    train = splits["cell"].train
    if name == "age":  # in its own unit
        assert np.mean((found[train] - truth[train]) ** 2) < 0.3 * truth.var()
        assert 50 < found[train].mean() < 70
    else:
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert (found[train].argmax(axis=1) == truth[train]).mean() > 0.85


@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_it_learns_what_genes_are(tiny_encoder, ranked, tasks, splits, mode):
    alone = {"gene": replace(splits["gene"], validation=np.array([], dtype=np.int64))}
    result = finetune(tiny_encoder, ranked, [tasks["role"]], alone, settings(mode, epochs=5))
    task = tasks["role"]
    held = np.isin(task.gene_tokens, ranked.tokens)
    train = splits["gene"].train[held[splits["gene"].train]]
    found = result.model.predict(ranked)["role"][task.gene_tokens]
    assert (found[train].argmax(axis=1) == task.values[train]).mean() > 0.8
    assert result.n_train_units == {"role": len(train)}
    np.testing.assert_array_equal(np.isnan(found[:, 0]), ~held)


@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_several_tasks_share_an_encoder(tiny_encoder, ranked, tasks, splits, mode):
    chosen = settings(mode, "attention", task_weighting="uncertainty", epochs=3)
    result = finetune(tiny_encoder, ranked, list(tasks.values()), splits, chosen)
    assert {spec.name for spec in result.model.specs} == set(tasks)
    found = result.model.predict(ranked)
    assert found["kind"].shape == (80, 2)
    assert found["slope"].shape == (len(tiny_encoder.vocabulary),)
    assert 60 < np.nanmean(found["slope"][tasks["slope"].gene_tokens]) < 110


def test_two_runs_are_identical_and_another_seed_is_not(tiny_encoder, ranked, tasks, splits):
    given = (tiny_encoder, ranked, [tasks["kind"], tasks["role"]], splits, settings(epochs=2))
    one = finetune(*given, seed=3)
    torch.rand(7)  # whatever the global random state
    assert_same(one, finetune(*given, seed=3))
    assert finetune(*given, seed=4).history != one.history


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_run_goes_on_to_the_same_numbers(
    tiny_encoder, ranked, tasks, splits, mode, tmp_path, monkeypatch
):
    chosen = settings(mode, heads="steps", epochs=4)
    given = (tiny_encoder, ranked, [tasks["kind"], tasks["age"]], splits, chosen)
    whole = finetune(*given)
    real, calls = finetune_loop.save_progress, []

    def dies(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments, **named)

    monkeypatch.setattr(finetune_loop, "save_progress", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune(*given, out=tmp_path)
    monkeypatch.setattr(finetune_loop, "save_progress", real)
    with pytest.raises(FileExistsError, match="already holds a run"):
        finetune(*given, out=tmp_path)
    assert_same(whole, finetune(*given, out=tmp_path, resume=True))
    assert_same(whole, finetune(*given, out=tmp_path, resume=True))  # a finished run stays as it is


def test_a_run_is_not_resumed_on_something_else(tiny_encoder, ranked, tasks, splits, tmp_path):
    given = (tiny_encoder, ranked, [tasks["kind"]], splits)
    finetune(*given, settings(epochs=1), out=tmp_path)
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.003, is 0\.001"):
        finetune(*given, settings(epochs=1, lr=1e-3), out=tmp_path, resume=True)
    other = {"cell": replace(splits["cell"], train=splits["cell"].train[1:])}
    with pytest.raises(ValueError, match="split of cells was"):
        finetune(tiny_encoder, ranked, [tasks["kind"]], other, settings(epochs=1), out=tmp_path, resume=True)
    (tmp_path / "progress.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"progress\.pt cannot be read"):
        finetune(*given, settings(epochs=1), out=tmp_path, resume=True)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_states_pooled_once_teach_what_the_encoder_would(
    tiny_encoder, ranked, tasks, splits, pooling, monkeypatch
):
    chosen = settings("frozen", pooling, heads="steps", dropout=0.0)
    given = (tiny_encoder, ranked, list(tasks.values()), splits, chosen)
    once = finetune(*given)
    monkeypatch.setattr(finetune_loop, "pool_once", lambda *_, **__: None)
    live = finetune(*given)
    for row, other in zip(once.history, live.history, strict=True):
        for key, value in row.items():
            assert value == pytest.approx(other[key], abs=1e-4), key
    for name, weight in weights_of(once).items():
        torch.testing.assert_close(weight, weights_of(live)[name], atol=2e-4, rtol=1e-4)


def test_an_update_does_not_depend_on_how_its_cells_are_spread(tiny_encoder, ranked, tasks, splits):
    """One batch of all training cells, or many of them accumulated: the same loss, the same weights."""
    encoder = replace(tiny_encoder, model=copy.deepcopy(tiny_encoder.model))
    for module in encoder.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    weighed = {"class_weights": "balanced", "dropout": 0.0, "task_weighting": "uncertainty"}
    given = (encoder, ranked, [tasks["kind"], tasks["slope"]], splits)
    one = finetune(*given, settings(token_budget=100_000, **weighed))
    many = finetune(*given, settings(token_budget=200, accumulation=1000, **weighed))
    assert one.history[-1]["step"] == many.history[-1]["step"] == 2
    assert one.history[-1]["loss"] == pytest.approx(many.history[-1]["loss"], abs=1e-4)
    ours, theirs = one.model.predict(ranked), many.model.predict(ranked)
    np.testing.assert_allclose(ours["kind"], theirs["kind"], atol=1e-3)
    np.testing.assert_allclose(ours["slope"], theirs["slope"], atol=2e-2)  # of a spread of 15


def test_every_training_cell_is_seen_in_every_epoch(tiny_encoder, ranked, tasks, splits):
    """Also those of the last, incomplete batch."""
    result = finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings(accumulation=2))
    assert [row["cells"] for row in result.history] == [50, 50]
    assert result.n_train_units == {"kind": 50}


def test_only_the_training_part_teaches(tiny_encoder, ranked, tasks, splits):
    """Labels of other cells and genes change nothing but the figures of the validation part."""
    given = (tiny_encoder, ranked, [tasks["kind"], tasks["role"]], splits)
    chosen = settings(stop_on="loss", epochs=1)
    one = finetune(*given, chosen)
    changed = []
    for task in given[2]:
        values = task.values.copy()
        held_out = np.setdiff1d(np.arange(len(values)), splits[task.level].train)
        values[held_out] = 1 - values[held_out]
        changed.append(replace(task, values=values))
    two = finetune(tiny_encoder, ranked, changed, splits, chosen)
    assert one.history[0]["loss"] == two.history[0]["loss"]
    for name, weight in weights_of(one).items():
        assert torch.equal(weight, weights_of(two)[name]), name


def test_cells_without_a_label_teach_the_other_task_only(tiny_encoder, ranked, tasks, splits):
    train = splits["cell"].train
    values = tasks["kind"].values.copy()
    values[train[::2]] = MISSING
    both = [replace(tasks["kind"], values=values), tasks["age"]]
    result = finetune(tiny_encoder, ranked, both, splits, settings())
    assert result.n_train_units == {"kind": 25, "age": 50}
    assert result.history[0]["cells"] == 50
    alone = finetune(tiny_encoder, ranked, both[:1], splits, settings())
    assert alone.history[0]["cells"] == 25


def test_it_ends_when_the_validation_part_no_longer_gains(tiny_encoder, ranked, tasks, splits):
    chosen = settings("frozen", heads="steps", epochs=12, patience=2, head_lr=1e-9)
    result = finetune(tiny_encoder, ranked, [tasks["kind"]], splits, chosen)
    assert len(result.history) < 12
    assert result.best_epoch <= len(result.history)


def test_half_precision_teaches_nearly_the_same(tiny_encoder, ranked, tasks, splits):
    given = (tiny_encoder, ranked, [tasks["kind"]], splits)
    half, single = (finetune(*given, settings(precision=precision)) for precision in ("bf16", "fp32"))
    assert all(weight.dtype == torch.float32 for weight in weights_of(half).values())
    assert half.history[-1]["loss"] == pytest.approx(single.history[-1]["loss"], abs=0.05)
    assert half.history[-1]["loss"] != single.history[-1]["loss"]


def test_a_rare_class_and_empty_cells_are_no_obstacle(tiny_encoder, ranked, splits):
    values = np.zeros(80, dtype=np.int64)
    values[splits["cell"].train[7]] = 1  # one cell of its class
    empty = RankedCells(
        ranked.tokens[: ranked.offsets[79]],
        np.append(ranked.offsets[:80], ranked.offsets[79]),
        ranked.n_counts,
    )
    task = Task("kind", "cell", "classification", values, ("common", "rare", "never"))
    changes = ({"class_weights": "balanced"}, {"loss": "focal"}, {"sampling": "balanced"})
    for mode, change in itertools.product(("full", "frozen"), changes):
        chosen = settings(mode, **change)
        result = finetune(tiny_encoder, empty, [task], splits, chosen)
        found = result.model.predict(empty)["kind"]
        assert np.isnan(found[79]).all()
        assert np.isfinite(found[:79]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.full(80, MISSING)}, "no cell of the training part has a label of task 'kind'"),
        ({"values": np.zeros(80, dtype=np.int64)}, "all labelled training cells of task 'kind' are 'A'"),
        ({"values": np.zeros(79, dtype=np.int64)}, "task 'kind' labels 79 cells, there are 80"),
        ({"level": "gene"}, "task 'kind' is about genes, but does not say which"),
    ],
)
def test_labels_that_teach_nothing_are_refused(tiny_encoder, ranked, tasks, splits, change, message):
    with pytest.raises(ValueError, match=message):
        finetune(tiny_encoder, ranked, [replace(tasks["kind"], **change)], splits, settings())


def test_what_does_not_fit_is_refused(tiny_encoder, ranked, tasks, splits):
    kind, cells = tasks["kind"], splits["cell"]
    leaky = replace(cells, test=np.append(cells.test, cells.train[0]))
    cases = [
        (([kind], {"cell": leaky}, settings()), "1 cells are in the training and in the test part"),
        (([kind, kind], splits, settings()), "tasks of different names"),
        (([kind], {"gene": splits["gene"]}, settings()), "no split of cells"),
        (([kind], splits, settings("top", top_layers=9)), "top_layers is 9"),
        (
            ([kind], splits, settings("top", top_layers=2, encoder_layer=-1)),
            "'tiny' has 1 layers up to encoder_layer -1",
        ),
        (
            ([kind], splits, settings(encoder_layer=-3)),
            "-3 leaves no layer of 'tiny': heads read its layers 0",
        ),
        (([kind], splits, settings(encoder_layer=-2)), "encoder_layer -2 leaves no layer"),
        (([tasks["age"]], splits, settings(sampling="balanced")), "needs a task that gives cells a class"),
        (([kind], splits, settings("lora", quantised="4bit")), "quantised layers need a CUDA GPU"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            finetune(tiny_encoder, ranked, *arguments)
    with pytest.raises(ValueError, match="there is no task 'sort' to weigh; there are kind"):
        finetune(tiny_encoder, ranked, [kind], splits, settings(), weights={"sort": 2.0})

"""A branch is the run that had been planned so from its first step, or it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geneformer_grn.training.branching import read_branch_point
from geneformer_grn.training.checkpoints import load_newest
from geneformer_grn.training.config import read_config
from geneformer_grn.training.pretrain import run_pretraining
from geneformer_grn.training.tracking import read_log

TIMINGS = {"tokens_per_s", "mfu", "data_wait_s", "data_wait_share", "peak_memory_mb"}
WSD = ("optim.schedule=wsd", "optim.decay_share=0.25", "run.log_every=2")
DECLINE = 9  # of 12 steps


@pytest.fixture(scope="module")
def trunk(tmp_path_factory, request) -> Path:
    """20 steps at the constant rate up to step 15, all checkpoints kept."""
    config_file, corpus = map(request.getfixturevalue, ("config_file", "corpus_folder"))
    changes = [f"data.corpus={corpus}", *WSD, "run.max_steps=20", "run.checkpoint_every=3", "run.keep_last=9"]
    out = tmp_path_factory.mktemp("trunk") / "run"
    run_pretraining(read_config(config_file, changes), out)
    return out


def content(out: Path) -> tuple[dict[str, torch.Tensor], list[dict]]:
    log = [{key: line[key] for key in line if key not in TIMINGS} for line in read_log(out / "log.jsonl")]
    return load_file(out / "model" / "model.safetensors"), log


def assert_equal(one: Path, two: Path) -> None:
    (weights, log), (other_weights, other_log) = content(one), content(two)
    assert log == other_log
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, other_weights[name]), name


def test_a_branch_is_the_run_planned_so_from_the_start(make_config, trunk, tmp_path):
    config = make_config(*WSD)
    run_pretraining(config, tmp_path / "planned")
    before = sorted(path.name for path in (trunk / "checkpoints").iterdir())
    summary = run_pretraining(config, tmp_path / "branch", branch_from=(trunk, DECLINE))
    assert summary["finished"]
    assert summary["step"] == 12
    assert_equal(tmp_path / "planned", tmp_path / "branch")
    rates = [line["lr"] for line in read_log(tmp_path / "branch" / "log.jsonl")]
    assert len(set(rates[2 : DECLINE + 1])) == 1
    assert rates[DECLINE] > rates[DECLINE + 1] > rates[DECLINE + 2] > 0
    assert sorted(path.name for path in (trunk / "checkpoints").iterdir()) == before


def test_a_branch_may_begin_earlier_than_its_decline_and_stop_on_the_way(make_config, trunk, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trunk, source)
    stopping = make_config(*WSD, "run.max_minutes=1e-9")
    out = tmp_path / "branch"
    assert run_pretraining(stopping, out, branch_from=(source, 3))["step"] == 4
    shutil.rmtree(source)  # the branch is a run of its own by now
    assert run_pretraining(stopping, out, branch_from=(source, 3), resume=True)["step"] == 5
    assert run_pretraining(make_config(*WSD), out, resume=True)["finished"]
    run_pretraining(make_config(*WSD), tmp_path / "planned")
    assert_equal(tmp_path / "planned", out)


def test_the_declines_length_and_end_may_differ(make_config, trunk, tmp_path):
    changed = make_config("optim.schedule=wsd", "optim.decay_share=0.5", "optim.final_lr_share=0.1")
    run_pretraining(changed, tmp_path / "branch", branch_from=(trunk, 6))
    assert load_newest(tmp_path / "branch").facts["optim.decay_share"] == 0.5
    assert read_log(tmp_path / "branch" / "log.jsonl")[-1]["lr"] < 0.3 * 5e-3


def test_what_would_be_another_run_is_refused(make_config, trunk, tmp_path):
    def branch(*changes: str, step: int = DECLINE, out: Path = tmp_path / "branch") -> None:
        run_pretraining(make_config(*WSD, *changes), out, branch_from=(trunk, step))

    with pytest.raises(ValueError, match=r"model\.dropout was 0.1, is 0.0; optim\.betas was"):
        branch("model.dropout=0", "optim.betas=[0.9, 0.95]")
    with pytest.raises(ValueError, match=r"in step 12 its learning rate was 0.005, and that of a run of 13"):
        branch("run.max_steps=13", step=12)
    with pytest.raises(ValueError, match=r"in step 17 its learning rate was 0.004"):
        branch("run.max_steps=40", step=18)
    with pytest.raises(ValueError, match=r"in step 4 its learning rate was 0.005"):
        branch("optim.schedule=cosine")
    with pytest.raises(ValueError, match="12 steps in all cannot branch off at step 12"):
        branch(step=12)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 10; steps there: 3, 6, 9, 12, 15"):
        branch(step=10)
    with pytest.raises(ValueError, match="folder of its own"):
        run_pretraining(make_config(*WSD), trunk, branch_from=(trunk, DECLINE), resume=True)
    assert not (tmp_path / "branch").exists()
    with pytest.raises(FileExistsError, match="--resume"):
        branch(out=trunk.parent / "run")


def test_the_best_model_is_the_branchs_own(make_config, trunk, held_out_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trunk, source)
    place = source / "checkpoints" / f"step-{DECLINE:08d}" / "position.json"
    record = json.loads(place.read_text())
    record["position"]["best_loss"] = 0.001  # of a model that is not in the branch's folder
    place.write_text(json.dumps(record))
    config = make_config(*WSD, f"data.validation={held_out_folder}", "run.validation_cells=20")
    run_pretraining(config, tmp_path / "branch", branch_from=(source, DECLINE))
    assert (tmp_path / "branch" / "best").is_dir()


@pytest.mark.parametrize("text", ["run", "run@", "@4", "run@last", "run@-4"])
def test_where_a_branch_begins_is_written_in_one_way(text: str):
    assert read_branch_point("runs/a@b@40") == (Path("runs/a@b"), 40)
    with pytest.raises(ValueError, match="RUN_DIR@STEP"):
        read_branch_point(text)

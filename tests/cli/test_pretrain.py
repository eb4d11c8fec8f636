from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import typer

from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cli import main
from geneformer_grn.cli import pretrain as verb
from geneformer_grn.training.config import read_config

RECIPES = {  # layers, width, heads, feed-forward, of the published models; the corpus they were trained on
    "v1-10m": ((6, 256, 4, 512), ("--cells", "27400000", "--mean-length", "1300", "--setting", "v1")),
    "v2-104m": ((12, 768, 12, 3072), ("--cells", "104000000", "--mean-length", "1500", "--setting", "v2")),
    "v2-316m": ((18, 1152, 18, 4608), ("--cells", "104000000", "--mean-length", "1500", "--setting", "v2")),
}


@pytest.fixture(scope="module")
def corpus(tiny_adata, tiny_vocabulary, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    tiny_adata.write_h5ad(folder / "cells.h5ad")
    write_corpus([folder / "cells.h5ad"], folder / "train", tiny_vocabulary)
    return folder / "train"


@pytest.fixture
def call(repository: Path, corpus: Path, capsys: pytest.CaptureFixture[str]):
    """Run the verb with the sanity config; return (exit code, standard output, standard error)."""

    def run(*arguments: str, config: Path | None = None) -> tuple[int, str, str]:
        config = config or repository / "pretrain" / "configs" / "sanity.toml"
        fixed = [
            "--set",
            f"data.corpus={corpus}",
            "--set",
            "run.max_steps=3",
            "--set",
            "run.threads=1",
            "--quiet",
        ]
        with pytest.raises(SystemExit) as left:
            main(["pretrain", str(config), *fixed, *arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_it_trains_resumes_and_sums_up(call, tmp_path: Path):
    out = str(tmp_path / "run")
    code, text, _ = call("--out", out, "--json", "--set", "run.max_minutes=1e-9")
    assert code == 130, "stopped before the end: interrupted, resumes"
    assert json.loads(text.splitlines()[-1])["step"] == 1
    code, _, error = call("--out", out)
    assert code == 2
    assert "--resume" in error
    code, text, _ = call("--out", out, "--resume", "--json")
    assert code == 0
    assert json.loads(text.splitlines()[-1])["finished"]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_dry_run_prints_the_plan_and_writes_nothing(call, tmp_path: Path):
    code, text, _ = call("--out", str(tmp_path / "run"), "--dry-run", "--json")
    assert code == 0
    plan = json.loads(text.splitlines()[-1])
    assert plan["steps"] == 3
    assert f"{plan['parameters']:,}" in text
    assert f"memory gb weights  {plan['memory_gb']['weights']}" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_planned_without_its_corpus(invoke, repository: Path, recipe: str):
    shape, stated = RECIPES[recipe]
    path = repository / "pretrain" / "configs" / f"{recipe}.toml"
    answer = invoke("pretrain", path, "--dry-run", "--json", "--processes", "8", "--mfu", "0.5", *stated)
    assert answer.code == 0, answer.err
    plan = json.loads(answer.out.splitlines()[-1])
    model = read_config(path).model
    assert (model.n_layers, model.hidden_size, model.n_heads, model.ffn_size) == shape
    assert round(plan["parameters"] / 1e6) == int(recipe.partition("-")[2].rstrip("m"))
    assert plan["processes"] == 8
    # Hours by hand: operations over what the assumed share of one H100's peak does in an hour.
    assert plan["hours_1_h100"] == pytest.approx(plan["pflop"] / (0.9894 * 0.5 * 3600), rel=0.01)
    assert 3 < plan["memory_gb"]["total"] < 80, "fits one H100"
    assert plan["memory_gb"]["activations_checkpointed"] < plan["memory_gb"]["activations"]


def test_every_recipe_reads(repository: Path):
    names = {path.stem for path in (repository / "pretrain" / "configs").glob("*.toml")}
    assert names == {"sanity", "mini", "mini_longer", "adapt", "scaling", *RECIPES}
    for name in names:
        read_config(repository / "pretrain" / "configs" / f"{name}.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run"], "--cells N --mean-length TOKENS"),
        (["--dry-run", "--cells", "9"], "--mean-length is missing"),
        (["--dry-run", "--cells", "9", "--mean-length", "2048", "--setting", "v1"], "inputs of 1 to 2,048"),
        (["--dry-run", "--cells", "9", "--mean-length", "9", "--setting", "V1"], "use v1, v2, default"),
        (["--dry-run", "--cells", "9", "--mean-length", "9", "--mfu", "40"], "share of the peak"),
        (["--cells", "9", "--mean-length", "9"], "belong to --dry-run"),
    ],
)
def test_a_wrong_dry_run_says_the_way_out(invoke, repository: Path, tmp_path: Path, arguments, message: str):
    config = repository / "pretrain" / "configs" / "v1-10m.toml"
    absent = ["--set", f"data.corpus={tmp_path / 'none'}", "--out", tmp_path / "run"]
    answer = invoke("pretrain", config, *absent, *arguments)
    assert answer.code == 2, answer.err
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "processes", "nodes"),
    [
        ("one_gpu", "NO", 1, 1), ("eight_gpus", "MULTI_GPU", 8, 1), ("several_nodes", "MULTI_GPU", 16, 2),
    ],
)  # fmt: skip
def test_launch_files_are_accelerates_own(repository: Path, name: str, kind: str, processes: int, nodes: int):
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    config = load_config_from_file(str(repository / "pretrain" / "accelerate" / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, processes, nodes)
    assert config.mixed_precision == "no", "autocast is the run's own"


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (130, True), (2, False)])
def test_the_batch_script_starts_a_task_a_gpu_and_requeues_what_was_stopped(
    repository: Path, tmp_path: Path, code: int, requeued: bool
):
    """Run under stand-ins for SLURM's commands and the verb, which write down how they were called."""
    called = tmp_path / "called"
    stand_ins = {
        "scontrol": f'echo "scontrol $*" >> {called}; [ "$1" = show ] && printf "first\\nsecond\\n"; exit 0',
        "srun": 'shift; SLURM_PROCID=9 SLURM_LOCALID=1 SLURM_NTASKS=16 exec "$@"',
        "geneformer-grn": f'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $*" >> {called}; exit {code}',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "n[1-2]"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = repository / "pretrain" / "several_nodes.sbatch"
    done = subprocess.run(
        ["bash", script, "a config.toml", "out", "--set", "optim.lr=1e-4"],
        env=os.environ | slurm | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    lines = called.read_text().splitlines()
    assert lines[1] == "9 1 16 first pretrain a config.toml --out out --resume --set optim.lr=1e-4"
    assert lines[2:] == (["scontrol requeue 77"] if requeued else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optim.warmup_step=1"], "did you mean 'optim.warmup_steps'"),
        (["--set", "data.corpus=/nowhere"], "is not a corpus"),
        (["--set", "run.device=tpu"], "run.device"),
        (["--out", "/proc/run"], "cannot write the run to /proc/run"),
    ],
)
def test_a_wrong_call_is_one_message_and_exit_2(call, tmp_path: Path, arguments: list[str], message: str):
    code, _, error = call("--out", str(tmp_path / "run"), *arguments)
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_options_override_the_config(call, tmp_path: Path):
    changes = ["--set", "run.device=cuda", "--set", "data.validation=none"]
    code, _, error = call("--out", str(tmp_path / "run"), *changes, "--device", "cpu", "--threads", "2")
    assert code == 0, error
    run = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["run"]
    assert (run["device"], run["threads"]) == ("cpu", 2)


def test_no_config_is_said(call, tmp_path: Path):
    code, _, error = call(config=tmp_path / "none.toml")
    assert code == 2
    assert "none.toml" in error


def test_the_verb_is_named_as_promised():
    app = typer.Typer()
    verb.add(app)
    assert [command.name for command in app.registered_commands] == ["pretrain"]

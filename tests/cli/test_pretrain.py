from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from geneformer_grn.cells.corpus import write_corpus
from geneformer_grn.cli import main
from geneformer_grn.cli import pretrain as verb


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
    assert list(tmp_path.iterdir()) == []


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

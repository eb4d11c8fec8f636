"""The verbs perturb and perturb-merge as processes: interrupted, killed, several at once, in shares."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

CALL = "from geneformer_grn.cli import main\nmain()\n"


@pytest.fixture
def arguments(tiny_h5ad, tiny_checkpoint):
    """Arguments of a run of some dozen parts."""
    return [
        str(word)
        for word in (
            "perturb", tiny_h5ad, "--model", tiny_checkpoint, "--genes", "all", "--groups", "cell_type",
            "--null-genes", 5, "--null-cells", 3, "--device", "cpu", "--readout", "cell,genes",
            "--threads", 1, "--part-tokens", 3000, "--cells", 30,
        )
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def start(repository, tmp_path):
    """Return a function that starts the command line, alone or under torchrun."""
    program = tmp_path / "program.py"
    program.write_text(CALL)

    def run(*words: object, processes: int = 0) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes else []
        return subprocess.Popen(
            [sys.executable, *launcher, str(program), *map(str, words)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return run


def finish(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def test_interrupted_from_the_keyboard_it_says_how_to_go_on(invoke, arguments, tmp_path, monkeypatch):
    from geneformer_grn.perturbation import parts

    short = [*arguments[: arguments.index("--genes")], "--genes", "GENE3", "--null-genes", "0", "--quiet"]
    short += ["--part-tokens", "300", "--device", "cpu", "--json", "--out", str(tmp_path / "out")]
    real, calls = parts.perturb_part, iter(range(2))

    def perturb_part(*given, **named):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(parts, "perturb_part", perturb_part)
    answer = invoke(*short)
    assert (answer.code, answer.err) == (130, "interrupted; the same command goes on\n")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    other = invoke(*short, "--kind", "knockout")
    assert other.code == 2
    assert "other kind (delete, now knockout)" in other.err
    answer = invoke(*short)
    assert answer.code == 0
    assert json.loads(answer.out.splitlines()[-1])["finished"]
    assert not (tmp_path / "out.unfinished").exists()


def test_shares_and_their_merge_from_the_command_line(invoke, tiny_h5ad, tiny_checkpoint, tmp_path):
    common = ("perturb", tiny_h5ad, "--model", tiny_checkpoint, "--genes", "GENE3,GENE9", "--null-genes", 3,
              "--null-cells", 2, "--device", "cpu", "--quiet", "--json", "--part-tokens", 900)  # fmt: skip
    assert invoke(*common, "--out", tmp_path / "whole").code == 0
    answer = invoke(*common, "--out", tmp_path / "shared", "--part", "0/2")
    summary = json.loads(answer.out.splitlines()[-1])
    assert summary["n_parts_done"] == -(-summary["n_parts"] // 2)
    answer = invoke("perturb-merge", tmp_path / "shared", "--out", tmp_path / "shared")
    assert answer.code == 2
    assert "parts are missing from shared.unfinished: 1, 3" in answer.err
    assert invoke(*common, "--out", tmp_path / "shared", "--part", "1/2").code == 0
    answer = invoke("perturb-merge", tmp_path / "shared", "--out", tmp_path / "shared", "--json", "--quiet")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out.splitlines()[-1])["kind"] == "delete"
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")
    assert not (tmp_path / "shared.unfinished").exists()


def test_bf16_too_coarse_for_the_effects_is_a_wrong_call(
    invoke, tiny_h5ad, tiny_checkpoint, tmp_path, monkeypatch
):
    from geneformer_grn.perturbation import noise

    monkeypatch.setattr(noise, "MOST_NOISE", 1e-9)
    answer = invoke(
        "perturb", tiny_h5ad, "--model", tiny_checkpoint, "--genes", "GENE3", "--null-genes", 0,
        "--device", "cpu", "--precision", "bf16", "--out", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert answer.code == 2
    assert "bf16 changes shifts by" in answer.err
    assert "run with precision fp32" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delete", "knockout"])
def test_killed_several_times_it_ends_as_if_never_killed(start, arguments, tmp_path, kind):
    words = [*arguments, "--kind", kind]
    finish(start(*words, "--out", tmp_path / "whole"))
    out, kills, seen = tmp_path / "killed", 0, []
    parts = tmp_path / "killed.unfinished" / "parts"
    while kills < 4:
        before = len(list(parts.glob("*"))) if parts.exists() else 0
        process = start(*words, "--out", out)
        while process.poll() is None and (not parts.exists() or len(list(parts.glob("*"))) == before):
            time.sleep(0.01)  # it is still starting
        time.sleep(random.uniform(0.0, 0.2))  # noqa: S311 - any moment will do
        if process.poll() is not None:
            finish(process)
            break
        process.kill()
        process.communicate()
        kills += 1
        assert not out.exists()
        seen.append(sum(path.stem.isdigit() for path in parts.glob("*.parquet")))
    assert kills >= 2, "too quick to be killed twice: make the run longer"
    assert seen == sorted(seen), "no part that was done is lost"
    finish(start(*words, "--out", out))
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(tmp_path.glob("**/.geneformer-grn-*"))


@pytest.mark.distributed
def test_two_processes_of_a_launch_do_what_one_does(start, arguments, tmp_path):
    finish(start(*arguments, "--out", tmp_path / "one"))
    text = finish(start(*arguments, "--out", tmp_path / "two", processes=2))
    assert "of 2" not in text
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert not (tmp_path / "two.unfinished").exists()
    assert len(pd.read_parquet(tmp_path / "two" / "effects.parquet")) > 50


@pytest.mark.distributed
def test_a_share_of_a_launch_is_joined_with_the_others(start, arguments, tmp_path):
    finish(start(*arguments, "--out", tmp_path / "one"))
    finish(start(*arguments, "--out", tmp_path / "two", "--part", "0/2", processes=2))
    finish(start(*arguments, "--out", tmp_path / "two", "--part", "1/2"))
    finish(start("perturb-merge", tmp_path / "two", "--out", tmp_path / "two"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")

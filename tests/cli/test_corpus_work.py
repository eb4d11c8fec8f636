"""A corpus made by many machines: ``tokenize --plan``, ``corpus task``, ``corpus finish``, the script."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn.cells.corpora.corpus import Corpus


@pytest.fixture
def vocabulary_dir(tiny_vocabulary, tmp_path):
    tiny_vocabulary.save(tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


@pytest.fixture
def planned(tiny_h5ad, vocabulary_dir, tmp_path):
    """A plan of 80 cells in parts of 9; the same corpus made at once lies beside it."""
    arguments = ["tokenize", tiny_h5ad, "--vocabulary", vocabulary_dir, "--part-cells", "9", "--json"]
    summary(*arguments, "--out", tmp_path / "whole")
    made = summary(*arguments, "--out", tmp_path / "corpus", "--plan")
    assert (made["n_parts"], made["n_parts_done"], made["n_cells_file"]) == (9, 0, 80)
    return tmp_path / "corpus"


def call(*arguments):
    return CliRunner().invoke(cli.build_app(), [str(argument) for argument in arguments])


def summary(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def same(one, other):
    return {p.name: p.read_bytes() for p in one.iterdir()} == {
        p.name: p.read_bytes() for p in other.iterdir()
    }


def test_shares_make_the_corpus(planned):
    n_parts = [
        summary("corpus", "task", planned, "--share", f"{index}/3", "--json")["n_parts_written"]
        for index in range(3)
    ]
    assert n_parts == [3, 3, 3]
    assert summary("corpus", "task", planned, "--share", "0/3", "--json")["n_parts_written"] == 0
    made = summary("corpus", "finish", planned, "--json")
    assert (made["corpus"], made["n_cells"]) == ("corpus", 80)
    assert same(planned, planned.with_name("whole"))
    assert summary("corpus", "finish", planned, "--json") == made  # a job that was requeued


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("task", "CORPUS", "--share", "3"), "is not I/N"),
        (("task", "CORPUS", "--share", "x/2"), "is not I/N"),
        (("task", "CORPUS", "--share", "2/2"), "share 2 of 2 does not exist"),
        (("task", "nowhere", "--share", "0/2"), "holds no plan"),
        (("finish", "nowhere"), "holds no plan"),
        (("finish", "CORPUS"), "9 of 9 parts"),
    ],
)
def test_what_is_refused(planned, capfd, arguments, message):
    words = [str(planned) if word == "CORPUS" else word for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["corpus", *words, "--quiet"])
    assert stopped.value.code == 2
    stderr = capfd.readouterr().err
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not planned.exists()


@pytest.mark.slow
def test_the_array_script(planned, repository, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "geneformer-grn"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from geneformer_grn.cli import main; main()" "$@"\n'
    )
    program.chmod(0o755)
    for task in (1, 0):
        environment = {
            **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_CPUS_PER_TASK": "1",
        }  # fmt: skip
        script = repository / "scripts" / "tokenize_array.sbatch"
        subprocess.run(
            ["bash", script, planned, "2"], env=environment, check=True, capture_output=True, cwd=tmp_path
        )
    summary("corpus", "finish", planned, "--json")
    assert same(planned, planned.with_name("whole"))
    assert len(Corpus.open(planned)) == 80

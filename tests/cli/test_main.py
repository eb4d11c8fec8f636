"""The contract of the command line: verbs, options, exit codes, and how fast it answers."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import typer

from geneformer_grn.cli import build_app

VERBS = [
    "demo", "run", "validate", "genes build", "vocab build", "import-geneformer", "tokenize", "corpus info",
    "corpus merge", "corpus split", "corpus task", "corpus finish", "corpus duplicates", "pretrain",
    "finetune", "finetune-search", "annotate", "explain", "embed", "perturb", "perturb-merge",
    "screen", "network", "network-export", "network-page", "propagate", "simulate",
    "evaluate model", "evaluate network", "evaluate effects", "evaluate embeddings", "card", "publish",
    "info",
]  # fmt: skip
READERS = [
    "run", "validate", "tokenize", "annotate", "embed", "perturb", "screen", "network", "propagate",
    "evaluate model", "evaluate network",
]  # fmt: skip
MODEL_RUNNERS = ["demo", "run", "embed", "perturb", "screen", "network", "evaluate model"]
HEAVY = ("torch", "transformers", "scanpy", "anndata", "datasets", "sklearn", "numba", "matplotlib")


def options_of(verb: str) -> set[str]:
    command = typer.main.get_command(build_app())
    for word in verb.split():
        command = command.commands[word]
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(invoke, verb):
    answer = invoke(*verb.split(), "--help")
    assert answer.code == 0
    assert "Usage" in answer.out
    assert answer.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_common_options(verb):
    assert options_of(verb) >= {"--seed", "--quiet", "--json"}


@pytest.mark.parametrize("verb", READERS)
def test_verbs_that_read_cells_read_them_alike(verb):
    shared = {"--layer", "--gene-column", "--counts-column", "--allow-normalised", "--species", "--where"}
    assert options_of(verb) >= shared


@pytest.mark.parametrize("verb", MODEL_RUNNERS)
def test_verbs_that_run_the_model_run_it_alike(verb):
    assert options_of(verb) >= {"--device", "--precision", "--token-budget", "--threads"}


def test_the_root_lists_every_verb_and_knows_its_version(invoke):
    from geneformer_grn import __version__

    listed = invoke("--help").out
    for verb in VERBS:
        assert verb.split()[0] in listed
    answer = invoke("--version")
    assert (answer.code, answer.out) == (0, f"geneformer-grn {__version__}\n")
    assert "Usage" in "".join(invoke()[1:])


def test_the_package_runs_as_a_module(repository):
    """With the exit codes of the script, and under the name that was typed."""

    def call(*arguments):
        command = [sys.executable, "-m", "geneformer_grn", *arguments]
        environment = os.environ | {"PYTHONPATH": str(repository)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    told = call("--help")
    assert (told.returncode, "python -m geneformer_grn" in told.stdout) == (0, True)
    wrong = call("info", "no-such-model")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: no checkpoint 'no-such-model'")


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["run", "--no-such-option"], ["run", "a.h5ad"]])
def test_a_call_that_does_not_exist_exits_with_2(invoke, arguments):
    answer = invoke(*arguments)
    assert answer.code == 2
    assert "Traceback" not in answer.err


def test_the_last_line_is_json(invoke, tiny_checkpoint, tiny_encoder):
    answer = invoke("info", tiny_checkpoint, "--json")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert len(lines) > 1, "the facts for people come first"
    summary = json.loads(lines[-1])
    assert summary["n_parameters"] == tiny_encoder.n_parameters
    assert invoke("info", tiny_checkpoint, "--json", "--quiet").out.splitlines() == [lines[-1]]


@pytest.fixture
def fails(monkeypatch, invoke):
    """Return a function that calls a verb whose work does what is given."""

    def call(work):
        monkeypatch.setattr("geneformer_grn.workflows.describe.describe", work)
        return invoke("info", "mini")

    return call


def raising(error):
    def work(_target):
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [RuntimeError("broken"), KeyError("broken"), AssertionError("broken"), ValueError("broken"),
     TypeError("broken"), MemoryError("broken"), IndexError("broken"), OSError("broken")],
)  # fmt: skip
def test_a_fault_of_ours_exits_with_1_and_a_traceback(fails, error):
    """A ValueError too: it does not come from our frames but from this test's."""
    answer = fails(raising(error))
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert "broken" in answer.err
    assert "this is a fault of geneformer-grn" in answer.err
    assert "error: " not in answer.err.splitlines()[0]


@pytest.mark.parametrize("number", [28, 13, 30, 2, 21])
def test_what_the_system_refuses_is_not_our_fault(fails, number):
    answer = fails(raising(OSError(number, os.strerror(number), "results.tsv")))
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert "results.tsv" in answer.err
    assert "Traceback" not in answer.err


def test_a_library_that_complains_is_our_fault(fails):
    answer = fails(lambda _target: np.concatenate([np.zeros(2), np.zeros((2, 2))]))
    assert (answer.code, "Traceback" in answer.err) == (1, True)


def test_wrong_input_exits_with_2_and_one_line(invoke):
    answer = invoke("info", "no-such-model")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith("error: no checkpoint 'no-such-model'")


def test_interrupted_exits_with_130(fails):
    answer = fails(raising(KeyboardInterrupt()))
    assert answer.code == 130
    assert "interrupted" in answer.err
    assert "Traceback" not in answer.err


def test_interrupted_before_the_verb_begins_exits_with_130(invoke, monkeypatch):
    def stopped(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr("geneformer_grn.cli.import_module", stopped)
    answer = invoke("info", "mini")
    assert answer.code == 130
    assert "Traceback" not in answer.err


def python(repository, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(repository)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )


@pytest.mark.parametrize(
    "code",
    [
        "import geneformer_grn",
        "from geneformer_grn.cli import build_app; build_app()",
        "import geneformer_grn as gg; gg.pp, gg.tl, gg.pl, gg.get",
        "from geneformer_grn.cli import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(repository, code):
    listed = python(repository, f"{code}\nimport sys; print('LOADED', *sys.modules)").stdout
    loaded = set(listed.rpartition("LOADED")[2].split())
    assert "geneformer_grn" in loaded
    assert not loaded & set(HEAVY)


def test_help_answers_at_once(repository):
    """User CPU time, the least of three calls, so that a busy machine does not fail this."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        help_text = python(repository, "from geneformer_grn.cli import main; main(['--help'])").stdout
        assert "propagate" in help_text
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    assert min(seconds() for _ in range(3)) < 0.6

"""What every verb rests on: whose fault an error is, interruption, and the range of seeds."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import typer
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn._runtime import choose_device, raised_on_purpose, staged_folder
from geneformer_grn.cells.judging import stored_values
from geneformer_grn.cli import options


def caught(function, *arguments) -> Exception:
    with pytest.raises((ValueError, TypeError)) as found:
        function(*arguments)
    return found.value


def test_only_what_we_raise_is_the_users_fault():
    assert cli.is_input_error(caught(choose_device, "abacus"))
    # len(None) fails inside a function of ours, but in C, which leaves no frame of its own.
    assert not cli.is_input_error(caught(stored_values, None))
    assert not cli.is_input_error(caught(int, "x"))
    assert not cli.is_input_error(RuntimeError("never raised"))


def test_without_source_lines_the_frame_decides(monkeypatch):
    error = caught(stored_values, None)
    monkeypatch.setattr("linecache.getline", lambda *_, **__: "")
    assert raised_on_purpose(error)


def app_that(action) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def work(*, seed: options.Seed = 0, resumable: bool = False) -> None:
        with cli.verb(quiet=True, as_json=False, resumable=resumable):
            action(seed)

    return app


def interrupt(seed: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "text"),
    [([], "interrupted\n"), (["--resumable"], "interrupted; the same command with --resume goes on\n")],
)
def test_interruption_is_told(arguments, text):
    result = CliRunner().invoke(app_that(interrupt), arguments)
    assert (result.exit_code, result.stderr) == (130, text)


def test_sigterm_unwinds_a_verb_and_leaves_the_handler_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def work(seed: int) -> None:
        with staged_folder(tmp_path / "out") as staging:
            (staging / "half.txt").write_text("half")
            signal.raise_signal(signal.SIGTERM)
            time.sleep(60)

    result = CliRunner().invoke(app_that(work))
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_ends_by_sigterm_as_it_always_would():
    fork = multiprocessing.get_context("fork")

    def work(seed: int) -> None:
        runs = fork.Event()
        child = fork.Process(target=lambda: (runs.set(), time.sleep(60)))
        child.start()
        assert runs.wait(10)
        child.terminate()
        child.join(10)
        assert child.exitcode == -signal.SIGTERM

    assert CliRunner().invoke(app_that(work)).exit_code == 0


def test_outside_the_main_thread_a_verb_runs_without_the_handler():
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(CliRunner().invoke(app_that(lambda seed: None)).exit_code)
    )
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize("seed", ["-1", "2147483648"])
def test_seeds_out_of_range_are_refused(seed):
    result = CliRunner().invoke(app_that(print), ["--seed", seed])
    assert result.exit_code == 2
    assert "than or equal to" in result.stderr

"""What every verb rests on: whose fault an error is, interruption, and the range of seeds."""

import pytest
import typer
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn._runtime import choose_device, raised_on_purpose
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


@pytest.mark.parametrize("seed", ["-1", "2147483648"])
def test_seeds_out_of_range_are_refused(seed):
    result = CliRunner().invoke(app_that(print), ["--seed", seed])
    assert result.exit_code == 2
    assert "than or equal to" in result.stderr

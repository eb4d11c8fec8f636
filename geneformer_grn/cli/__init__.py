"""The command line: one verb a file, no logic of its own, heavy imports only inside the verbs.

Exit codes are a contract: 0 done, 2 the input or the call is wrong, 1 a fault of ours, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer

VERBS = (
    "demo", "run", "validate", "genes", "vocab", "import_geneformer", "tokenize", "corpus", "pretrain",
    "finetune", "finetune_search", "annotate", "explain", "embed", "perturb", "perturb_merge", "screen",
    "network", "network_page", "propagate", "simulate", "evaluate", "card", "publish", "info",
)  # fmt: skip

_INPUT_ERRNO = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}


def build_app() -> typer.Typer:
    """Return the command line with every verb added."""
    app = typer.Typer(
        name="geneformer-grn",
        help="From raw single-cell counts to cell embeddings, gene networks and perturbation effects.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(*, version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            from geneformer_grn._runtime import package_version

            typer.echo(f"geneformer-grn {package_version()}")
            raise typer.Exit

    for verb in VERBS:
        import_module(f"geneformer_grn.cli.{verb}").add(app)
    return app


@contextlib.contextmanager
def verb(
    *,
    quiet: bool,
    as_json: bool,
    threads: int | None = None,
    resumable: bool = False,
    repeatable: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run the body of a verb: set up logging and threads, and print the summary it fills in.

    The dictionary yielded is the summary; with ``--json`` it is the last line of standard output. Interrupted
    from the keyboard or by SIGTERM, as schedulers do, the verb exits 130 and says so (typer would exit in
    silence), leaves nothing half-written, and of a `resumable` or a `repeatable` one says how to go on.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("geneformer_grn").setLevel(logging.WARNING if quiet else logging.INFO)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    summary: dict[str, Any] = {}
    try:
        with _terminated_as_interrupted():
            yield summary
    except KeyboardInterrupt:
        way_on = "; the same command with --resume goes on" if resumable else ""
        way_on = "; the same command goes on" if repeatable else way_on
        typer.secho(f"interrupted{way_on}", fg="yellow", err=True)
        raise typer.Exit(130) from None
    if as_json:
        from geneformer_grn._runtime import plain_json

        typer.echo(json.dumps(plain_json(summary), allow_nan=False))


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind the verb as Ctrl-C does; a process forked by it ends as it always would."""
    owner = os.getpid()

    def interrupt(number: int, _frame: Any) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # whoever started it handles signals
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def is_input_error(error: BaseException) -> bool:
    """Return whether `error` says that the input or the call is wrong, rather than that we are.

    An error counts as the user's when our own code raised it with a built-in type on purpose, or when the
    operating system refused a file.
    """
    from geneformer_grn._runtime import raised_on_purpose

    if isinstance(error, OSError) and error.errno in _INPUT_ERRNO:
        return True
    return isinstance(error, ValueError | TypeError | OSError | ImportError) and raised_on_purpose(error)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        build_app()(args=arguments, standalone_mode=True)
    except KeyboardInterrupt:  # before a verb began
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the outermost handler: everything becomes an exit code
        if is_input_error(error):
            typer.secho(f"error: {error}", fg="red", err=True)
            sys.exit(2)
        traceback.print_exc()
        typer.secho("this is a fault of geneformer-grn; please report it with the text above", err=True)
        sys.exit(1)

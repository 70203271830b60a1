"""The command line: one module per command. Help imports nothing heavy. May import every other package."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

import click

from permafrost.errors import OptionError, PermafrostError, nearest, one_line

COMMANDS: Final = {
    "extract": "Run the frozen base once on each image and cache its features.",
    "fit-head": "Fit a head to cached features and export one Keras model.",
    "finetune": "Unfreeze the top of a run's base and train it with the head.",
    "evaluate": "Evaluate a model on a dataset.",
    "predict": "Classify images.",
    "features": "List, show, verify, export or prune cached features.",
    "demo": "Run the whole job on a small embedded dataset, offline.",
}
"""The commands and their summaries, in the order of the help."""

INTERRUPTED: Final = 130


class _Commands(click.Group):
    """A group that imports a command only when it is used."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _ignore_broken_pipe():
            return super().make_context(*args, **extra)

    def invoke(self, context: click.Context) -> Any:
        with _ignore_broken_pipe():
            return super().invoke(context)

    def list_commands(self, context: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"permafrost.cli.{name.replace('-', '_')}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
            raise OptionError(f"no command {arguments[0]}", expected=nearest(arguments[0], COMMANDS))
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@contextlib.contextmanager
def _ignore_broken_pipe() -> Iterator[None]:
    """Exit with status 0 if the reader of standard output is gone, as in `| head`; click would exit with 1."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes standard output once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


@click.command(
    cls=_Commands,
    name="permafrost",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 2 the request or its input is wrong; 1 a bug; 130 interrupted.",
)
@click.version_option(package_name="permafrost", message="%(prog)s %(version)s")
def program() -> None:
    """Transfer learning on your own images: the frozen base of a pretrained Keras network runs once per image."""


def main() -> None:
    """Run the command line of this process and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line.

    Returns:
        The exit status: 0 done, 2 the request or its input is wrong, 1 a bug, 130 interrupted.
    """
    debug = "--debug" in arguments
    try:
        status = program.main(arguments, prog_name="permafrost", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except PermafrostError as error:
        return _fail(arguments, str(error), debug)
    except MemoryError as error:
        message = f"not enough memory: {error}" if str(error) else "not enough memory"
        return _fail(arguments, f"{message}. Take a smaller batch, image or head", debug)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _fail(arguments, error.format_message(), debug)
    except (KeyboardInterrupt, click.Abort):
        print(f"{_name(arguments)}: interrupted; run the same command to continue", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.code, int | None):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1


def _fail(arguments: list[str], message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"{_name(arguments)}: {one_line(message)}", file=sys.stderr)
    return 2


def _name(arguments: list[str]) -> str:
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    return f"permafrost {command}" if command else "permafrost"

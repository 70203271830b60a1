"""The command line: one module a command. Nothing heavy is imported to print help."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Final

import click

from permafrost.errors import OptionError, PermafrostError, nearest, one_line

COMMANDS: Final = {
    "extract": "Run the frozen base once over the images and keep its features.",
    "fit-head": "Fit a head to kept features and export one Keras model.",
    "finetune": "Unfreeze the top of a run's base and train it with the head.",
    "evaluate": "Say how well a model does on a dataset.",
    "predict": "Say what a model sees in images.",
    "features": "List, show, verify, export or prune kept features.",
    "demo": "Run the whole job on a small embedded dataset, offline.",
}
"""The commands, in the order of the help, with what each does."""

INTERRUPTED: Final = 130


class _Commands(click.Group):
    """Commands that are imported when they are asked for."""

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


@click.command(
    cls=_Commands,
    name="permafrost",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 2 the request or its input is wrong; 1 a bug; 130 interrupted.",
)
@click.version_option(package_name="permafrost", message="%(prog)s %(version)s")
def program() -> None:
    """Transfer learning on your own images: the frozen base of a pretrained Keras network runs once."""


def main() -> None:
    """Run the command line of this process, and end it with the exit status."""
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
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _fail(arguments, error.format_message(), debug)
    except (KeyboardInterrupt, click.Abort):
        print(f"{_name(arguments)}: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except SystemExit:
        # So click ends where whoever read the output has gone, which is no error.
        return 0


def _fail(arguments: list[str], message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"{_name(arguments)}: {one_line(message)}", file=sys.stderr)
    return 2


def _name(arguments: list[str]) -> str:
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    return f"permafrost {command}" if command else "permafrost"

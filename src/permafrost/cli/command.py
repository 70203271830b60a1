"""Build a click command, and print its result."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from permafrost.cli.quiet import quiet_libraries
from permafrost.errors import one_line


def command(name: str, summary: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that turns a function into a click command with `--json` and `--debug`.

    The function's docstring, without its first line, is the description in the command's help.

    Args:
        name: name of the command.
        summary: the first line of the command's help.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def quiet(*args: Any, debug: bool, **options: Any) -> Any:
            if options["as_json"] and "progress" in options:
                options["progress"] = False
            if debug:
                return function(*args, **options)
            with quiet_libraries():
                return function(*args, **options)

        wrapped = click.option("--debug", is_flag=True, help="Show tracebacks and the output of libraries.")(quiet)
        wrapped = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(
            wrapped
        )
        return click.command(name, help=f"{summary}\n\n{_description(function)}", short_help=summary)(wrapped)

    return decorate


def show(value: Any, lines: Sequence[str], *, as_json: bool) -> None:
    """Print a result as one JSON object, or as lines of text."""
    if as_json:
        click.echo(json.dumps(value))
    else:
        for line in lines:
            click.echo(one_line(line))


def _description(function: Callable[..., Any]) -> str:
    """Return a function's docstring without its first line."""
    return (inspect.getdoc(function) or "").partition("\n")[2].strip()

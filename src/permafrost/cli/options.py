"""Click options: generated from the fields of an option record, and those that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from permafrost.options import Description, descriptions, type_of

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def record_options(record: Any, *, only: Sequence[str] = (), leave_out: Sequence[str] = ()) -> Decorator:
    """Return a decorator that adds one click option per option of a record.

    Args:
        record: the record class; or an instance, whose values are the defaults.
        only: the options to add, in this order; all if empty.
        leave_out: options that the command declares itself.
    """
    owner = record if isinstance(record, type) else type(record)
    found = descriptions(record)
    names = [name for name in (only or found) if name not in leave_out]
    made = [_option(owner, name, found[name], getattr(record, name)) for name in names]
    return lambda function: functools.reduce(lambda wrapped, option: option(wrapped), reversed(made), function)


def _option(owner: type, name: str, description: Description, default: Any) -> Decorator:
    kind = type_of(owner, name)
    flag = f"--{name.replace('_', '-')}"
    help = description.help + (f" One of {', '.join(description.choices)}." if description.choices else "")
    if kind is bool:
        # A switch that is on by default needs a way to turn it off.
        name_of_flag = f"{flag}/--no-{flag[2:]}" if default else flag
        return click.option(name_of_flag, is_flag=True, default=default, help=help)
    shown = ",".join(f"{value:g}" for value in default) if isinstance(default, tuple) else default
    if description.default:
        help += f"  [default: {description.default}]"
    return click.option(
        flag,
        type=kind,
        default=shown,
        metavar=description.metavar,
        show_default=shown is not None and not description.default,
        help=help,
    )


def progress_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that turns progress bars off."""
    return click.option(
        "--progress/--no-progress", default=True, help="Draw progress bars on a terminal or in a notebook."
    )(function)

"""Write `docs/commands.md`: every command and option, from the programs' own help.

.venv/bin/python tools/write_commands.py
"""

from __future__ import annotations

from pathlib import Path

import click

from permafrost.cli import COMMANDS, program

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"

HEADER = """# Commands

Each is a program in `bin/`, and `permafrost NAME` where the package is installed. Results go to standard output,
progress and errors to standard error. Exit status: 0 done, 2 the request or its input is wrong ([errors](errors.md)),
130 interrupted, 1 a fault of Permafrost's own.

This page is made from the commands' own help by `tools/write_commands.py`.
"""


def page() -> str:
    """The page's text."""
    parts = [HEADER]
    for name in COMMANDS:
        command = program.get_command(click.Context(program), name)
        assert command is not None
        parts += sections(command, name)
    return "\n".join(parts)


def sections(command: click.Command, name: str) -> list[str]:
    """A command's part of the page; of a group, those of its commands."""
    if isinstance(command, click.Group):
        own = [f"## {name}\n\n{paragraphs(command)}\n"]
        return own + [part for each in command.commands for part in sections(command.commands[each], f"{name} {each}")]
    context = click.Context(command, info_name=f"bin/{name}")
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    return [f"## {name}\n\n```text\n{usage}\n```\n\n{paragraphs(command)}\n", table(command, context)]


def paragraphs(command: click.Command) -> str:
    """A command's description, a line a paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in (command.help or "").replace("\b", "").split("\n\n"))


def table(command: click.Command, context: click.Context) -> str:
    """A command's options."""
    rows = ["| option | meaning |", "| --- | --- |"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record and "--help" not in parameter.opts:
            option, meaning = (" ".join(cell.split()).replace("|", "\\|") for cell in record)
            rows.append(f"| `{option}` | {meaning} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

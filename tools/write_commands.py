"""Write `docs/commands.md`, with every command and option, from the commands' help.

.venv/bin/python tools/write_commands.py
"""

from __future__ import annotations

from pathlib import Path

import click

from permafrost.cli import COMMANDS, program

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"

HEADER = """# Commands

Each command is a program in `bin/`, and `permafrost NAME` if the package is installed. Results go to standard
output, progress and errors to standard error. Exit status: 0 done, 2 the request or its input is wrong
([errors](errors.md)), 130 interrupted, 1 a bug in Permafrost. Most commands have an equivalent in Python:

| command | Python |
| --- | --- |
| `extract` | `pf.extract(data, base=..., ...)` |
| `fit-head` | `pf.fit_head(features, head, ...)` |
| `finetune` | `pf.finetune(run, unfreeze, ...)` |
| `evaluate` | `pf.evaluate(model, data)` |
| `predict` | `pf.predict(model, images)` |
| `features show` | `permafrost.store.description.describe_set(pf.open_features(path))` |

Options have the same names in Python, with underscores: `--image-size 150` is `image_size=150`.
`tools/write_commands.py` writes this page from the commands' help.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [HEADER]
    for name in COMMANDS:
        command = program.get_command(click.Context(program), name)
        assert command is not None
        parts += sections(command, name)
    return "\n".join(parts)


def sections(command: click.Command, name: str) -> list[str]:
    """Return the sections for a command, or for a group and its commands."""
    if isinstance(command, click.Group):
        own = [f"## {name}\n\n{paragraphs(command)}\n"]
        return own + [part for each in command.commands for part in sections(command.commands[each], f"{name} {each}")]
    context = click.Context(command, info_name=f"bin/{name}")
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    return [f"## {name}\n\n```text\n{usage}\n```\n\n{paragraphs(command)}\n", table(command, context)]


def paragraphs(command: click.Command) -> str:
    """Return a command's description, one line per paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in (command.help or "").replace("\b", "").split("\n\n"))


def table(command: click.Command, context: click.Context) -> str:
    """Return the table of a command's options."""
    rows = ["| option | meaning |", "| --- | --- |"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record and "--help" not in parameter.opts:
            option, meaning = (" ".join(cell.split()).replace("|", "\\|") for cell in record)
            rows.append(f"| `{option}` | {meaning} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

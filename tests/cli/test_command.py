"""What all commands have in common."""

from __future__ import annotations

from permafrost import cli
from permafrost.cli.command import command
from permafrost.cli.options import progress_option


def test_no_progress_bar_is_drawn_with_json():
    progress_seen: list[bool] = []

    @command("try", "Try it.")
    @progress_option
    def try_it(*, progress: bool, as_json: bool) -> None:
        """Try it."""
        progress_seen.append(progress)

    for arguments in ([], ["--json"], ["--json", "--debug"], ["--no-progress"]):
        try_it.main(arguments, standalone_mode=False)

    assert progress_seen == [True, False, False, False]


def test_a_request_for_more_memory_than_there_is_ends_with_one_line(capsys, monkeypatch):
    def run(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 2.79 TiB")

    monkeypatch.setattr(cli.program, "main", run)

    assert cli.run(["extract", "photos"]) == 2
    line = "permafrost extract: not enough memory: Unable to allocate 2.79 TiB. Take a smaller batch, image or head\n"
    assert capsys.readouterr().err == line

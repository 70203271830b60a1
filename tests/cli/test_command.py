"""What all commands have in common."""

from __future__ import annotations

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

"""What the pipeline shows while it runs."""

from __future__ import annotations

import io
import sys
import time

from permafrost.extraction.pipeline import _progress
from permafrost.extraction.stopwatch import Stopwatch


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_bar_shows_how_many_images_were_cached_and_what_limits_the_speed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    watch = Stopwatch()
    watch.seconds["compute"] = 5.0

    with _progress(100, watch, shown=True) as image_done:
        for cached in (True, True, False, False):
            image_done(cached)
            time.sleep(0.11)

    drawn = sys.stderr.getvalue()
    assert "images/s" in drawn
    assert "2 cached, limited by computing" in drawn


def test_no_bar_is_drawn_if_progress_is_off(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())

    with _progress(1, Stopwatch(), shown=False) as image_done:
        image_done(False)

    assert sys.stderr.getvalue() == ""

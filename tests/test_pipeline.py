"""What the pipeline shows while it runs."""

from __future__ import annotations

import io
import sys
import time

import numpy as np
import pytest

from permafrost import reading
from permafrost.listing import read_listing
from permafrost.pipeline import _progress, only_pictures
from permafrost.reading import Found, Reader
from permafrost.stopwatch import Stopwatch


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_bar_says_how_many_were_kept_and_what_limits_the_speed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    watch = Stopwatch()
    watch.seconds["compute"] = 5.0

    with _progress(100, watch, shown=True) as picture_done:
        for kept in (True, True, False, False):
            picture_done(kept)
            time.sleep(0.11)

    drawn = sys.stderr.getvalue()
    assert "pictures/s" in drawn
    assert "2 kept already, limited by computing" in drawn


def test_no_bar_is_drawn_where_none_is_wanted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())

    with _progress(1, Stopwatch(), shown=False) as picture_done:
        picture_done(False)

    assert sys.stderr.getvalue() == ""


def read(folder, are_kept) -> list[Found]:
    """What comes of the pictures of a folder, at 8 px."""
    reader = Reader(
        listing=read_listing(folder),
        size=(8, 8),
        are_kept=are_kept,
        views_of=only_pictures,
        augmentation=None,
        decode=True,
        max_pixels=10**6,
        threads=1,
    )
    return list(reader.read())


@pytest.mark.parametrize(("most", "together"), [(2**20, 8), (0, 1)])
def test_as_many_pictures_are_looked_up_together_as_may_be_in_memory(own_photos, monkeypatch, most, together):
    monkeypatch.setattr(reading, "LOADED_BYTES", most)
    (own_photos / "dots" / "dots-000.png").write_bytes(b"rubbish")  # Its digest is odd: it is not taken for kept.
    asked: list[int] = []

    def are_kept(keys):
        asked.append(len(keys))
        return [digest[0] % 2 == 0 for digest, _ in keys]

    found = read(own_photos, are_kept)

    assert max(asked) == together
    assert [each.digest for each in found].count(None) == 1
    for each in found:
        assert each.digest is None or bool(each.missing) == bool(each.digest[0] % 2)
        assert all(np.shape(pixels) == (8, 8, 3) for pixels in each.missing.values())

"""How threads read ahead: in which portions, and in turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from permafrost.extraction import reader as reading
from permafrost.extraction.pipeline import only_images
from permafrost.extraction.reader import Reader, ReadImage, ReadLock, RowKey
from permafrost.images.dataset import read_dataset
from permafrost.images.decoding import content_digest


def read(folder, are_cached) -> list[ReadImage]:
    """What comes of the images of a folder, at 8 px."""
    reader = Reader(
        dataset=read_dataset(folder),
        size=(8, 8),
        are_cached=are_cached,
        views_of=only_images,
        augmentation=None,
        decode=True,
        max_pixels=10**6,
        threads=1,
    )
    return list(reader.read())


class Kept:
    """Answers which images are kept, and notes how many are asked for together."""

    def __init__(self, is_kept: Callable[[bytes], bool]) -> None:
        self._is_kept = is_kept
        self.asked: list[int] = []

    def __call__(self, keys: Sequence[RowKey]) -> list[bool]:
        self.asked.append(len(keys))
        return [self._is_kept(digest) for digest, _ in keys]


@pytest.mark.parametrize(("most", "together"), [(2**20, 8), (0, 1)])
def test_as_many_images_are_looked_up_together_as_may_be_in_memory(own_photos, monkeypatch, most, together):
    monkeypatch.setattr(reading, "LOADED_BYTES", most)
    (own_photos / "dots" / "dots-000.png").write_bytes(b"rubbish")  # Its digest is odd: it is not taken for kept.
    kept = Kept(lambda digest: digest[0] % 2 == 0)

    found = read(own_photos, kept)

    assert max(kept.asked) == together
    assert [each.digest for each in found].count(None) == 1
    for each in found:
        assert each.digest is None or bool(each.missing) == bool(each.digest[0] % 2)
        assert all(np.shape(pixels) == (8, 8, 3) for pixels in each.missing.values())


def test_where_all_images_are_kept_more_are_read_and_looked_up_together(tmp_path):
    contents = [f"no image {i}".encode() for i in range(500)]
    for i, content in enumerate(contents):
        path = tmp_path / ("former" if i < 300 else "latter") / f"{i:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    kept = Kept(lambda _: True)

    found = read(tmp_path, kept)

    assert kept.asked[0] == reading.TASK
    assert kept.asked[-2] == reading.CACHED_TASK  # The last has what is left.
    assert [each.digest for each in found] == [content_digest(content) for content in contents]


def test_where_a_image_is_missing_few_are_decoded_by_one_thread(own_photos):
    kept = Kept(lambda _: False)

    read(own_photos, kept)

    assert max(kept.asked) == reading.TASK


def enter(turns: ReadLock, inside: threading.Event) -> threading.Thread:
    """A thread that reads one image in a turn, and says when it is at it."""

    def turn() -> None:
        with turns.turn([0]):
            inside.set()

    thread = threading.Thread(target=turn)
    thread.start()
    return thread


def test_one_thread_at_a_time_reads_where_reading_is_quick():
    turns, inside = ReadLock(), threading.Event()

    with turns.turn(range(10**6)):  # Each of so many was quick.
        other = enter(turns, inside)
        assert not inside.wait(0.2)

    assert inside.wait(10)
    other.join()


def test_all_threads_read_at_once_where_reading_is_slow():
    turns, inside = ReadLock(), threading.Event()
    with turns.turn([0]):
        time.sleep(2 * reading.SERIALIZE_BELOW)

    with turns.turn([0]):
        other = enter(turns, inside)
        assert inside.wait(10)

    other.join()


def test_a_turn_that_fails_ends():
    turns, inside = ReadLock(), threading.Event()

    with pytest.raises(RuntimeError), turns.turn([0]):
        raise RuntimeError

    other = enter(turns, inside)
    assert inside.wait(10)
    other.join()

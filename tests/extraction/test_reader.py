"""How threads read ahead: how many images at a time, and whether at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from permafrost.errors import ImageError
from permafrost.extraction import reader as reading
from permafrost.extraction.cache import RowKey
from permafrost.extraction.options import PipelineOptions
from permafrost.extraction.pipeline import only_images
from permafrost.extraction.reader import Reader, ReadImage, ReadLock
from permafrost.images.dataset import read_dataset
from permafrost.images.decoding import content_digest
from samples import spec_with


class Cache:
    """Has the rows of some digests, and records how many rows are looked up together."""

    spec = spec_with(image_size=(8, 8))

    def __init__(self, is_cached: Callable[[bytes], bool]) -> None:
        self._is_cached = is_cached
        self.lookups: list[int] = []

    def has(self, keys: Sequence[RowKey]) -> list[bool]:
        self.lookups.append(len(keys))
        return [self._is_cached(digest) for digest, _ in keys]


def reader_of(folder: Path, *caches: Cache, **options) -> Reader:
    options = PipelineOptions(**{"workers": 1, **options})
    return Reader(dataset=read_dataset(folder), caches=caches, options=options, views_of=only_images)


def read(folder: Path, *caches: Cache) -> list[ReadImage]:
    """Return the results for the images of a folder, at 8 px."""
    return list(reader_of(folder, *caches).read())


@pytest.mark.parametrize(("limit", "together"), [(2**20, 8), (0, 1)])
def test_as_many_images_are_looked_up_together_as_may_be_in_memory(own_photos, monkeypatch, limit, together):
    monkeypatch.setattr(reading, "LOADED_BYTES", limit)
    (own_photos / "dots" / "dots-000.png").write_bytes(b"rubbish")  # Its digest is odd, so it does not count as cached.
    cache = Cache(lambda digest: digest[0] % 2 == 0)

    images = read(own_photos, cache)

    assert max(cache.lookups) == together
    assert [image.digest for image in images].count(None) == 1
    for image in images:
        assert image.digest is None or bool(image.missing) == bool(image.digest[0] % 2)
        assert all(np.shape(row.pixels) == (8, 8, 3) for row in image.missing)


def test_a_missing_row_names_the_caches_that_lack_it(own_photos):
    even, odd = Cache(lambda digest: digest[0] % 2 == 0), Cache(lambda digest: digest[0] % 2 == 1)

    images = read(own_photos, even, odd)

    assert len({image.digest[0] % 2 for image in images}) == 2
    for image in images:
        (row,) = image.missing
        assert row.key == (image.digest, 0)
        assert row.lacking == (image.digest[0] % 2 == 1, image.digest[0] % 2 == 0)


def test_each_row_is_looked_up_once(own_photos):
    cache = Cache(lambda _: False)

    images = read(own_photos, cache)

    assert sum(cache.lookups) == len(images)


def test_the_first_bad_image_is_an_error_if_asked_for(own_photos):
    (own_photos / "dots" / "dots-000.png").write_bytes(b"rubbish")

    with pytest.raises(ImageError, match=r"bad image .*dots/dots-000\.png: not an image"):
        list(reader_of(own_photos, Cache(lambda _: False), on_bad="fail").read())


def test_if_all_images_are_cached_more_of_them_are_looked_up_together(tmp_path):
    contents = [f"no image {i}".encode() for i in range(500)]
    for i, content in enumerate(contents):
        path = tmp_path / ("former" if i < 300 else "latter") / f"{i:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    cache = Cache(lambda _: True)

    images = read(tmp_path, cache)

    assert cache.lookups[0] == reading.TASK
    assert cache.lookups[-2] == reading.CACHED_TASK  # The last has what is left.
    assert [image.digest for image in images] == [content_digest(content) for content in contents]


def test_if_images_are_missing_a_task_is_small(own_photos):
    cache = Cache(lambda _: False)

    read(own_photos, cache)

    assert max(cache.lookups) == reading.TASK


def enter(lock: ReadLock, inside: threading.Event) -> threading.Thread:
    """Start a thread that sets the event while it reads an image."""

    def read_one() -> None:
        with lock.reading([0]):
            inside.set()

    thread = threading.Thread(target=read_one)
    thread.start()
    return thread


def test_quick_reads_are_serialized():
    lock, inside = ReadLock(), threading.Event()

    with lock.reading(range(10**6)):  # Quick, for so many.
        other = enter(lock, inside)
        assert not inside.wait(0.2)

    assert inside.wait(10)
    other.join()


def test_slow_reads_overlap():
    lock, inside = ReadLock(), threading.Event()
    with lock.reading([0]):
        time.sleep(2 * reading.SERIALIZE_BELOW)

    with lock.reading([0]):
        other = enter(lock, inside)
        assert inside.wait(10)

    other.join()


def test_a_read_that_fails_releases_the_lock():
    lock, inside = ReadLock(), threading.Event()

    with pytest.raises(RuntimeError), lock.reading([0]):
        raise RuntimeError

    other = enter(lock, inside)
    assert inside.wait(10)
    other.join()

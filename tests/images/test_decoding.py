"""Decoding and resizing of images, and the errors of files that are not images."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from permafrost.errors import ImageError
from permafrost.images.decoding import (
    EXTENSIONS,
    DecodingMemory,
    array_digest,
    as_pixels,
    content_digest,
    decode,
    decode_resized,
    read_file,
)
from permafrost.images.options import MAX_PIXELS
from permafrost.images.resizing import resize
from permafrost.images.sources import LoadedImage
from samples import encoded, texture

PHOTO = texture("dots", 1, (30, 40))


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# Decoding


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_a_lossless_image_decodes_to_its_own_pixels(form):
    pixels = decode(encoded(PHOTO, form))

    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, PHOTO)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_a_lossy_image_decodes_to_nearly_its_own_pixels(form):
    pixels = decode(encoded(PHOTO, form, **({} if form == "JPEG2000" else {"quality": 95})))

    assert pixels.shape == PHOTO.shape
    assert np.abs(pixels.astype(int) - PHOTO).mean() < 8


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p)),
    ],
)
def test_the_exif_orientation_is_applied(form, orientation, seen):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO, form, exif=exif, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))

    pixels = decode(data)

    assert pixels.shape == seen(PHOTO).shape
    assert np.abs(pixels.astype(int) - seen(PHOTO)).max() <= (12 if form == "JPEG" else 0)


GARBAGE = b"Exif\0\0garbage that is not a TIFF file"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_exif_data_that_cannot_be_read_is_ignored(form):
    if form == "PNG":
        whole = encoded(PHOTO)
        end = whole.index(b"IDAT") - 4
        data = whole[:end] + chunk(b"eXIf", GARBAGE) + whole[end:]
    else:
        data = encoded(PHOTO, form, exif=GARBAGE)

    assert np.array_equal(decode(data), decode(encoded(PHOTO, form)))


def test_grey_is_repeated_in_three_channels():
    grey = PHOTO[:, :, 0]

    assert np.array_equal(decode(encoded(grey)), np.stack([grey] * 3, axis=2))


def test_black_and_white_becomes_0_and_255():
    bits = PHOTO[:, :, 0] > 128

    assert np.array_equal(decode(encoded(bits))[:, :, 1], bits * np.uint8(255))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(form):
    grey = np.linspace(0, 65535, 30 * 40).round().astype(np.uint16).reshape(30, 40)

    pixels = decode(encoded(grey, form))

    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.abs(pixels[:, :, 0] - grey / 257).max() <= 0.5
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize("transparency", [0, bytes([0, 128])], ids=["one entry", "a table"])
def test_a_palette_with_transparent_entries_keeps_its_colours_and_gives_no_warning(transparency):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    data = saved(image, "PNG", transparency=transparency)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(data)

    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[1, 1].tolist() == [10, 20, 30]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "TGA"])
def test_alpha_is_dropped_and_colours_stay_as_they_are(form):
    with_alpha = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 7, np.uint8)])

    assert np.array_equal(decode(encoded(with_alpha, form)), PHOTO)


def test_cmyk_is_converted_by_pillows_own_rule():
    image = Image.fromarray(PHOTO).convert("CMYK")

    assert np.array_equal(decode(saved(image, "TIFF")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 10, 10), (10, 200, 10))]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100)

    assert np.abs(decode(data).astype(int) - (200, 10, 10)).max() <= 8


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_range_are_refused(mode):
    with pytest.raises(ImageError, match=r"no known range; expected 8 or 16 bits per channel, found"):
        decode(saved(Image.new(mode, (8, 8)), "TIFF"))


# Files that are broken


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_truncated_image_is_refused(form, fraction):
    data = encoded(texture("checks", 0, (200, 200)), form)

    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(data[: int(len(data) * fraction)])


def test_an_empty_file_is_refused_as_empty():
    with pytest.raises(ImageError, match="the file is empty"):
        decode(b"")


@pytest.mark.parametrize("data", [b"GIF", b"<html>not found</html>", bytes(1000), b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_not_an_image_are_refused(data):
    with pytest.raises(ImageError, match=r"not an image in any format|cannot be decoded"):
        decode(data)


@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
def test_a_damaged_image_is_decoded_or_refused_with_an_image_error(data, form):
    whole = bytearray(encoded(PHOTO, form))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])

    try:
        pixels = decode(damaged, max_pixels=10**6)
    except ImageError as error:
        assert str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_that_declares(width: int, height: int) -> bytes:
    """Return a PNG with a valid header and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (13_400, 13_400), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_before_decoding(size):
    # If it were decoded, the error would be that it has no pixels at all.
    with pytest.raises(ImageError, match=r"too many pixels; expected at most 178,956,970, found"):
        decode(png_that_declares(*size))


def test_the_limit_on_pixels_is_an_argument():
    assert decode(encoded(PHOTO), max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(ImageError, match=r"too many pixels; expected at most 1,199, found 40 x 30"):
        decode(encoded(PHOTO), max_pixels=1199)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_pillows_own_limit_on_pixels_is_neither_used_nor_changed(monkeypatch, form):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(PHOTO, form), max_pixels=1200).shape == (30, 40, 3)

    assert Image.MAX_IMAGE_PIXELS == 500


def test_decoding_in_threads_changes_no_setting_of_the_process():
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    data, seen = encoded(PHOTO), []

    def check(_):
        decode(data)
        seen.append((list(warnings.filters), Image.MAX_IMAGE_PIXELS))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(check, range(40)))

    assert all(each == (filters, limit) for each in seen)


def test_the_default_limit_is_the_one_above_which_pillow_refuses_images():
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


# Reading files


def test_a_file_with_a_name_of_any_bytes_is_read_whole(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9\n.jpg"
    with open(path, "wb") as file:
        file.write(b"content")

    assert read_file(path) == read_file(os.fsdecode(path)) == b"content"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gone.jpg", "No such file"), ("folder.jpg", "Is a directory"), ("loop.jpg", "Too many levels"), ("a\0b", "name")],
)
def test_a_file_that_cannot_be_read_is_an_image_error_with_the_reason(tmp_path, name, reason):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")

    with pytest.raises(ImageError, match=reason):
        read_file(os.path.join(tmp_path, name))


def test_a_fifo_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    verdicts = []

    def read():
        with pytest.raises(ImageError) as caught:
            read_file(tmp_path / "fifo.jpg")
        verdicts.append(str(caught.value))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)

    assert verdicts == ["not a regular file"]


def test_extensions_are_lower_case_and_begin_with_a_dot():
    assert {".jpg", ".jpeg", ".png", ".webp", ".tiff", ".gif", ".bmp"} <= EXTENSIONS
    assert all(ending == ending.lower() and ending[0] == "." for ending in EXTENSIONS)


# Resizing


@pytest.mark.parametrize("content", [encoded(PHOTO), PHOTO], ids=["a file", "an array"])
def test_an_image_of_the_wanted_size_is_not_changed(content):
    same = decode_resized(content, (30, 40)) if isinstance(content, bytes) else resize(content, (30, 40))

    assert np.array_equal(same, PHOTO)


@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_a_size_is_height_and_width_for_files_and_arrays_alike(height, width):
    from_file, from_array = decode_resized(encoded(PHOTO), (height, width)), resize(PHOTO, (height, width))

    assert from_file.shape == (height, width, 3)
    assert from_file.dtype == np.uint8
    assert np.array_equal(from_file, from_array)


def test_resizing_is_antialiased():
    # Stripes of one pixel average to grey; without antialiasing some would stay black or white.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255

    assert np.abs(resize(stripes, (16, 16))[2:-2, 2:-2].astype(int) - 127).max() <= 20


# Arrays


@given(st.integers(17, 255))
def test_pixels_of_any_number_type_become_bytes(value):
    for kind in (np.uint8, np.int64, np.uint16, np.float32, np.float64):
        assert as_pixels(np.full((2, 3, 3), value, kind)).tolist() == np.full((2, 3, 3), value).tolist()


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 4)])
def test_grey_and_alpha_arrays_become_rgb(shape):
    pixels = as_pixels(np.full(shape, 9, np.uint8))

    assert pixels.shape == (5, 6, 3)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.zeros(4), r"not an image; expected shape \(h, w, 3\), found shape \(4,\)"),
        (np.zeros((2, 2, 5)), r"found shape \(2, 2, 5\)"),
        (np.zeros((0, 2, 3)), r"found shape \(0, 2, 3\)"),
        (np.zeros((2, 2, 3), "U1"), r"not pixels; expected numbers from 0 to 255, found <U1"),
        (
            np.full((2, 2, 3), 2**16),
            r"too large; expected 0 to 1, or 0 to 255, or at most 16 bits, found 65536 to 65536",
        ),
        (np.full((2, 2, 3), -1.0), r"values of the array are negative"),
        (np.full((2, 2, 3), np.nan), r"NaN or infinity among its values"),
        (np.full((2, 2, 3), 1.5), r"two readings: nearly black, or 1\.5 is white; .* found 1\.5 to 1\.5 in float64"),
    ],
)
def test_arrays_that_are_not_images_are_refused_with_what_was_found(array, line):
    with pytest.raises(ImageError, match=line):
        as_pixels(array)


# Digests


def test_content_digests_are_pinned():
    # A change here makes every user compute every feature again.
    assert content_digest(b"permafrost").hex() == "2ee1ab95b9643d857fc8dd6c57c1b3915c718364017c23864dcab2eb301961d6"
    assert (
        array_digest(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).hex()
        == "6e2896cd6d57153ec7934da9bc6fbeb3b24aeecce23acbd1fee88882a324e817"
    )


def test_arrays_with_the_same_bytes_and_another_shape_have_other_digests():
    flat = np.arange(24, dtype=np.uint8)

    assert array_digest(flat.reshape(2, 4, 3)) != array_digest(flat.reshape(4, 2, 3))


def test_the_digest_of_an_array_does_not_depend_on_its_memory_layout():
    assert array_digest(np.asfortranarray(PHOTO)) == array_digest(PHOTO)


# Real files


def test_broken_files_are_refused_and_odd_ones_decoded(shared):
    fixtures = shared / "data" / "corrupt" / "pillow_fixtures"
    broken, odd = sorted((fixtures / "undecodable").iterdir()), sorted((fixtures / "odd_but_decodable").iterdir())
    odd.append(shared / "data" / "corrupt" / "wrong_extension" / "Cat1035.png")
    assert len(broken) == 6 and len(odd) == 8

    for path in broken:
        with pytest.raises(ImageError):
            decode(read_file(path))
    for path in odd:
        assert decode(read_file(path)).shape[2] == 3, path


def test_threads_that_decode_share_a_bounded_memory():
    memory, held, most = DecodingMemory(100), [0], [0]
    lock = threading.Lock()

    def decode_one(count: int) -> None:
        with memory.hold(count):
            with lock:
                held[0] += count
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= count

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode_one, [30, 60, 10, 45] * 6))

    assert 60 < most[0] <= 100


def test_an_image_larger_than_the_whole_memory_is_decoded_alone():
    memory, order = DecodingMemory(100), []
    inside, go = threading.Event(), threading.Event()

    def huge() -> None:
        with memory.hold(10**9):
            inside.set()
            go.wait(10)
            order.append("huge")

    def small() -> None:
        inside.wait(10)
        with memory.hold(1):
            order.append("small")

    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(huge), threads.submit(small)]
        inside.wait(10)
        go.set()
        for future in futures:
            future.result(10)

    assert order == ["huge", "small"]


def test_an_image_that_cannot_be_decoded_releases_its_memory():
    memory = DecodingMemory(8 * 16 * 16)
    data = encoded(np.zeros((16, 16, 3), np.uint8), "JPEG")

    for _ in range(3):
        with pytest.raises(ImageError):
            decode_resized(data[:-40], (8, 8), memory=memory)

    assert decode_resized(data, (8, 8), memory=memory).shape == (8, 8, 3)


def test_a_decoded_image_holds_its_memory_until_the_block_ends():
    memory = DecodingMemory(8 * 16 * 16)
    pixels = np.full((16, 16, 3), 7, np.uint8)
    loaded = LoadedImage(b"", encoded(pixels, "PNG"))

    with ThreadPoolExecutor(1) as threads:
        with loaded.decoded(memory) as found:
            waiting = threads.submit(decode_resized, loaded.content, (8, 8), memory=memory)
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
            assert np.array_equal(found, pixels)
        assert waiting.result(10).shape == (8, 8, 3)

"""Files of every kind are decoded rightly, or refused for what they are; nothing is printed and nothing changed."""

from __future__ import annotations

import io
import logging
import struct
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from permafrost.errors import ImageError
from permafrost.images.decoding import EXTENSIONS, decode
from samples import encoded, texture
from tiffs import LONG, SHORT, tiff

PHOTO = texture("dots", 1, (30, 40))
GREY = PHOTO[:, :, :1]
DEEP = PHOTO.astype(np.uint16) * 257 - np.minimum(PHOTO, 3)
"""The same with 16 bits; the two bytes differ."""

NEAR_INFRARED = np.full((30, 40, 1), 128, np.uint8)


def png(pixels: np.ndarray, colour_type: int) -> bytes:
    """Return a PNG of (h, w, c) uint16; Pillow writes 16 bits only of grey."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def difference(data: bytes, pixels: np.ndarray) -> float:
    """The largest difference of the decoded image from (h, w, 1 or 3) pixels."""
    return float(np.abs(decode(data).astype(float) - pixels).max())


# TIFF


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
def test_colours_of_8_bits_are_right_in_every_form_of_tiff(compressed, order, planar):
    assert difference(tiff(PHOTO, planar=planar, order=order, compressed=compressed), PHOTO) == 0


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [(0,), (2,), (0, 0)])
def test_near_infrared_beside_red_green_and_blue_is_dropped(compressed, order, extra):
    for pixels in (PHOTO, DEEP):
        bands = np.concatenate([pixels] + [NEAR_INFRARED.astype(pixels.dtype)] * len(extra), axis=2)
        if len(extra) > 1 and pixels is DEEP:
            continue
        assert difference(tiff(bands, extra=extra, order=order, compressed=compressed), PHOTO) <= 1


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
def test_deep_colours_are_right_or_refused(compressed, order, planar):
    data = tiff(DEEP, planar=planar, order=order, compressed=compressed)

    if planar == 2 and not compressed:
        with pytest.raises(ImageError, match=r"one after another, .*; .* found a TIFF with 3 bands of 16 bits"):
            decode(data)
    else:
        assert difference(data, PHOTO) <= 1


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("pixels", [GREY, DEEP[:, :, :1]], ids=["8 bits", "16 bits"])
def test_white_may_be_zero(compressed, planar, pixels):
    inverted = np.iinfo(pixels.dtype).max - pixels

    assert difference(tiff(inverted, photometric=0, planar=planar, compressed=compressed), GREY) <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_grey_of_both_orders_is_scaled(order):
    assert difference(tiff(DEEP[:, :, :1], photometric=1, order=order), GREY) <= 1


def test_a_tiff_of_12_bits_is_scaled_by_12_bits():
    deep = (GREY[:, :, 0].astype(int) * 4095 // 255).reshape(-1, 2)
    packed = np.stack([deep[:, 0] >> 4, (deep[:, 0] & 15) << 4 | deep[:, 1] >> 8, deep[:, 1] & 255], axis=1)
    data = tiff(
        packed.astype(np.uint8).reshape(30, 60, 1),
        photometric=1,
        tags={256: (SHORT, [40]), 258: (SHORT, [12])},
    )

    assert difference(data, GREY) <= 1


@pytest.mark.parametrize(
    ("pixels", "photometric", "found"),
    [
        (np.zeros((8, 8, 7), np.uint16), 2, "too many bands; .* found a TIFF with 7 bands of 16 bits"),
        (np.zeros((8, 8, 7), np.uint8), 1, "too many bands; .* found a TIFF with 7 bands of 8 bits"),
        (
            np.zeros((8, 8, 2), np.uint16),
            1,
            "expected grey or RGB of 8 or 16 bits, found a TIFF with 2 bands of 16 bits",
        ),
        (np.zeros((8, 8, 3), np.float32), 2, "found a TIFF with 3 bands of 32 bits, floating point"),
        (np.zeros((8, 8, 1), np.float64), 1, "found a TIFF with 1 band of 64 bits, floating point"),
        (np.zeros((8, 8, 1), np.float32), 1, "no known range; .* found floating point"),
        (np.zeros((8, 8, 1), np.int16), 1, "no known range; .* found signed or 32-bit integers"),
        (np.zeros((8, 8, 1), np.uint32), 1, "no known range; .* found signed or 32-bit integers"),
    ],
)
@pytest.mark.parametrize("order", ["<"])
def test_rasters_that_are_no_photos_are_refused_for_what_they_are_and_in_silence(
    pixels, photometric, found, order, capfd
):
    extra = (0,) * (pixels.shape[2] - (3 if photometric == 2 else 1))

    with pytest.raises(ImageError, match=found):
        decode(tiff(pixels, photometric=photometric, extra=extra, order=order))

    assert capfd.readouterr().err == ""


def test_pillow_logs_no_error_about_a_file_that_is_refused(caplog):
    with pytest.raises(ImageError):
        decode(tiff(np.zeros((8, 8, 7), np.uint8), photometric=1, extra=(0,) * 6))

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("tag", [34665, 34853, 700, 33432, 305])
@pytest.mark.parametrize("offset", [10, 10**9])
def test_damaged_metadata_of_a_tiff_is_ignored_without_a_warning(tag, offset):
    whole = tiff(PHOTO, tags={tag: (LONG, [1, 2, 3])})
    entry = whole.index(struct.pack("<HHI", tag, LONG, 3)) + 8
    data = whole[:entry] + struct.pack("<I", offset) + whole[entry + 4 :]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference(data, PHOTO) == 0


@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_a_truncated_tiff_is_said_to_be_truncated(part):
    data = tiff(PHOTO)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"^a truncated TIFF$|image file is truncated"):
            decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("start", [2**31, 2**32 - 1])
def test_a_directory_beyond_the_file_is_a_truncated_tiff(start):
    big = b"II+\0\x08\0\0\0" + struct.pack("<Q", start * 2**31)

    for data in (b"II*\0" + struct.pack("<I", start) + bytes(50), big + bytes(50)):
        with pytest.raises(ImageError, match="a truncated TIFF"):
            decode(data)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
def test_many_tags_that_claim_the_whole_file_take_no_time():
    count, length = 60_000, 2 * 10**7
    entries = b"".join(struct.pack("<HHII", tag, 7, length, 8) for tag in range(count))
    data = b"II*\0" + struct.pack("<I", 8 + length) + bytes(length) + struct.pack("<H", count) + entries + bytes(4)
    started = time.perf_counter()

    with pytest.raises(ImageError):
        decode(data)

    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("damaged", [False, True])
def test_the_orientation_of_a_tiff_is_applied_once(orientation, damaged):
    tags = {274: (SHORT, [orientation])} | ({34665: (LONG, [10**9])} if damaged else {})

    assert np.array_equal(decode(tiff(PHOTO, tags=tags)), SEEN[orientation](PHOTO))


def test_the_first_page_of_several_is_used():
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(255 - PHOTO)])

    assert difference(buffer.getvalue(), PHOTO) == 0


# Other formats

SEEN = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}
"""How viewers show an image of each orientation."""


@pytest.mark.parametrize(("colour_type", "bands"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_is_right_in_every_colour_type(colour_type, bands):
    alpha = np.full((30, 40, 1), 777, np.uint16)
    pixels = np.concatenate([DEEP, alpha] if bands > 2 else [DEEP[:, :, :1], alpha], axis=2)[:, :, :bands]

    assert difference(png(pixels, colour_type), PHOTO if bands > 2 else GREY) <= 1


@pytest.mark.parametrize("form", ["PNG", "TIFF", "GIF"])
def test_palettes_and_grey_with_alpha_keep_their_colours(form):
    image = Image.fromarray(PHOTO).quantize(32, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, form, **({"transparency": 0} if form != "TIFF" else {}))

    assert difference(buffer.getvalue(), np.asarray(image.convert("RGB"))) == 0


def test_a_cmyk_jpeg_has_the_colours_that_pillow_gives_it():
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).convert("CMYK").save(buffer, "JPEG", quality=100, subsampling=0)

    assert np.abs(decode(buffer.getvalue()).astype(int) - PHOTO).mean() < 3


def test_the_largest_image_of_an_icon_is_used():
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).resize((64, 64)).save(buffer, "ICO", sizes=[(16, 16), (64, 64), (32, 32)])

    assert decode(buffer.getvalue()).shape == (64, 64, 3)


def test_the_first_of_several_photos_in_a_jpeg_is_used_and_a_damaged_index_of_them_is_ignored():
    buffer = io.BytesIO()
    first = Image.fromarray(PHOTO)
    first.save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(255 - PHOTO)], quality=100, subsampling=0)
    whole = buffer.getvalue()
    assert difference(whole, PHOTO) <= 12

    index = whole.index(b"MPF\0") + 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference(whole[:index] + bytes(8) + whole[index + 8 :], PHOTO) <= 12


def exif_of(orientation: int, *, damaged: bool) -> bytes:
    """Return EXIF data whose other tag lies outside of it, if damaged."""
    entries = [struct.pack("<HHIHH", 274, SHORT, 1, orientation, 0)]
    if damaged:
        entries.append(struct.pack("<HHII", 34665, LONG, 1, 10**6))
        entries.insert(0, struct.pack("<HHII", 270, 2, 999, 10**6))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("damaged", [False, True])
def test_the_orientation_is_read_from_damaged_metadata_without_a_warning(form, damaged):
    data = encoded(PHOTO, form, exif=exif_of(6, damaged=damaged), **({} if form == "PNG" else {"quality": 95}))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(decode(data).astype(int) - SEEN[6](PHOTO)).mean() < 8


@pytest.mark.parametrize(("kind", "form"), [(SHORT, "H"), (LONG, "I"), (8, "h"), (9, "i")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_may_be_of_any_type_of_whole_number(kind, form, order):
    value = struct.pack(order + form, 8).ljust(4, b"\0")
    entry = struct.pack(f"{order}HHI", 274, kind, 1) + value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1)

    assert np.array_equal(decode(encoded(PHOTO, exif=b"Exif\0\0" + head + entry + bytes(4))), SEEN[8](PHOTO))


def test_the_orientation_may_be_in_xmp():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'

    assert np.array_equal(decode(encoded(PHOTO, "WEBP", xmp=xmp, lossless=True)), SEEN[8](PHOTO))


# HEIC


def heic(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """Return a HEIC file that is shown turned, as cameras write it: in its container and in its EXIF data."""
    heif = pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(pixels))
    heif[0].info["exif"] = exif_of(orientation, damaged=False)
    buffer = io.BytesIO()
    heif.save(buffer, quality=-1, chroma=444)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_decoded_and_turned_once(orientation):
    data = heic(PHOTO, orientation)

    assert b"irot" in data or b"imir" in data or orientation == 1
    assert difference(data, SEEN[orientation](PHOTO)) <= 2


def test_heic_of_grey_alpha_and_10_bits_is_decoded():
    pillow_heif = pytest.importorskip("pillow_heif")
    deep = io.BytesIO()
    pillow_heif.encode("RGB;16", (40, 30), DEEP.astype("<u2").tobytes(), deep, quality=-1, chroma=444)

    assert difference(heic(PHOTO[:, :, 0]), GREY) <= 2
    assert difference(heic(np.dstack([PHOTO, NEAR_INFRARED])), PHOTO) <= 2
    assert difference(deep.getvalue(), PHOTO) <= 2


def test_heic_obeys_the_limit_on_pixels_and_truncated_heic_is_refused():
    data = heic(PHOTO)

    with pytest.raises(ImageError, match="too many pixels; expected at most 100, found 40 x 30"):
        decode(data, max_pixels=100)
    for part in (0.05, 0.5, 0.99):
        with pytest.raises(ImageError):
            decode(data[: int(len(data) * part)])


def test_decoding_heic_registers_nothing_in_pillow():
    decode(heic(PHOTO))

    assert "HEIF" not in Image.ID and ".heic" not in Image.registered_extensions()


@pytest.mark.parametrize("brand", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0heix"])
def test_without_its_library_heic_is_refused_with_the_extra_that_reads_it(monkeypatch, brand):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = struct.pack(">I", 8 + len(brand)) + b"ftyp" + brand + bytes(64)

    with pytest.raises(
        ImageError, match=r"^HEIC, which .* library\. Install pillow-heif \(the extra heic\), or convert"
    ):
        decode(data)


def test_avif_needs_no_other_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)

    assert np.abs(decode(encoded(PHOTO, "AVIF", quality=95)).astype(int) - PHOTO).mean() < 8


def test_heic_has_the_extension_of_an_image():
    assert {".heic", ".heif"} <= EXTENSIONS


# Files that are no images


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (bytes(128) + b"DICM" + bytes(64), "a DICOM file. Export its images"),
        (b"\x93NUMPY\1\0" + bytes(64), "a NumPy array"),
        (b"\x80\x05\x95" + bytes(64), "a pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"8BPS\0\1" + bytes(64), "a Photoshop file"),
        (b"\0\0\0\x20ftypisom" + bytes(64), "a video"),
        (b"\0\0\0\x14ftypqt  " + bytes(64), "a video"),
        (b"\0\0\0\x18ftypcrx " + bytes(64), "a raw photo"),
        (b"RIFF\0\0\0\0AVI " + bytes(64), "a video"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b'{"error": 404}', "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the file. Run git lfs pull"),
        (b"\xff\x0a" + bytes(64), "a JPEG XL image"),
        (b"PK\3\4" + bytes(64), "a zip file"),
        (b"\0\0\0\x1cftypavif" + bytes(64), "a damaged AVIF image"),
    ],
)
def test_a_file_that_is_no_image_is_refused_for_what_it_is(data, found):
    with pytest.raises(ImageError, match=f"^not an image in any format that is read; found {found}"):
        decode(data)

"""What a file is by its first bytes, if it is not an image that can be decoded."""

from __future__ import annotations

from typing import Final

from permafrost.errors import ImageError
from permafrost.images.formats.tiff import read_directory

_DEVELOP: Final = "develop it to JPEG, PNG or TIFF"
_EXPORT: Final = "export its images as PNG or TIFF"
_ARRAYS: Final = "save arrays as a dataset with numpy.savez, or as PNG"

_KINDS: Final[tuple[tuple[int, bytes, str, str | None], ...]] = (
    (128, b"DICM", "a DICOM file", _EXPORT),
    (0, b"\x93NUMPY", "a NumPy array", _ARRAYS),
    (0, b"\x80\x02", "a pickle", _ARRAYS),
    (0, b"\x80\x03", "a pickle", _ARRAYS),
    (0, b"\x80\x04", "a pickle", _ARRAYS),
    (0, b"\x80\x05", "a pickle", _ARRAYS),
    (0, b"\x89HDF", "an HDF5 file", _EXPORT),
    (0, b"MATLAB", "a MATLAB file", _EXPORT),
    (344, b"n+1\0", "a NIfTI file", _EXPORT),
    (344, b"ni1\0", "a NIfTI file", _EXPORT),
    (0, b"SIMPLE  =", "a FITS file", _EXPORT),
    (0, b"v/1\x01", "an OpenEXR file, without a known range", _EXPORT),
    (0, b"#?RADIANCE", "a Radiance file, without a known range", _EXPORT),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file", "run git lfs pull"),
    (0, b"%PDF", "a PDF file", _EXPORT),
    (0, b"%!PS", "a PostScript file", _EXPORT),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file", _EXPORT),
    (0, b"8BPS", "a Photoshop file", _EXPORT),
    (0, b"gimp xcf", "a GIMP file", _EXPORT),
    (0, b"FUJIFILMCCD-RAW", "a raw photo", _DEVELOP),
    (0, b"IIRO", "a raw photo", _DEVELOP),
    (0, b"IIU\0", "a raw photo", _DEVELOP),
    (8, b"CR\x02", "a raw photo", _DEVELOP),
    (4, b"ftypcrx", "a raw photo", _DEVELOP),
    (0, b"\xff\x0a", "a JPEG XL image", "convert it to JPEG or PNG"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", "convert it to JPEG or PNG"),
    (4, b"ftypavif", "a damaged AVIF image", None),
    (4, b"ftypavis", "a damaged AVIF image", None),
    (4, b"ftyp", "a video", "save its frames as images"),
    (4, b"moov", "a video", "save its frames as images"),
    (0, b"\x1a\x45\xdf\xa3", "a video", "save its frames as images"),
    (0, b"\0\0\x01\xba", "a video", "save its frames as images"),
    (0, b"\0\0\x01\xb3", "a video", "save its frames as images"),
    (8, b"AVI ", "a video", "save its frames as images"),
    (0, b"PK\x03\x04", "a zip file", None),
    (0, b"\x1f\x8b", "a gzip file", None),
    (0, b"Rar!", "a RAR file", None),
    (0, b"7z\xbc\xaf", "a 7-Zip file", None),
    (0, b"\x89PNG", "a damaged PNG image", None),
    (0, b"\xff\xd8\xff", "a damaged JPEG image", None),
    (0, b"GIF8", "a damaged GIF image", None),
    (8, b"WEBP", "a damaged WebP image", None),
)
"""Places and bytes of what is found under the names of images, what it is, and what to do; the first one counts."""

_TEXTS: Final = (
    (b"<svg", "an SVG drawing", "draw it as PNG"),
    (b"<!doctype html", "a web page, as downloads leave it that failed", None),
    (b"<html", "a web page, as downloads leave it that failed", None),
    (b"<?xml", "an XML file", None),
    (b"{", "a text file", None),
)
"""The same for text, after blanks and in lower case."""

_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


def is_heif(data: bytes) -> bool:
    """Return whether a file is HEIC or HEIF, coded in HEVC."""
    if data[4:8] != b"ftyp":
        return False
    brands = data[8 : max(12, min(int.from_bytes(data[:4], "big"), 256))]
    found = {brands[start : start + 4] for start in range(0, len(brands), 4)}
    return data[8:12] in _HEIF_BRANDS or (data[8:12] in (b"mif1", b"msf1") and not {b"avif", b"avis"} & found)


def not_an_image(data: bytes) -> ImageError:
    """Return the error for a file that no decoder accepts: what it is, and what to do."""
    what = "not an image in any format that is read"
    directory = read_directory(data)
    for place, magic, kind, do in _KINDS:
        if data[place : place + len(magic)] == magic:
            return ImageError(what, found=kind, do=do)
    if directory is not None:
        return ImageError("not an image that is read", expected="grey or RGB of 8 or 16 bits", found=directory)
    beginning = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for text, kind, do in _TEXTS:
        if beginning.startswith(text):
            return ImageError(what, found=kind if b"<svg" not in beginning else "an SVG drawing", do=do)
    return ImageError(what)

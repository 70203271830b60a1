"""Everything a feature value depends on: one frozen record, its canonical JSON, and its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Final

from permafrost.errors import VersionError

MEANING: Final = 1
"""Raise it when the meaning of any field below changes, so that features cached under another meaning are not used."""

DECODING: Final = "rgb8-exif-1"
"""The decoding rule, `images.decoding`."""

RESIZING: Final = "pillow-bilinear-antialias-1"
"""The resizing rule, `images.resizing`."""

DESCRIPTION: Final = ("base", "weights_source", "cut", "shapes")
"""Fields for people; they are not part of the digest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkSpec:
    """Everything a feature value depends on, and a description for people.

    A new field needs a default. If features depend on it, every digest changes and all features are computed again;
    stores without it are recognised as those of another version.

    Attributes:
        architecture: SHA-256 of the trunk's graph and layer settings, without layer names.
        weights: SHA-256 of the trunk's weights, without the name of their file.
        preprocessing: how pixels from 0 to 255 become the base's input; see `preprocessing.RULES`.
        image_size: height and width in pixels of the trunk's input.
        pooling: `none`, `avg` or `max`, over height and width.
        precision: the dtype that the trunk computes in: `float32` or `bfloat16`.
        dtype: the dtype that features are stored in: `float32` or `float16`.
        augmentation: how augmented views are made (`augmentation.Augmentation.rule`); empty for the images themselves,
            which do not depend on it.
        decoding, resizing, meaning: the rules in force; see the constants above.
        base: the base's name, e.g. `inception_v3`.
        weights_source: `imagenet`, `bundled`, `none`, or the file's name.
        cut: the layer whose output is cached, e.g. `mixed7`.
        shapes: the shape of each tensor of one image's features, e.g. `((7, 7, 768),)`.
    """

    architecture: str
    weights: str
    preprocessing: str
    image_size: tuple[int, int]
    pooling: str
    precision: str
    dtype: str
    base: str
    weights_source: str
    cut: str
    shapes: tuple[tuple[int, ...], ...]
    augmentation: str = ""
    decoding: str = DECODING
    resizing: str = RESIZING
    meaning: int = MEANING

    @property
    def digested_fields(self) -> dict[str, Any]:
        """The fields that features depend on and that the digest covers, by name."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in DESCRIPTION}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of `digested_fields`, 64 hex digits."""
        return hashlib.sha256(canonical_json(self.digested_fields)).hexdigest()

    @property
    def key(self) -> str:
        """The first 12 hex digits of the digest; the name of the store's folder ends with them."""
        return self.digest[:12]

    @property
    def folder_name(self) -> str:
        """`<name>-<key>`, in characters that every file system allows."""
        name = f"{self.base}-{self.cut}" + ("" if self.pooling == "none" else f"-{self.pooling}")
        name += "-views" if self.augmentation else ""
        return f"{portable_name(name)}-{self.key}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any], *, digest: str | None = None) -> TrunkSpec:
        """Return the record that `to_json` described.

        Args:
            fields: the JSON object.
            digest: the digest that was recorded with it. If the known fields have that digest, fields for people may
                be missing or unknown: other versions may have others.

        Raises:
            VersionError: fields are missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in fields.items() if name in names}
        if set(fields) != names and (digest is None or not _has_digest(cls, known, digest)):
            raise VersionError(
                "the description of a trunk does not have the fields of this version",
                expected=", ".join(sorted(names)),
                found=", ".join(sorted(fields)),
            )
        return cls._from_fields(known)

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> TrunkSpec:
        size, shapes = tuple(fields["image_size"]), tuple(tuple(shape) for shape in fields["shapes"])
        return cls(**fields | {"image_size": size, "shapes": shapes})


def _has_digest(cls: type[TrunkSpec], fields: dict[str, Any], digest: str) -> bool:
    """Return whether a record with these fields, and defaults for the others, has this digest."""
    try:
        return cls._from_fields(fields).digest == digest
    except (KeyError, TypeError):  # A field without a default is missing.
        return False


def portable_name(text: str) -> str:
    """Return `text` in at most 80 characters that every file system allows."""
    return "".join(c if c.isalnum() or c in "._=" else "-" for c in text)[:80]


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys, without spaces, in ASCII: equal values give equal bytes.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value has no JSON form; its `repr` is never used.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def first_difference(expected: TrunkSpec, found: TrunkSpec) -> tuple[str, Any, Any] | None:
    """Return the first field in which two trunks differ, those that mean most to people first.

    Returns:
        The field's name and both values; None if both trunks give the same features.
    """
    if expected.digest == found.digest:
        return None
    order = ("base", "cut", "pooling", "image_size", "precision", "dtype", "preprocessing", "weights", "architecture")
    rest = [field.name for field in dataclasses.fields(TrunkSpec) if field.name not in order + DESCRIPTION]
    for name in (*order, *rest):
        left, right = getattr(expected, name), getattr(found, name)
        if left != right:
            return name, left, right
    return None

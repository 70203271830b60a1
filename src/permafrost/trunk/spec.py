"""What decides a feature: one frozen record, its canonical JSON, and its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Final

from permafrost.errors import SetError

MEANING: Final = 1
"""Raised when the meaning of any field below changes, so that features kept under the old meaning are not used."""

DECODING: Final = "rgb8-exif-1"
"""The decoding rule, `images.decode`."""

RESIZING: Final = "pillow-bilinear-antialias-1"
"""The resizing rule, `images.resize`."""

DESCRIPTION: Final = ("base", "weights_source", "cut", "shapes")
"""Fields that only say in people's words what others decide; they are not part of the digest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkSpec:
    """All that decides a feature, and a description for people.

    Attributes:
        architecture: SHA-256 of the trunk's graph and layer settings, without layer names.
        weights: SHA-256 of the trunk's weights, without the name of their file.
        preprocessing: how pixels from 0 to 255 become the base's input; see `preprocessing.RULES`.
        image_size: height and width in pixels at which the trunk sees each image.
        pooling: `none`, `avg` or `max`, over height and width.
        precision: what the trunk computes in: `float32` or `bfloat16`.
        dtype: what features are stored in: `float32` or `float16`.
        augmentation: how augmented views are made (`augmentation.Augmentation.rule`); empty for images themselves,
            whose features it does not decide.
        decoding, resizing, meaning: the rules in force; see the constants above.
        base: the base's name, e.g. `inception_v3`.
        weights_source: `imagenet`, `bundled`, `none`, or the file's name.
        cut: the layer whose output is kept, e.g. `mixed7`.
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
    def deciding(self) -> dict[str, Any]:
        """The fields that decide a feature, by name."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in DESCRIPTION}

    @property
    def digest(self) -> str:
        """SHA-256 of the deciding fields' canonical JSON, 64 hex digits."""
        return hashlib.sha256(canonical_json(self.deciding)).hexdigest()

    @property
    def key(self) -> str:
        """The first 12 hex digits of the digest: the end of the store's folder name."""
        return self.digest[:12]

    @property
    def folder_name(self) -> str:
        """`<name>-<key>`, the name in characters that every file system takes."""
        name = f"{self.base}-{self.cut}" + ("" if self.pooling == "none" else f"-{self.pooling}")
        name += "-views" if self.augmentation else ""
        return "".join(c if c.isalnum() or c in "._=" else "-" for c in name)[:80] + f"-{self.key}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes an equal record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> TrunkSpec:
        """The record that `to_json` described.

        Raises:
            SetError: fields are missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            raise SetError(
                "the description of a trunk does not have the fields of this version",
                expected=", ".join(sorted(names)),
                found=", ".join(sorted(fields)),
            )
        return cls(
            **{
                **fields,
                "image_size": tuple(fields["image_size"]),
                "shapes": tuple(tuple(shape) for shape in fields["shapes"]),
            }
        )


def canonical_json(value: Any) -> bytes:
    """`value` as JSON with sorted keys, no spaces, ASCII only: equal values give equal bytes.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value has no JSON form; nothing is hashed by its `repr`.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def first_difference(expected: TrunkSpec, found: TrunkSpec) -> tuple[str, Any, Any] | None:
    """The first field, in the order that means most to people, in which two trunks that differ do so.

    Returns:
        The field's name and both values, or None where both trunks give the same features.
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

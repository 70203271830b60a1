"""Numbers of bytes as text, and text as numbers of bytes."""

from __future__ import annotations

import pytest

from permafrost.errors import OptionError
from permafrost.units import parse_size, size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("20", 20),
        (20, 20),
        ("20B", 20),
        ("20kB", 20_000),
        ("20K", 20_000),
        ("500 MB", 500 * 10**6),
        ("20GB", 20 * 10**9),
        ("20gb", 20 * 10**9),
        ("20G", 20 * 10**9),
        ("20g", 20 * 10**9),
        ("20GiB", 20 * 2**30),
        ("20Gi", 20 * 2**30),
        (" 20 gib ", 20 * 2**30),
        ("4KiB", 4096),
        ("1.5TiB", 3 * 2**39),
        ("1.5T", 1_500_000_000_000),
        (".5k", 500),
        ("1.", 1),
    ],
)
def test_a_size_has_decimal_or_binary_units_in_any_case(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "much", "GB", "-1", "1,5GB", "20 XB", "20iB", "20i", "1e9", "inf", "20GBs", ".", "٣"]
)
def test_text_that_is_not_a_size_is_refused(text):
    with pytest.raises(OptionError, match=r"^not a number of bytes; expected a number such as 20GB or 20GiB, found"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2 * 10**9, "2.0 GB"), (5 * 10**15, "5000.0 TB")]
)
def test_a_number_of_bytes_is_shown_with_a_decimal_unit(count, text):
    assert size(count) == text

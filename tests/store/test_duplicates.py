"""Duplicates in a feature set."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from permafrost.store.duplicates import describe_duplicates, find_duplicates
from samples import WHOLE_SPEC, make_content, make_rows


@given(st.lists(st.integers(0, 5), max_size=20), st.booleans())
def test_duplicates_are_the_rows_of_each_digest_that_occurs_more_than_once(contents, same_prefix):
    digests = np.zeros((len(contents), 32), np.uint8)
    digests[:, 31 if same_prefix else 0] = contents

    found = find_duplicates(digests)

    groups = {value: [row for row, other in enumerate(contents) if other == value] for value in contents}
    assert [rows.tolist() for rows in found] == [rows for rows in groups.values() if len(rows) > 1]


def test_the_report_lists_those_in_several_splits_or_under_several_labels():
    rows = make_rows(WHOLE_SPEC, 8)
    rows.digests[[2, 5]] = rows.digests[0], rows.digests[1]  # Across splits; harmless.
    rows.digests[7] = rows.digests[4]  # Across labels.
    content = make_content(rows, ("0" * 32 + ".h5",), np.zeros((8, 2), np.int64))

    report = describe_duplicates(content)

    assert (report["images"], report["across_splits"], report["across_labels"]) == (3, 1, 1)
    assert [[image["path"] for image in group] for group in report["groups"]] == [
        ["a/0.jpg", "a/2.jpg"],
        ["a/4.jpg", "b/7.jpg"],
    ]
    assert report["groups"][0][1] == {"path": "a/2.jpg", "split": "validation", "label": "a"}

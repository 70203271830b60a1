"""What was skipped, counted by reason."""

from __future__ import annotations

from permafrost.images.skipped import commonest, what_was_found


def test_the_commonest_reason_comes_first_with_an_example():
    skipped = [("a", "hidden"), ("b.txt", "not an image (.txt)"), ("c.txt", "not an image (.txt)")]

    assert commonest(skipped) == [("not an image (.txt)", 2, "b.txt"), ("hidden", 1, "a")]
    assert what_was_found(skipped) == "3 other entries, 2 of them: not an image (.txt), such as b.txt"
    assert what_was_found(skipped[1:]) == "2 other entries, all of them: not an image (.txt), such as b.txt"
    assert what_was_found(skipped[:1]) == "1 other entry: hidden, a"
    assert what_was_found([]) == "none"

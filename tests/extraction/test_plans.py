"""What `extract --dry-run` counts, and that it writes nothing."""

from __future__ import annotations

import os
import shutil

from permafrost.extraction.extract import Extraction
from permafrost.extraction.options import ExtractOptions
from samples import write_photos

pytest_plugins = ["upper"]


def plan(data, **options):
    return Extraction(data, ExtractOptions(progress=False, **options)).plan()


def test_a_plan_counts_right_and_writes_nothing(take, own_photos, tiny_base, tmp_path):
    out = tmp_path / "features" / "set.h5"
    options = {"base": str(tiny_base), "pool": "avg", "out": out}
    shutil.copy(own_photos / "dots" / "dots-000.png", own_photos / "dots" / "copy.png")
    (own_photos / "dots" / "notes.txt").write_bytes(b"mine")

    (before,) = plan(own_photos, **options)

    assert not (tmp_path / "features").exists()
    assert (before.images, before.compute, before.cached, before.skipped) == (19, 18, 1, 1)
    assert before.bytes == 18 * (16 * 4 + 44)
    assert before.seconds > 0
    assert before.shape == (16,)
    features = take(own_photos)
    assert (before.set, before.store) == (str(out), str(features.store.folder))


def test_a_plan_for_a_folder_that_grew_counts_only_what_is_new(take, own_photos, tiny_base, tmp_path):
    features = take(own_photos)
    write_photos(own_photos, per_class=1, first=60)
    files = {path: path.stat().st_mtime_ns for path in features.path.parent.rglob("*")}

    (after,) = plan(own_photos, base=str(tiny_base), pool="avg", out=features.path)

    assert (after.images, after.compute, after.cached, after.skipped) == (21, 3, 18, 0)
    assert {path: path.stat().st_mtime_ns for path in features.path.parent.rglob("*")} == files


def test_a_plan_of_several_cuts_has_one_each(photos, tiny_base, tmp_path):
    plans = plan(photos, base=str(tiny_base), cut=["stem", "top"], out=tmp_path / "set.h5")

    assert [(each.compute, each.shape) for each in plans] == [(18, (16, 16, 8)), (18, (8, 8, 16))]
    assert [os.path.basename(each.set) for each in plans] == ["set-stem.h5", "set-top.h5"]
    assert os.listdir(tmp_path) == []

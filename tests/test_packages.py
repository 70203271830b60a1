"""The packages import each other in one direction, `import permafrost` stays light, public names have docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import permafrost

SOURCE = Path(permafrost.__file__).parent
ORDER = [
    "errors",
    "machine",
    "locks",
    "atomic",
    "units",
    "options",
    "progress",
    "threads",
    "process_state",
    "keras_state",
    "images",
    "trunk",
    "engines",
    "store",
    "extraction",
    "training",
    "model",
    "heads",
    "finetuning",
    "cli",
    "__main__",
]
"""A package may import those before it, never one after it."""

HEAVY = ["tensorflow", "keras", "sklearn", "h5py", "matplotlib", "numpy", "PIL"]
FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Return a file's module without `permafrost.`, e.g. `engines.keras_engine`; empty for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_bytes()) for path in FILES}


def package_of(module: str) -> str:
    return module.split(".")[0]


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree: ast.AST, *, types: bool) -> Iterator[str]:
    """Yield the modules of this package that a file imports, anywhere in it."""
    for node in ast.iter_child_nodes(tree):
        if for_types(node) and not types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            # `from permafrost.x import y` may mean the module `x.y`.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            yield from imports_of(node, types=types)
            continue
        for name in names:
            package, _, rest = name.partition(".")
            while package == "permafrost" and rest and rest not in MODULES:
                rest = rest.rpartition(".")[0]
            if package == "permafrost":
                yield rest


def test_every_package_has_a_place_in_the_order():
    assert {package_of(module) for module in MODULES} - {""} <= set(ORDER)
    assert len(MODULES) > 15


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_a_module_imports_only_earlier_packages(module):
    place = ORDER.index(package_of(module))

    for imported in imports_of(MODULES[module], types=False):
        if not imported:  # Only the top may `import permafrost` as a user does.
            assert package_of(module) in ("cli", "__main__")
            continue
        assert package_of(imported) == package_of(module) or ORDER.index(package_of(imported)) < place, imported


def test_there_are_no_import_cycles_not_even_for_types():
    # The package itself only names its modules for type checkers.
    graph = {
        module: {name for name in imports_of(tree, types=True) if name and name != module}
        for module, tree in MODULES.items()
        if module
    }
    while leaves := [module for module, imported in graph.items() if not imported & set(graph)]:
        for leaf in leaves:
            del graph[leaf]

    assert graph == {}


def test_the_package_itself_imports_its_modules_only_for_types():
    assert list(imports_of(MODULES[""], types=False)) == []


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy():
    assert run(f"import sys, permafrost; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_the_public_names_are_pinned_and_exist():
    # Removing or redefining a name breaks programs.
    assert sorted(permafrost.__all__) == [
        "FeatureExtractor",
        "FeatureSet",
        "Run",
        "evaluate",
        "extract",
        "finetune",
        "fit_head",
        "open_features",
        "open_run",
        "predict",
    ]
    assert set(permafrost.__all__) <= set(dir(permafrost))
    for name in permafrost.__all__:
        assert callable(getattr(permafrost, name)), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'permafrost' has no attribute 'extrct'"):
        _ = permafrost.extrct


WITHOUT_KERAS = """
    import sys

    for name in ("keras", "tensorflow", "jax", "torch", "sklearn"):
        sys.modules[name] = None  # Importing it raises ImportError from here on.

    from pathlib import Path

    import numpy as np
    from samples import WHOLE_SPEC, make_content, make_rows, write_photos

    from permafrost.store.description import describe_set
    from permafrost.store.feature_set import open_features
    from permafrost.store.set_file import write_set
    from permafrost.images.splitting.assignment import assign_splits
    from permafrost.images.splitting.units import connect_images
    from permafrost.store.shard import digest_rows
    from permafrost.images.dataset import read_dataset
    from permafrost.images.decoding import decode_resized, read_file
    from permafrost.store.row_index import RowAddress, RowIndex, place_rows
    from permafrost.store.store import Store

    folder = Path(sys.argv[1])
    dataset = read_dataset(write_photos(folder / "photos", per_class=2))
    loaded = [dataset.image(index).load() for index in range(len(dataset))]
    digests = digest_rows([image.digest for image in loaded])
    assert len(assign_splits(connect_images(digests), dataset.splits, dataset.labels)) == len(dataset)
    assert decode_resized(read_file(dataset.image(0).path), (8, 8)).shape == (8, 8, 3)

    rows = make_rows(WHOLE_SPEC, len(dataset))
    store = Store.create(folder / "store", WHOLE_SPEC, about={})
    shard = store.append(rows, engine="none")
    addresses = [RowIndex(store).find(digest.tobytes()) for digest in rows.digests]
    assert addresses == [RowAddress(shard, row) for row in range(len(rows))]
    write_set(folder / "set.h5", make_content(rows, *place_rows(addresses)))
    features = open_features(folder / "set.h5")
    assert np.array_equal(features.arrays()[0], rows.features[0])
    assert describe_set(features)["images"] == sum(len(labels) for _, labels in features.batches(batch_size=4))
    print(features.spec.key, [name for name in ("keras", "tensorflow") if sys.modules[name]])
"""


def test_datasets_stores_and_sets_work_without_keras(tmp_path):
    assert run(WITHOUT_KERAS, str(tmp_path)) == "06d0810972ad []"


def public(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield the public functions, classes and methods of a file, by name; tests are described by their names."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, kinds) and not node.name.startswith(("_", "test_")):
            yield f"{within}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_public_name_has_a_docstring(module):
    tree = MODULES[module]

    assert ast.get_docstring(tree), "the module itself"
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []

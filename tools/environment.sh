# Source this with $root set. Makes $root/.venv with this project in it, and again if pyproject.toml has changed.
# It prints only to standard error, so that the output of the command stays clean.

permafrost_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "permafrost: no Python 3.11 or newer on the PATH. Install one, or set PYTHON" >&2
    return 2
}

if ! cmp -s "$root/pyproject.toml" "$root/.venv/installed-for.toml"; then
    python=$(permafrost_python) || exit 2
    echo "permafrost: making the environment $root/.venv (a minute or two, once)" >&2
    "$python" -m venv "$root/.venv" >&2
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[test]" >&2
    # Last, so that an interrupted installation starts again.
    cp "$root/pyproject.toml" "$root/.venv/installed-for.toml"
fi

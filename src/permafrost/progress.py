"""Progress bars: on standard error if it is a terminal, or in a notebook; nowhere else."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(*, total: int | None, unit: str, shown: bool = True, **settings: Any) -> Any:
    """Return a tqdm bar that disappears when it is closed.

    Args:
        total: number of steps; None if unknown.
        unit: what a step is, e.g. ` images`.
        shown: False draws nothing.
        **settings: further arguments of `tqdm.tqdm`.
    """
    notebook = in_notebook()
    if notebook:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm  # `tqdm.auto` loads asyncio too.

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # Otherwise the first bar starts a thread that never ends.

    # None draws only to a terminal, and a notebook's output is not one.
    disable = (False if notebook else None) if shown else True
    # With `miniters` each step looks at the clock, which is what that thread makes up for.
    return Bar(total=total, unit=unit, disable=disable, leave=False, dynamic_ncols=True, miniters=1, **settings)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config

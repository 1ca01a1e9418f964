"""Every figure of the project, drawn from plain arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure to `path` (its suffix gives the format) and frees it.

    The picture is written beside its place and then renamed, so a reader never sees half of one.

    Args:
        figure: A matplotlib `Figure`, as every function of this module returns.
        path: The file, for instance `"lr_curve.png"`.
    """
    import matplotlib.pyplot as plt

    path = Path(path)
    aside = path.with_name(f".{path.stem}.partial{path.suffix}")
    figure.savefig(aside, dpi=120, bbox_inches="tight")
    aside.replace(path)
    plt.close(figure)

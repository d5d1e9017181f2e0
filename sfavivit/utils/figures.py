"""Pictures drawn by matplotlib."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_bytes(figure: Figure, file_format: str) -> bytes:
    """Return a figure as the content of a file; characters that the font lacks are drawn as boxes."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(picture, format=file_format)
    return picture.getvalue()

"""Arrays that pass between the rooms of the library, with one meaning each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of any dtype."""

Frames = NDArray[np.uint8]
"""RGB frames, uint8 [..., H, W, 3]."""

Features = NDArray[np.float32]
"""Features of tubelets, float32 [..., T, D]: output of the frozen spatial transformer."""

Logits = dict[str, NDArray[np.float32]]
"""Logits of each output of a head: {output: float32 [..., C]}."""

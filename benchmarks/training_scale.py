"""The settings of the training table; light, since the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How much is trained, and how fast: videos, epochs on 128 frames and on 8, and peak learning rates.

    The paper has 30 epochs of either; a third of those on 8 frames are its 10. ``validation``: judge by the
    videos that these numbers were chosen with, and by seeds of their own, rather than by what is held out.

    The rates are the best there in top-1, then in the near-peak epoch, with a seed or two each: of a whole
    model on 128 frames, of 0.0005, 0.001 and 0.002, at which it learned nothing; on 8 frames, of 0.0003 and
    0.001, which cost SFA C three points; of what is not frozen, of 0.001, 0.003 and 0.006, which all led to
    100%. They were chosen for models that start from images, not for the one that does not.
    """

    training: int = 400
    held_out: int = 200
    epochs: int = 12
    short_epochs: int = 12
    short_rate: float = 0.0003
    full_rate: float = 0.001
    frozen_rate: float = 0.003
    pictures: int = 16384
    image_epochs: int = 8
    validation: bool = False

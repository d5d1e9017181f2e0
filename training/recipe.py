"""The two stages of SFA-ViViT (arXiv 2306.04822): the whole model on few frames, then all but the spatial
half on many.

    stage I    frames [B, few, H, W, 3] ── spatial ── temporal ── loss          every weight learns
    between    with_adapter, resize_frames, freeze_spatial
    stage II   frames ── spatial ──► features [N, T, D]                         once, without gradients
               features ── adapter, temporal ── loss                            spatial weights stay
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from sfavivit.dimensions import AdapterDimensions
from sfavivit.model import SfaVivit

Batch = TypeVar("Batch")
RUNNING_MEAN = 0.98


class Progress(Protocol):
    """Called after each step with the steps done and, in training, running means of loss and accuracy."""

    def __call__(self, done: int, loss: float | None = None, accuracy: float | None = None) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """AdamW with linear warm-up and cosine decay to zero."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0

    def scaled(self, share: float) -> Self:
        """The same with a share of the steps."""
        return replace(self, steps=max(1, round(share * self.steps)))

    def learning_rate_at(self, step: int) -> float:
        """Of step 0, 1 ... ``steps`` - 1."""
        warmup = min(1.0, (step + 1) / max(1, min(self.warmup_steps, self.steps // 10)))
        return self.learning_rate * warmup * (1 + math.cos(math.pi * step / self.steps)) / 2


def optimise(
    parameters: Iterable[nn.Parameter],
    batches: Iterable[Batch],
    loss_and_accuracy: Callable[[Batch], tuple[Tensor, Tensor]],
    schedule: Schedule,
    progress: Progress,
) -> tuple[float, float]:
    """Take ``schedule.steps`` steps, or fewer if the batches end; the final running loss and accuracy."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    loss_mean = accuracy_mean = 0.0
    for step, batch in zip(range(schedule.steps), batches, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate_at(step)
        loss, accuracy = loss_and_accuracy(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learned, schedule.clip_norm)
        optimiser.step()
        kept = min(RUNNING_MEAN, step / (step + 1))
        loss_mean = kept * loss_mean + (1 - kept) * loss.item()
        accuracy_mean = kept * accuracy_mean + (1 - kept) * accuracy.item()
        progress(step + 1, loss_mean, accuracy_mean)
    return loss_mean, accuracy_mean


def stage_two_model(model: SfaVivit, frames: int, adapter: AdapterDimensions) -> SfaVivit:
    """The stage I model with an adapter that starts as the identity, positions for ``frames`` frames, and
    its spatial half frozen.

    Raises:
        ValueError: the model has an adapter already, or ``frames`` is no multiple of the tubelet length.
    """
    if model.dims.adapter is not None:
        raise ValueError(f"stage II inserts the adapter, but the model has one already: {model.dims.adapter}")
    extended = SfaVivit(replace(model.dims, adapter=adapter))
    loaded = extended.load_state_dict(model.state_dict(), strict=False)
    assert all(name.startswith("temporal.adapter.") for name in loaded.missing_keys), loaded
    return extended.resize_frames(frames).freeze_spatial()


@torch.no_grad()
def spatial_features(model: SfaVivit, batches: Iterable[Tensor]) -> Tensor:
    """uint8 batches [b, F, H, W, 3] -> float32 [N, F / t, D], all batches in a row."""
    return torch.cat([model.spatial(frames) for frames in batches])


def fastest_dtype(run: Callable[[], Tensor], candidates: Sequence[torch.dtype]) -> torch.dtype:
    """The autocast type in which ``run`` and its gradients take the least time on this machine.

    bfloat16 is three times as fast as float32 on CPUs that multiply it, and ten times slower on those that
    emulate it, so it is measured.
    """

    def seconds(dtype: torch.dtype) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = run()
        loss.backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start

    return min(candidates, key=lambda dtype: min(seconds(dtype) for _ in range(2)))

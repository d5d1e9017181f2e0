"""What a run computes on, through Lightning Fabric."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.fsdp import FSDPStrategy
from torch import Tensor

from sfavivit.errors import UsageError
from sfavivit.models.vivit import Block

Strategy = Literal["auto", "ddp", "fsdp"]
# Not fp16: its loss scale would be one more state to keep.
Precision = Literal["32-true", "bf16-mixed"]


def make_fabric(
    accelerator: str = "cpu",
    devices: int = 1,
    nodes: int = 1,
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
) -> Fabric:
    """Not launched yet; one process if nothing else is said. ``devices`` of each node; 0 for all there are.

    Raises:
        UsageError: devices that this machine does not have, or a strategy that cannot be on them.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    sharded = (
        FSDPStrategy(auto_wrap_policy={Block}, state_dict_type="full") if strategy == "fsdp" else strategy
    )
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices or "auto",
            num_nodes=nodes,
            strategy=sharded,
            precision=precision,
        )
    except Exception as error:  # Fabric has no error of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"cannot train with --accelerator {accelerator} --devices {devices} --strategy {strategy}: "
            f"{reason:.200}"
        ) from None


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

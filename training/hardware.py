"""Devices, strategy and precision of a run, through Lightning Fabric."""

from __future__ import annotations

import logging

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.fsdp import FSDPStrategy

from sfavivit.engines.device import Device
from sfavivit.engines.torch import working_device
from sfavivit.errors import UsageError
from sfavivit.models.vivit import Block
from sfavivit.utils.cpus import available_cpus
from training.config import Precision, Strategy


def make_fabric(
    device: Device = "cpu",
    devices: int = 1,
    nodes: int = 1,
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
) -> Fabric:
    """Return a Fabric that is not launched yet; ``devices`` are per node, 0 for all of them.

    Raises:
        EngineError: PyTorch cannot use the device.
        UsageError: this machine lacks the devices, or the strategy does not run on them.
    """
    torch.set_num_threads(available_cpus())  # PyTorch itself knows of no CPU quota
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    sharded = (
        FSDPStrategy(auto_wrap_policy={Block}, state_dict_type="full") if strategy == "fsdp" else strategy
    )
    accelerator = working_device(device).type
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices or "auto",
            num_nodes=nodes,
            strategy=sharded,
            precision=precision,
        )
    except Exception as error:  # Fabric has no error class of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"cannot train with --device {accelerator} --devices {devices} --strategy {strategy}: "
            f"{reason:.200}"
        ) from None

"""Support of the training tests: a toy recipe, small videos of two motions, batches and a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfavivit.models.vivit import SfaVivit
from tests.video_files import encode
from training.clips import Clip, ClipBatch
from training.config import OptimiserConfig, Recipe, load_recipe
from training.hardware import make_fabric
from training.optimiser import Schedule
from training.trainer import Trainer

FPS = 12.5
RECIPE = """
name = "toy"
model = { size = "tiny", hidden_size = 32, patch_size = 16, spatial_layers = 2, temporal_layers = 2, \
outputs = { "" = 2 } }
sampling = { fps = 12.5, shortest_side = 36, crop_size = 32 }
optimiser = { learning_rate = 0.05, epochs = 2, batch_size = 4, warmup_epochs = 0.5 }

[[stages]]
name = "stage1"
frames = 4
spatial = "random"
temporal = "random"

[[stages]]
name = "stage2"
frames = 16
frozen = true
adapter = true
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Here and in processes started here: threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


def toy_recipe(folder: Path, *settings: str) -> Recipe:
    """A tiny model, 2 steps an epoch on the 8 videos of ``motion_list``."""
    return load_recipe(str(recipe_file(folder)), settings)


def recipe_file(folder: Path) -> Path:
    path = folder / "toy.toml"
    path.write_text(RECIPE)
    return path


def motion_list(folder: Path, videos: int = 8) -> Path:
    """A CSV of videos in which a square moves left or right; 20 frames each, 64 x 48."""
    rng = np.random.default_rng(0)
    lines = ["video,label"]
    for index in range(videos):
        frames = np.empty((20, 48, 64, 3), np.uint8)
        frames[:] = rng.integers(0, 100, 3)
        start = int(rng.integers(57))
        for moment, frame in enumerate(frames):
            left = (start + (3 if index % 2 else -3) * moment) % 57
            frame[20:28, left : left + 7] = 220
        encode(folder / f"{index}.mp4", frames, fps=FPS)
        lines.append(f"{index}.mp4,{'right' if index % 2 else 'left'}")
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def batch(clips: int = 4, frames: int = 16, outputs: tuple[str, ...] = ("",)) -> ClipBatch:
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (clips, frames, 32, 32, 3), dtype=torch.uint8, generator=rng)
    return ClipBatch(
        [
            Clip(pictures[k], dict.fromkeys(outputs, k % 2), 0.1 + 0.2 * k, valid=True, broken=())
            for k in range(clips)
        ]
    )


def cpu_trainer(module: torch.nn.Module, **config: Any) -> Trainer:
    fabric = make_fabric()
    optimiser = OptimiserConfig(learning_rate=0.1, epochs=1, batch_size=4, **config)
    return Trainer(fabric, module, optimiser, Schedule(10, 0), seed=0)


def kept_by_spatial_half(model: SfaVivit, run: Callable[[], object]) -> int:
    """Tensors that autograd keeps while the spatial half computes."""
    within, kept = False, 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += within
        return tensor

    def enter(*_: object) -> None:
        nonlocal within
        within = True

    def leave(*_: object) -> None:
        nonlocal within
        within = False

    hooks = [model.spatial.register_forward_pre_hook(enter), model.spatial.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    for hook in hooks:
        hook.remove()
    return kept

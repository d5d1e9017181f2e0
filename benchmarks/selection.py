"""Time and accuracy of new heads that learn from selected tubelets, on the videos of ``new_head``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.command_options import DEMO_MODEL, HeldOutVideos, Ints, ModelRepository, Out, TrainingVideos
from benchmarks.figures import RESULTS, Case, Figure, Row, report
from benchmarks.measuring import timed
from benchmarks.new_head import HELD_OUT_SEED, TRAINING_SEED, StoredVideos, write_videos
from sfavivit.features.store import FeatureStore
from sfavivit.inference.windows import PADDING, all_windows
from sfavivit.models.vivit import TemporalTransformer
from sfavivit.repository.manifest import Repository
from training.head.config import HeadRecipe, Selector
from training.head.features import FeatureCache
from training.head.model import head_of, new_head
from training.head.selection import SELECTORS, selected_logits
from training.head.train import train_head, training_steps


def command(
    tubelets: Annotated[
        Ints, typer.Option(min=1, help="Tubelets selected from a window; repeatable (default: 32, 16, 8).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of heads of each kind, one a round.")] = 3,
    videos: TrainingVideos = 50,
    held_out: HeldOutVideos = 100,
    repository: ModelRepository = DEMO_MODEL,
    out: Out = RESULTS,
) -> None:
    """Compare new heads that learn from some tubelets of each window with one that learns from all.

    Heads for synthetic motions are trained on stored features; measured are a step and top-1.
    """
    start = head_of(Repository.load(repository), "default")
    plans: list[tuple[Selector, int | None]] = [("novelty", None)]
    plans += [(selector, count) for count in tubelets or (32, 16, 8) for selector in SELECTORS]
    samples: list[list[tuple[float, float, float]]] = [[] for _ in plans]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = FeatureStore(folder / "store")
        training = StoredVideos(repository, write_videos(folder / "training", videos, TRAINING_SEED), store)
        judged = StoredVideos(repository, write_videos(folder / "held_out", held_out, HELD_OUT_SEED), store)
        cache = FeatureCache(store, 1 << 30)
        for seed in range(seeds):
            for (selector, count), of_plan in zip(plans, samples, strict=True):
                recipe = HeadRecipe(seed=seed, select=count, selector=selector)
                head = new_head(start.dims, {"": len(training.names[""])}, recipe, start)
                seconds = timed(
                    partial(train_head, head, training.examples, cache, recipe, progress=lambda *_: None)
                )
                step = seconds / training_steps(recipe, len(training.examples))
                top1s = [_top1(head, judged, cache, wanted, selector) for wanted in (None, count)]
                of_plan.append((1000 * step, top1s[0], top1s[1]))
    rows = []
    for (selector, count), of_plan in zip(plans, samples, strict=True):
        steps, whole, selected = zip(*of_plan, strict=True)
        case: Case = {
            "videos": videos,
            "held-out videos": held_out,
            "selector": selector if count else "all",
            "tubelets": count or start.dims.max_tubelets,
        }
        figures = {
            "step": Figure("ms", "lower", steps),
            "top-1, whole windows": Figure("share", "higher", whole),
            "top-1, selected tubelets": Figure("share", "higher", selected),
        }
        rows.append(Row(case, figures))
    report("selection", rows, out)


@torch.inference_mode()
def _top1(
    head: TemporalTransformer, data: StoredVideos, cache: FeatureCache, count: int | None, selector: Selector
) -> float:
    """Return the top-1 of the mean logits over the windows of a video, with ``count`` tubelets of each."""
    length, right = head.dims.max_tubelets, 0
    for example in data.examples:
        features = cache.get(example.keys[0])
        windows = [
            PADDING["loop"](features[window.start : window.stop], length)
            for window in all_windows(len(features), length, length // 8)
        ]
        batch = torch.from_numpy(np.stack(windows))
        outputs = selected_logits(head, batch, SELECTORS[selector](batch, count)) if count else head(batch)
        right += int(outputs[""].mean(0).argmax()) == example.labels[""]
    return right / len(data.examples)

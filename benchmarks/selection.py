"""What frame selection saves and costs a new head, on the videos of ``benchmarks.new_head``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import Case, Figure, Row
from benchmarks.new_head import HELD_OUT_SEED, TRAINING_SEED, write_videos
from benchmarks.operations import timed
from sfavivit.datasets import read_items
from sfavivit.features.store import FeatureStore
from sfavivit.inference.windows import PADDING, all_windows
from sfavivit.models.vivit import TemporalTransformer
from sfavivit.repository.manifest import Repository
from training.classes import number_labels
from training.head.config import HeadRecipe, Selector, VariantConfig
from training.head.features import FeatureCache, FeatureFiller
from training.head.lists import head_classes
from training.head.model import head_of, new_head
from training.head.ondemand_engine import open_on_demand
from training.head.selection import SELECTORS, selected_logits
from training.head.train import train_head, training_steps
from training.head.windows import FeatureExample


class _Data:
    """The videos of a list, as features in memory."""

    def __init__(self, repository: Path, listed: Path, store: FeatureStore) -> None:
        items = read_items(str(listed))
        filler = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=2)
        stored, _ = filler.fill(items, [0], lambda _: None)
        self.names = head_classes(items, str(listed))
        numbered = number_labels(items, self.names, str(listed))
        self.examples = [
            FeatureExample(video.keys, one.labels) for video, one in zip(stored, numbered, strict=True)
        ]


def measure(
    repository: Path, folder: Path, *, videos: int, held_out: int, counts: Sequence[int], seeds: int
) -> list[Row]:
    """Heads that learned from all tubelets, and from ``counts`` of them by every selector; a sample a seed.

    ``whole windows``: top-1 as the head is served, on whole windows; ``selected tubelets``: on as many as it
    learned from, which the service does not do.
    """
    store = FeatureStore(folder / "store")
    training = _Data(repository, write_videos(folder / "training", videos, TRAINING_SEED), store)
    judged = _Data(repository, write_videos(folder / "held_out", held_out, HELD_OUT_SEED), store)
    cache = FeatureCache(store, 1 << 30)
    start = head_of(Repository.load(repository), "default")
    plans: list[tuple[Selector, int | None]] = [("novelty", None)]
    plans += [(selector, tubelets) for tubelets in counts for selector in SELECTORS]
    samples: list[list[tuple[float, float, float]]] = [[] for _ in plans]
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
    return rows


@torch.inference_mode()
def _top1(
    head: TemporalTransformer, data: _Data, cache: FeatureCache, count: int | None, selector: Selector
) -> float:
    """Of the mean logits over the windows of a video, as the recognizer takes them; of ``count`` tubelets."""
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

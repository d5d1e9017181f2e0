"""Frame selection on stored features: a head learns from the K most telling tubelets of each window.

Farthest-first traversal (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"): the
tubelet farthest from the mean, then again and again the one farthest from all that were chosen. What is left
out is near something that was kept: no K tubelets cover a window more than twice as closely.

The chosen tubelets keep their own positions, so the head that learned from them takes whole windows when it
is served; selection saves training, and nothing afterwards. All features must be there to choose from.

Measured (``python -m benchmarks selection``): on 32 of 64 tubelets a step takes two thirds of the time and
held-out top-1 falls from 89% to 75%, with even spacing to 82%. So it is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sfavivit.models.vivit import TemporalTransformer, classifier_key

Selector = Literal["novelty", "even"]


@torch.no_grad()
def novel_tubelets(features: Tensor, count: int) -> Tensor:
    """Indices int64 [B, K] into features [B, T, D], rising; K = min(``count``, T)."""
    distance = torch.linalg.vector_norm(features - features.mean(1, keepdim=True), dim=2)
    nearest = torch.full_like(distance, torch.inf)
    chosen = []
    for _ in range(min(count, features.shape[1])):
        index = distance.argmax(1)
        chosen.append(index)
        kept = features.gather(1, index[:, None, None].expand(-1, 1, features.shape[2]))
        nearest = torch.minimum(nearest, torch.linalg.vector_norm(features - kept, dim=2))
        distance = nearest.scatter(1, torch.stack(chosen, 1), -1)  # never one twice, even of equal ones
    return torch.stack(chosen, 1).sort(1).values


def even_tubelets(features: Tensor, count: int) -> Tensor:
    """As ``novel_tubelets``, evenly spaced whatever they show: what a selector must be better than."""
    batch, tubelets, _ = features.shape
    kept = min(count, tubelets)
    indices = (torch.arange(kept, device=features.device) * tubelets + tubelets // 2) // kept
    return indices.expand(batch, kept)


SELECTORS: dict[Selector, Callable[[Tensor, int], Tensor]] = {
    "novelty": novel_tubelets,
    "even": even_tubelets,
}


def selected_logits(temporal: TemporalTransformer, features: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """``temporal`` of the tubelets ``chosen`` [B, K] of features [B, T, D] alone, each at its own position.

    {output: [B, C]}; with all tubelets chosen it is ``temporal(features)``.
    """
    encoder = temporal.encoder
    kept = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[2]))
    cls = (encoder.cls + encoder.pos[:, :1]).expand(len(features), -1, -1)
    x = torch.cat([cls, temporal.adapter(kept) + encoder.pos[0, 1:][chosen]], dim=1)
    for block in encoder.blocks:
        x = block(x)
    out = encoder.norm(x[:, 0])
    return {name: temporal.classifiers[classifier_key(name)](out) for name, _ in temporal.dims.outputs}

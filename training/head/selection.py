"""Selection of the most novel tubelets of a window, to train on fewer.

Farthest-first traversal (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"): the
tubelet farthest from the mean, then repeatedly the one farthest from all that were chosen. No choice of K
tubelets covers a window more than twice as closely.

Chosen tubelets keep their positions, so a head that learned from them is served whole windows. Selection
saves training time and costs accuracy (docs/design/training.md), so it is off by default.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfavivit.models.vivit import TemporalTransformer, classifier_key
from training.head.config import Selector


@torch.no_grad()
def novel_tubelets(features: Tensor, count: int) -> Tensor:
    """Return rising indices int64 [B, K] into features [B, T, D]; K = min(``count``, T)."""
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
    """Return evenly spaced indices, like ``novel_tubelets``: the baseline of a selector."""
    batch, tubelets, _ = features.shape
    kept = min(count, tubelets)
    indices = (torch.arange(kept, device=features.device) * tubelets + tubelets // 2) // kept
    return indices.expand(batch, kept)


SELECTORS: dict[Selector, Callable[[Tensor, int], Tensor]] = {
    "novelty": novel_tubelets,
    "even": even_tubelets,
}


def selected_logits(temporal: TemporalTransformer, features: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Return logits {output: [B, C]} of the tubelets ``chosen`` [B, K] of features [B, T, D].

    Each tubelet keeps its position. With all tubelets chosen it is ``temporal(features)``.
    """
    encoder = temporal.encoder
    kept = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[2]))
    cls = (encoder.cls + encoder.pos[:, :1]).expand(len(features), -1, -1)
    x = torch.cat([cls, temporal.adapter(kept) + encoder.pos[0, 1:][chosen]], dim=1)
    for block in encoder.blocks:
        x = block(x)
    out = encoder.norm(x[:, 0])
    return {name: temporal.classifiers[classifier_key(name)](out) for name, _ in temporal.dims.outputs}

"""Training loss of the paper: cross entropy of clips, with mixup and label smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfavivit.models.vivit import SfaVivit
from training.clips import ClipBatch
from training.config import RegularisationConfig
from training.trainer import StepResult


class ClipLoss(nn.Module):
    """Model and its loss on clips: the sum over the outputs, the mean over the clips.

    Mixup and label smoothing apply in training only. A frozen spatial half stays in evaluation mode, and
    nothing of it is kept for a backward pass.
    """

    def __init__(self, model: SfaVivit, config: RegularisationConfig) -> None:
        super().__init__()
        self.model = model.set_stochastic_depth(config.stochastic_depth)
        self.config = config
        self.frozen = not any(parameter.requires_grad for parameter in model.spatial.parameters())

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.model.spatial.eval()
        return self

    def forward(self, batch: ClipBatch) -> StepResult:
        frames, shares = batch.frames, None
        if self.training and self.config.mixup:
            shares = batch.shares
            frames = mix(frames.float(), shares)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.model.spatial(frames)
        outputs = self.model.temporal(features)
        smoothing = self.config.label_smoothing if self.training else 0.0
        return batch_result(outputs, batch.labels, batch.valid, shares, smoothing)


def batch_result(
    outputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    valid: Tensor,
    shares: Tensor | None,
    smoothing: float,
) -> StepResult:
    """Return loss and correct counts of logits {output: float [B, C]} with labels {output: int64 [B]}.

    The loss is the sum over outputs and the mean over the clips that are ``valid`` (bool [B]). ``correct``
    int64 [1 + outputs] counts the clips that are right in all outputs (EPIC-Kitchens: the action), then in
    each. ``shares`` and ``smoothing`` are those of ``clip_losses``.
    """
    losses = [
        clip_losses(logits.float(), labels[name], shares, smoothing) for name, logits in outputs.items()
    ]
    right = torch.stack([(logits.argmax(1) == labels[name]) & valid for name, logits in outputs.items()])
    correct = torch.cat([right.all(0, keepdim=True), right]).sum(1)
    examples = valid.sum()
    loss = (torch.stack(losses).sum(0) * valid).sum() / examples.clamp(min=1)
    return StepResult(loss, correct, examples)


def mix(values: Tensor, shares: Tensor) -> Tensor:
    """Mix neighbours of a batch float [B, ...] (mixup, arXiv 1710.09412); ``shares`` float [B] are their own.

    Clips 2k and 2k + 1 are each mixed with the other, by the share of the first, so that the two are mirror
    images. A last clip without a neighbour stays as it is.
    """
    pairs = len(values) // 2 * 2
    partners = torch.arange(pairs, device=values.device) ^ 1
    share = shares[:pairs:2].repeat_interleave(2).view(-1, *(1,) * (values.ndim - 1)).to(values.dtype)
    mixed = share * values[:pairs] + (1 - share) * values[partners]
    return torch.cat([mixed, values[pairs:]])


def clip_losses(logits: Tensor, labels: Tensor, shares: Tensor | None, smoothing: float) -> Tensor:
    """Return cross entropies float32 [B] of logits [B, C] and labels [B], which are mixed as the clips were.

    ``smoothing`` of every target is spread over all classes (arXiv 1512.00567).
    """
    targets = F.one_hot(labels, logits.shape[1]).float()
    if shares is not None:
        targets = mix(targets, shares)
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)

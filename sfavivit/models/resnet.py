"""The ResNet of a hybrid in PyTorch: a function of single frames, frozen with the spatial half.

    images [N, 3, H, W] in [-1, 1]
        │  stem: 7x7 convolution of stride 2, norm, ReLU, 3x3 max pool of stride 2
        │  stage 0: bottlenecks of 4 w channels
        │  stage i: the first bottleneck halves the resolution and doubles the channels
    feature maps [N, w * stride, H / stride, W / stride]

The ResNet of R50+ViT (arXiv 2010.11929, section 3.1) is BiT's (arXiv 1912.11370), with standardised weights
(arXiv 1903.10520) and group norms, but with the norms after the convolutions. Names of parameters, paddings
and epsilons are those of timm, into which the published weights were converted. There are no running
statistics.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sfavivit.config import NORM_GROUPS, ResNetDimensions

STANDARDISATION_EPS = 1e-8
GROUP_NORM_EPS = 1e-5
BOTTLENECK = 4  # outer channels per inner channel of a block
STEM_KERNEL, POOL_KERNEL, STEM_STRIDE = 7, 3, 2


def same_padding(kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's ``SAME`` padding, before and after a side that is a multiple of ``stride``."""
    total = max(kernel - stride, 0)
    return total // 2, total - total // 2


class StandardisedConv(nn.Conv2d):
    """Convolution without bias whose filters are standardised to mean 0 and variance 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        before, after = same_padding(kernel, stride)
        super().__init__(inputs, outputs, kernel, stride, before, bias=False)
        self.extra_padding = after - before

    def forward(self, x: Tensor) -> Tensor:
        filters = self.weight.flatten(1)
        weight = F.layer_norm(filters, filters.shape[1:], eps=STANDARDISATION_EPS).view_as(self.weight)
        x = F.pad(x, (0, self.extra_padding, 0, self.extra_padding)) if self.extra_padding else x
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the group norm of [N, C, H, W] over ``NORM_GROUPS`` groups of channels."""
    return nn.GroupNorm(NORM_GROUPS, channels, eps=GROUP_NORM_EPS)


class ConvNorm(nn.Module):
    """Convolution and norm, in the stem and in the shortcut of a block that changes the shape."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = StandardisedConv(inputs, outputs, kernel, stride)
        self.norm = group_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class Bottleneck(nn.Module):
    """Bottleneck block of convolutions 1x1, 3x3 (with the stride), 1x1.

    ``reshape``: first block of a stage, whose shortcut is a projection.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, reshape: bool) -> None:
        super().__init__()
        inner = outputs // BOTTLENECK
        self.downsample = ConvNorm(inputs, outputs, 1, stride) if reshape else nn.Identity()
        self.conv1, self.norm1 = StandardisedConv(inputs, inner, 1), group_norm(inner)
        self.conv2, self.norm2 = StandardisedConv(inner, inner, 3, stride), group_norm(inner)
        self.conv3, self.norm3 = StandardisedConv(inner, outputs, 1), group_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.downsample(x))


class Stage(nn.Module):
    """Stage of bottlenecks, of which the first changes resolution and channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, blocks: int) -> None:
        super().__init__()
        first = Bottleneck(inputs, outputs, stride, reshape=True)
        others = (Bottleneck(outputs, outputs, 1, reshape=False) for _ in range(blocks - 1))
        self.blocks = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


class ResNet(nn.Module):
    """ResNet: images [N, 3, H, W] -> maps [N, C, H / stride, W / stride]; sides must be multiples of it."""

    def __init__(self, dims: ResNetDimensions) -> None:
        super().__init__()
        self.stem = ConvNorm(3, dims.width, STEM_KERNEL, STEM_STRIDE)
        self.stages = nn.Sequential()
        inputs, outputs = dims.width, dims.width * BOTTLENECK
        for index, blocks in enumerate(dims.blocks):
            self.stages.append(Stage(inputs, outputs, stage_stride(index), blocks))
            inputs, outputs = outputs, 2 * outputs

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        before, after = same_padding(POOL_KERNEL, STEM_STRIDE)
        # After a ReLU, a padding of zeros never wins over what is there.
        x = F.max_pool2d(F.pad(x, (before, after, before, after)), POOL_KERNEL, STEM_STRIDE)
        out: Tensor = self.stages(x)
        return out


def stage_stride(index: int) -> int:
    """Return the stride of a stage's first block; the stem already has the resolution of the first stage."""
    return 1 if index == 0 else 2

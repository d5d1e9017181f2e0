"""The model of a new head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.exporter import export_head
from sfavivit import Repository
from sfavivit.config import AdapterDimensions
from sfavivit.errors import ExportError, UsageError
from sfavivit.models.vivit import TemporalTransformer
from training.head.config import HeadRecipe, load_head_recipe
from training.head.model import head_of, new_head
from training.head.train import head_optimiser


def test_a_head_starts_from_another(repository: Path) -> None:
    start = head_of(Repository.load(repository), "long")
    head = new_head(start.dims, {"": 4}, load_head_recipe(None, ["frames=12"]), start)
    assert (head.dims.max_frames, head.dims.outputs) == (12, (("", 4),))
    old, new = start.state_dict(), head.state_dict()
    changed = {name for name in new if name not in old or not torch.equal(old[name], new[name])}
    assert changed == {"encoder.pos", "classifiers.logits.weight", "classifiers.logits.bias"}
    again = new_head(start.dims, {"verb": 5, "noun": 3}, HeadRecipe(), start).state_dict()
    assert {name for name in old if not torch.equal(old[name], again[name])} == {
        f"classifiers.logits_{output}.{part}" for output in ("verb", "noun") for part in ("weight", "bias")
    }
    with pytest.raises(UsageError, match="adapter_width = 7 is not that of the head to start from, 128"):
        new_head(start.dims, {"": 2}, load_head_recipe(None, ["adapter_width=7"]), start)
    with pytest.raises(UsageError, match="frames = 13: .*13 is not a multiple of 2"):
        new_head(start.dims, {"": 2}, load_head_recipe(None, ["frames=13"]), None)


def test_a_head_without_adapter_gets_one_that_changes_nothing_yet(repository: Path) -> None:
    dims = Repository.load(repository).manifest.heads["default"].dimensions
    start = TemporalTransformer(replace(dims, adapter=None)).eval()
    head = new_head(start.dims, {"": 4}, HeadRecipe(), start).eval()
    assert head.dims.adapter == AdapterDimensions(width=dims.hidden_size)
    features = torch.randn(2, 5, dims.hidden_size)
    assert torch.equal(head.encoder(head.adapter(features)), start.encoder(features))


def test_batches_fit_short_lists() -> None:
    sizes = [head_optimiser(HeadRecipe(), examples).batch_size for examples in (1, 2, 3, 15, 16, 17)]
    assert sizes == [1, 2, 2, 14, 16, 16]


def test_a_head_that_does_not_fit_is_not_written(own: Path) -> None:
    before = Repository.load(own).manifest
    start = head_of(Repository.load(own), "default")
    other = new_head(replace(start.dims, image_size=32), {"": 7}, HeadRecipe(), None)
    features = [np.zeros((3, 32), np.float32)]
    labels = {"": tuple("abcdefg")}
    with pytest.raises(ExportError, match="heads disagree about the spatial transformer"):
        export_head(other, labels, own, "mine", features)
    with pytest.raises(ExportError, match="head name 'No' must be"):
        export_head(start, labels, own, "No", features)
    assert Repository.load(own).manifest == before

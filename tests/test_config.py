"""Dimensions of models: named sizes, JSON, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit.config import AdapterDimensions, ModelDimensions, TransformerDimensions, named_dimensions
from sfavivit.errors import UsageError
from sfavivit.models.vivit import SfaVivit

# Millions of parameters of an image ViT with 1000 classes, 224 x 224 (timm's results tables).
PUBLISHED_MILLIONS = {"B": 86.57, "L": 304.33, "H": 632.05, "g": 1012.61}


@pytest.mark.parametrize("size", PUBLISHED_MILLIONS)
def test_named_sizes_have_the_published_parameters(size: str) -> None:
    dims = named_dimensions(size, {"": 400})
    with torch.device("meta"):
        spatial = SfaVivit(dims).spatial
    total = sum(parameter.numel() for parameter in spatial.parameters())
    other_frames = (dims.tubelet_frames - 1) * dims.patch_size**2 * 3 * dims.hidden_size
    classifier = (dims.hidden_size + 1) * 1000
    assert (total - other_frames + classifier) / 1e6 == pytest.approx(PUBLISHED_MILLIONS[size], abs=0.005)
    assert dims.max_frames == 128


def test_unknown_size_and_misfits() -> None:
    with pytest.raises(UsageError, match="unknown model size 'XL'; choose one of tiny, B, L, H, g"):
        named_dimensions("XL", {"": 1})
    with pytest.raises(UsageError, match="image size over patch size: 30 is not a multiple of 8"):
        named_dimensions("tiny", {"": 1}, image_size=30)


names = st.sampled_from(["verb", "noun", "a", "x_1", "z" * 32])
outputs = st.one_of(
    st.tuples(st.tuples(st.just(""), st.integers(1, 999))),
    st.dictionaries(names, st.integers(1, 999), min_size=1, max_size=3).map(lambda d: tuple(d.items())),
)


@st.composite
def model_dimensions(draw: st.DrawFn) -> ModelDimensions:
    heads = draw(st.sampled_from([1, 2, 3]))
    patch = draw(st.integers(1, 32))
    part = st.builds(
        TransformerDimensions, layers=st.integers(1, 40), heads=st.just(heads), mlp_dim=st.integers(1, 6144)
    )
    adapter = st.builds(
        AdapterDimensions,
        width=st.integers(1, 2048),
        activation=st.sampled_from(["gelu", "relu"]),
        residual=st.booleans(),
    )
    return ModelDimensions(
        hidden_size=6 * draw(st.integers(1, 200)),
        image_size=patch * draw(st.integers(1, 30)),
        patch_size=patch,
        tubelet_frames=draw(st.integers(1, 8)),
        spatial=draw(part),
        temporal=draw(part),
        max_tubelets=draw(st.integers(1, 256)),
        outputs=draw(outputs),
        adapter=draw(st.none() | adapter),
    )


@settings(max_examples=40)
@given(dims=model_dimensions())
def test_dimensions_survive_json(dims: ModelDimensions) -> None:
    text = dims.to_json()
    assert "\n" not in text
    assert ModelDimensions.from_json(text) == dims
    assert ModelDimensions.from_json(text.encode()) == dims


@pytest.mark.parametrize(
    "bad", [(("", 1), ("verb", 1)), (("verb", 1), ("verb", 2)), (), (("Verb", 1),), (("a/b", 1),), (("", 0),)]
)
def test_bad_outputs(bad: tuple[tuple[str, int], ...]) -> None:
    dims = named_dimensions("tiny", {"": 1})
    with pytest.raises(ValueError, match=r"output"):
        replace(dims, outputs=bad)

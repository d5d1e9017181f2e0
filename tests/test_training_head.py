"""New heads on stored features: what is extracted, what is learned from, what is exported and measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.exporter import ExportOptions, export_head, export_model
from export.outputs import label_outputs
from sfavivit import Recognizer, Repository
from sfavivit.config import AdapterDimensions, Crop, Sampling
from sfavivit.datasets import VideoItem, read_items
from sfavivit.engines.onnxruntime import CPU, OnnxModel
from sfavivit.errors import AnnotationError, ExportError, FeatureStoreError, SfaVivitError, UsageError
from sfavivit.features.entry import FeatureKey
from sfavivit.features.reader import FeatureReader
from sfavivit.features.slicing import align_to_tubelets, tubelet_rate
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.models.vivit import SpatialTransformer, TemporalTransformer
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import VideoSegment
from tests.conftest import SIDE, WINDOW_FRAMES, build_model
from tests.features.videos import entries, forbid_decoders
from tests.video_files import encode
from training import ondemand_engine
from training.__main__ import app
from training.head import head_of, head_optimiser, new_head
from training.head_config import HeadRecipe, VariantConfig, load_head_recipe
from training.head_job import HeadJob, HeadLists, HeadPlan, HeadReport
from training.head_lists import head_classes, hold_out
from training.head_windows import draw_window
from training.ondemand_engine import open_on_demand
from training.stored_features import FeatureCache, FeatureFiller, StoredVideo, variant_view

ROOT = Path(__file__).parent.parent
WINDOW = WINDOW_FRAMES // 2
SAMPLING = Sampling(12.5, SIDE, SIDE)
QUICK = load_head_recipe(None, ["optimiser.epochs=40", "optimiser.batch_size=8"])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos that become light or dark, one window long, and a broken one; their verbs and nouns."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    lines, actions = ["video,label"], ["video,verb,noun"]
    for number in range(12):
        light_last, wide = number % 2, number % 3
        shades = np.linspace(20, 235, 32)[:: 1 if light_last else -1] + rng.normal(0, 12)
        frames = np.clip(shades[:, None, None, None] + rng.normal(0, 6, (32, 48, 64, 3)), 0, 255)
        encode(folder / f"{number}.mp4", frames.astype(np.uint8))
        name = "gets light" if light_last else "gets dark"
        lines.append(f"{number}.mp4,{name}")
        actions.append(f"{number}.mp4,{name},{wide}")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "list.csv").write_text("\n".join([*lines, "broken.mp4,gets dark"]))
    (folder / "actions.csv").write_text("\n".join(actions))
    return folder


def job(repository: Path, videos: Path, folder: Path, listed: str = "list.csv", **options: object) -> HeadJob:
    source = str(videos / listed)
    given = {"start": "default", "recipe": QUICK, "store": folder / "store", "out": folder / "out", **options}
    plan = HeadPlan(repository=repository, name="mine", **given)  # type: ignore[arg-type]
    return HeadJob(plan, HeadLists(source, read_items(source), None, 0.34))


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "models"))


def weights(repository: Path, version: int) -> bytes:
    return (repository / f"sfavivit_temporal_mine/{version}/model.safetensors").read_bytes()


def test_from_videos_to_a_served_head(own: Path, videos: Path, tmp_path: Path) -> None:
    before = Repository.load(own).manifest
    report = job(own, videos, tmp_path).run()
    assert (report.training_videos, report.held_out_videos, report.broken_videos) == (8, 4, 1)
    assert report.passes_computed == 13  # the broken one was tried
    assert report.held_out is not None
    assert report.held_out["outputs"][""]["top1"] == 1
    written = HeadReport(**json.loads((tmp_path / "out/report.json").read_text()))
    assert written == report
    assert "broken.mp4," in (tmp_path / "out/broken_videos.csv").read_text()
    assert (tmp_path / "out/confusion_mine.png").read_bytes().startswith(b"\x89PNG")

    after = Repository.load(own)  # every digest is right
    assert after.labels["mine"] == {"": ("gets dark", "gets light")}
    assert after.manifest.spatial == before.spatial
    assert {name: after.manifest.heads[name] for name in before.heads} == before.heads
    assert after.manifest.heads["mine"].parity.max_abs_error < 1e-4
    served = Recognizer.load(own).classify(videos / "1.mp4", ClassifyOptions(heads=("mine", "default")))
    assert served.heads["mine"][""].labels[0].label == "gets light"


def test_with_all_features_stored_no_spatial_half_is_loaded(
    own: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... nor a video decoded; and the same seed gives the same bytes."""
    job(own, videos, tmp_path).run()
    loaded: list[Path] = []

    class Recorded(OnnxModel):
        def __init__(self, file: Path, threads: None = None, provider: str = CPU) -> None:
            loaded.append(file)
            super().__init__(file)

    def refuse(*_: object) -> None:
        raise AssertionError("a spatial transformer was built")

    monkeypatch.setattr(ondemand_engine, "OnnxModel", Recorded)
    monkeypatch.setattr(SpatialTransformer, "__init__", refuse)
    good = videos / "good.csv"
    good.write_text("\n".join((videos / "list.csv").read_text().splitlines()[:-1]))
    forbid_decoders(monkeypatch)
    report = job(own, videos, tmp_path, "good.csv").run()
    assert (report.version, report.passes_computed, report.broken_videos) == (2, 0, 0)
    assert [file.parts[-3:] for file in loaded] == [("sfavivit_temporal_mine", "2", "model.onnx")]
    assert weights(own, 1) == weights(own, 2)


def test_another_seed_is_another_head(own: Path, videos: Path, tmp_path: Path) -> None:
    quick = load_head_recipe(None, ["optimiser.epochs=1"])
    for seed in (0, 0, 1):
        job(own, videos, tmp_path, recipe=quick.model_copy(update={"seed": seed})).run()
    assert weights(own, 1) == weights(own, 2) != weights(own, 3)


def test_a_head_that_learns_from_some_tubelets_is_served_whole(
    own: Path, videos: Path, tmp_path: Path
) -> None:
    job(own, videos, tmp_path).run()
    report = job(own, videos, tmp_path, recipe=QUICK.model_copy(update={"select": 3})).run()
    assert weights(own, 1) != weights(own, 2)
    assert report.held_out is not None
    assert report.held_out["outputs"][""]["evaluated"] == 4
    assert Repository.load(own).manifest.heads["mine"].dimensions.max_tubelets == WINDOW


def test_verbs_and_nouns_from_scratch(own: Path, videos: Path, tmp_path: Path) -> None:
    recipe = load_head_recipe(None, ["optimiser.epochs=60", "optimiser.learning_rate=0.003", "frames=24"])
    report = job(own, videos, tmp_path, "actions.csv", start=None, recipe=recipe).run()
    assert report.classes == {"verb": 2, "noun": 3}
    assert report.held_out is not None
    assert report.held_out["action"]["evaluated"] == report.held_out_videos == 4
    assert report.held_out["outputs"]["verb"]["top1"] == 1  # the noun is not to be seen
    assert Repository.load(own).manifest.heads["mine"].dimensions.max_frames == 24


def test_a_repository_of_reduced_precision_gets_heads(
    videos: Path, tmp_path: Path, parity_video: Path
) -> None:
    model = build_model()
    options = ExportOptions(shortest_side=SIDE, parity_video=parity_video, precision="fp16")
    export_model(model, label_outputs(model, {}), tmp_path / "models", options)
    report = job(tmp_path / "models", videos, tmp_path).run()
    assert report.held_out is not None
    assert report.held_out["outputs"][""]["top1"] == 1


def test_variants_are_stored_and_found_again(own: Path, videos: Path, tmp_path: Path) -> None:
    first = job(own, videos, tmp_path, variants=2).run()
    assert first.passes_computed == 13 + 2 * first.training_videos
    assert job(own, videos, tmp_path, variants=2).run().passes_computed == 1  # the broken one, again
    store = FeatureStore(tmp_path / "store")
    assert len(entries(store)) == 12 + 2 * first.training_videos


def test_a_variant_is_what_its_key_says(repository: Path, videos: Path, tmp_path: Path) -> None:
    """Against frames read and computed apart from the store and its threads."""
    store, recognizer = FeatureStore(tmp_path / "store"), open_on_demand(repository)
    filler = FeatureFiller(recognizer, store, VariantConfig(scale_range=(1.2, 1.6)), threads=2)
    item = VideoItem("0", str(videos / "0.mp4"), {}, 0.2, 1.0)
    (stored,), broken = filler.fill([item], range(3), lambda _: None)
    assert not broken
    assert len({(key.sampling.shortest_side, key.crop) for key in stored.keys}) == 3
    for key in stored.keys:
        segment = VideoSegment(item.video, 0.2, 1.0)
        with VideoReader(segment, key.sampling, chunk_frames=16, crops=(key.crop,)) as reader:
            frames = np.concatenate(list(reader))
        entry = store.get(key)
        assert entry is not None
        np.testing.assert_allclose(entry.features, Recognizer.load(repository).features(frames), atol=1e-6)


def test_parts_of_a_stored_video_are_not_extracted(repository: Path, videos: Path, tmp_path: Path) -> None:
    store, whole = FeatureStore(tmp_path / "store"), VideoItem("0", str(videos / "0.mp4"), {})
    filler = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=1)
    manifest = filler.recognizer.manifest
    rate = tubelet_rate(manifest.sampling, manifest.dimensions.tubelet_frames)
    parts = [align_to_tubelets(replace(whole, id=f"part {k}", start_seconds=k / 5), rate) for k in range(3)]
    stored, broken = filler.fill([whole, *parts], [0], lambda _: None)
    assert (len(stored), broken, filler.computed, len(entries(store))) == (4, [], 1, 1)
    features = FeatureCache(store, bytes_kept=0)
    for part in stored:
        decoded = FeatureReader(
            filler.recognizer.model, VideoSegment(whole.video, start_seconds=part.item.start_seconds)
        )
        expected = np.concatenate([chunk.features for chunk in decoded])
        np.testing.assert_array_equal(features.get(part.keys[0]), expected)


@given(st.integers(0, 2**256 - 1), st.integers(1, 50), st.floats(0, 1), st.floats(0.5, 2), st.floats(0, 1))
def test_a_variant_is_a_function_of_content_and_number(
    content: int, number: int, flip: float, low: float, more: float
) -> None:
    config = VariantConfig(flip=flip, scale_range=(low, low + more))
    sha256 = f"{content:064x}"
    sampling, crop = variant_view(SAMPLING, sha256, number, config)
    assert (sampling, crop) == variant_view(SAMPLING, sha256, number, config)
    assert sampling.shortest_side >= sampling.crop_size == SIDE
    assert sampling.shortest_side <= max(SIDE, round(SIDE * (low + more)))
    assert variant_view(SAMPLING, sha256, 0, config) == (SAMPLING, Crop())


def test_flips_as_often_as_asked() -> None:
    crops = [variant_view(SAMPLING, f"{k:064x}", 1, VariantConfig())[1] for k in range(400)]
    assert 150 < sum(crop.flip for crop in crops) < 250
    assert {crop.along < 0.5 for crop in crops} == {True, False}


def test_an_interrupted_extraction_has_lost_nothing(repository: Path, videos: Path, tmp_path: Path) -> None:
    items = read_items(str(videos / "actions.csv"))
    store = FeatureStore(tmp_path / "store")

    def interrupt(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    filler = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=2)
    with pytest.raises(KeyboardInterrupt):
        filler.fill(items, [0], interrupt)
    kept = len(entries(store))
    assert 3 <= kept < 12
    again = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=2)
    stored, broken = again.fill(items, [0], lambda _: None)
    assert (len(stored), broken, again.computed) == (12, [], 12 - kept)


@given(st.integers(1, 30), st.integers(1, 20), st.floats(0, 1), st.integers(0, 1000))
def test_a_window_is_a_part_of_the_video_over_and_over(
    tubelets: int, length: int, prefix: float, seed: int
) -> None:
    features = np.arange(tubelets, dtype=np.float32)[:, None]
    window = draw_window(features, length, prefix, np.random.default_rng(seed))[:, 0]
    assert len(window) == length
    start, period = int(window[0]), len(set(window.tolist()))
    np.testing.assert_array_equal(window, start + np.arange(length) % period)
    if prefix == 0:
        assert period == min(tubelets, length)
    if tubelets <= length:
        assert start == 0


LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=40)


@given(LABELS, st.floats(0, 0.9), st.integers(0, 5))
def test_what_is_held_out(drawn: list[tuple[str, int]], share: float, seed: int) -> None:
    """Every class keeps a video, no video is on both sides, and no more than the share is taken."""
    videos = [
        StoredVideo(VideoItem(str(k), "", {"": label}), (FeatureKey(f"{content}{label}", "", SAMPLING),))
        for k, (label, content) in enumerate(drawn)
    ]
    training, held = hold_out(videos, share, seed)
    assert (training, held) == hold_out(videos, share, seed)
    assert sorted(video.item.id for video in training + held) == sorted(video.item.id for video in videos)
    assert {video.item.labels[""] for video in training} == {label for label, _ in drawn}
    assert not {video.keys for video in training} & {video.keys for video in held}
    assert len(held) <= round(share * len(videos))


def test_held_out_is_in_proportion() -> None:
    labels = ["common"] * 40 + ["rare"] * 10 + ["single"]
    videos = [
        StoredVideo(VideoItem(str(k), "", {"": label}), (FeatureKey(str(k), "", SAMPLING),))
        for k, label in enumerate(labels)
    ]
    held = [video.item.labels[""] for video in hold_out(videos, 0.2, 0)[1]]
    assert (held.count("common"), held.count("rare"), held.count("single")) == (8, 2, 0)
    assert {video.item.id for video in hold_out(videos, 0.2, 1)[1]} != {
        video.item.id for video in hold_out(videos, 0.2, 0)[1]
    }


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{}], "no labelled videos"),
        ([{"": "a"}, {"": "a"}], "all labels are 'a'; a head needs two classes or more"),
        ([{"": "a"}, {"": 3}], "some labels are numbers and some are names"),
        ([{"": "a"}, {}, {"": "b"}], "'1' has no label; training needs one"),
        ([{"verb": "a", "noun": "b"}, {"verb": "c"}], "all labels of 'noun' are 'b'"),
        ([{"": "a"}, {"": "b\nc"}], r"the label 'b\nc'; a class is one line of text"),
        ([{"": 1}, {"": 10**9}], "a number below 100000"),
        ([{"": 1}, {"": -1}], "the label -1"),
    ],
)
def test_labels_that_make_no_head(labels: list[dict[str, str | int]], message: str) -> None:
    items = [VideoItem(str(k), "", each) for k, each in enumerate(labels)]
    with pytest.raises(AnnotationError) as caught:
        head_classes(items, "list.csv")
    assert message in str(caught.value)
    assert "list.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_are_classes_up_to_the_largest() -> None:
    items = [VideoItem(str(k), "", {"verb": k, "noun": f"n{-k}"}) for k in (0, 3)]
    assert head_classes(items, "l") == {"verb": ["0", "1", "2", "3"], "noun": ["n-3", "n0"]}


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


def test_the_cache_keeps_within_bounds(repository: Path, videos: Path, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    filler = FeatureFiller(open_on_demand(repository), store, VariantConfig(), threads=1)
    stored, _ = filler.fill(read_items(str(videos / "actions.csv"))[:2], [0], lambda _: None)
    (first,), (second,) = (video.keys for video in stored)
    room = 16 // 2 * 32 * 4  # one video: 16 frames, 32 values a tubelet
    cache = FeatureCache(store, room)
    assert cache.get(first) is cache.get(first)
    assert cache.get(second) is not cache.get(second)
    np.testing.assert_array_equal(cache.get(second), cache.get(second))
    store.path(second.digest).unlink()
    with pytest.raises(FeatureStoreError, match="start again to compute it"):
        cache.get(second)


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


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "training", "head", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)


def test_the_command(own: Path, videos: Path, tmp_path: Path) -> None:
    done = command(
        *("--manifest", videos / "actions.csv", "--repository", own, "--name", "mine", "--epochs", "20"),
        *("--store", tmp_path / "store", "--out", tmp_path / "out", "--validation", videos / "actions.csv"),
        *("--set", "optimiser.batch_size=6"),
    )
    assert done.returncode == 0, done.stderr
    assert f"head 'mine' version 1 is in {own} (" in done.stderr
    assert "held-out top-1 100.0% of 12 videos (verb, 2 classes)" in done.stderr
    assert "held-out action top-1 " in done.stderr
    assert (tmp_path / "out/confusion_mine_verb.csv").exists()


def test_the_command_takes_a_list_with_splits(own: Path, videos: Path, tmp_path: Path) -> None:
    """... whose videos are at URLs; test videos are left alone."""
    lines = (videos / "list.csv").read_text().splitlines()[1:13]
    splits = ["train"] * 8 + ["val"] * 3 + ["test"]
    rows = [f"file://{videos}/{line},{split}" for line, split in zip(lines, splits, strict=True)]
    source = tmp_path / "list.csv"
    source.write_text("\n".join(["video,label,split", *rows]))
    words = ["head", "--manifest", str(source), "--repository", str(own), "--name", "mine", "--epochs", "1"]
    folders = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    app([*words, *folders], standalone_mode=False)
    report = HeadReport(**json.loads((tmp_path / "out/report.json").read_text()))
    assert (report.training_videos, report.held_out_videos, report.passes_computed) == (8, 3, 11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--name", "Spatial"), "head name 'Spatial' must be"),
        (("--from-head", "none"), "no head 'none' in this repository; it has default, long"),
        (("--from-head", "long", "--from-scratch"), "exclude each other"),
        (("--set", "optimiser.epoch=3"), "optimiser.epoch"),
        (("--recipe", "none.toml"), "no recipe 'none.toml'"),
        (("--manifest", "none.csv"), "'none.csv' cannot be read"),
        (("--held-out", "0.5", "--validation", "{list}"), "--held-out 0.5 is for a list that does not say"),
    ],
)
def test_wrong_use(own: Path, videos: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    given = {"--manifest": str(videos / "list.csv"), "--repository": str(own), "--name": "mine"}
    words = [word for pair in given.items() if pair[0] not in options for word in pair]
    folders = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    with pytest.raises(SfaVivitError) as caught:
        options = tuple(option.replace("{list}", str(videos / "list.csv")) for option in options)
        app(["head", *words, *folders, *options], standalone_mode=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

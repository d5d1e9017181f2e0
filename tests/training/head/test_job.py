"""New heads from videos to a served head, by the job and by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfavivit import Recognizer, Repository
from sfavivit.datasets import read_items
from sfavivit.engines.device import Processor
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.errors import SfaVivitError
from sfavivit.features.store import FeatureStore
from sfavivit.inference.options import ClassifyOptions
from sfavivit.models.vivit import SpatialTransformer
from tests.conftest import SIDE, WINDOW_FRAMES, build_model
from tests.export.support import export_plainly
from tests.features.videos import entries, forbid_decoders
from training.__main__ import app
from training.head import ondemand_engine
from training.head.config import load_head_recipe
from training.head.job import HeadJob, HeadPlan, HeadReport
from training.head.lists import HeadLists

ROOT = Path(__file__).parents[3]


WINDOW = WINDOW_FRAMES // 2


QUICK = load_head_recipe(None, ["optimiser.epochs=40", "optimiser.batch_size=8"])


def job(repository: Path, videos: Path, folder: Path, listed: str = "list.csv", **options: object) -> HeadJob:
    source = str(videos / listed)
    given = {"start": "default", "recipe": QUICK, "store": folder / "store", "out": folder / "out", **options}
    plan = HeadPlan(repository=repository, name="mine", **given)  # type: ignore[arg-type]
    return HeadJob(plan, HeadLists(source, read_items(source), None, 0.34))


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
    assert report.devices == {"training": "cpu", "features": "cpu"}
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
        def __init__(self, file: Path, threads: None = None, processor: Processor = "cpu") -> None:
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
    assert report.devices == {"training": "cpu"}
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
    export_plainly(build_model(), tmp_path / "models", parity_video, shortest_side=SIDE, precision="fp16")
    report = job(tmp_path / "models", videos, tmp_path).run()
    assert report.held_out is not None
    assert report.held_out["outputs"][""]["top1"] == 1


def test_variants_are_stored_and_found_again(own: Path, videos: Path, tmp_path: Path) -> None:
    first = job(own, videos, tmp_path, variants=2).run()
    assert first.passes_computed == 13 + 2 * first.training_videos
    assert job(own, videos, tmp_path, variants=2).run().passes_computed == 1  # the broken one, again
    store = FeatureStore(tmp_path / "store")
    assert len(entries(store)) == 12 + 2 * first.training_videos


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

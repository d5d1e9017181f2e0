"""Export: what the repository holds, refusals, and crashes that leave no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from export import exporter
from export.graphs import spatial_graph
from export.outputs import label_outputs, read_label_files, split_output
from export.parity import ParityReport, measure_temporal, require
from export.staging import staged
from sfavivit import Recognizer, Repository
from sfavivit.errors import ExportError, ParityError, RepositoryError, SfaVivitError
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Parity, Precision, TimelineDecoding
from tests.conftest import SIDE, build_model, random_frames
from tests.export.support import ROOT, config, contents, cosines, export_plainly
from tests.make_golden import DATA


def test_the_same_weights_give_the_same_bytes(repository: Path, parity_video: Path, tmp_path: Path) -> None:
    again = export_plainly(build_model(), tmp_path / "again", parity_video, shortest_side=SIDE).manifest
    first = Repository.load(repository).manifest
    # The configs tell the measured parity, whose last digit is the threads'.
    files = {name: entry for name, entry in again.files.items() if not name.endswith("config.pbtxt")}
    assert {name: first.files[name] for name in files} == files
    assert again.spatial.weights_sha256 == first.spatial.weights_sha256


def test_manifest_records_the_measured_parity(repository: Path) -> None:
    manifest = Repository.load(repository).manifest
    for parity in (manifest.spatial.parity, *(head.parity for head in manifest.heads.values())):
        assert 0 < parity.max_abs_error < 1e-4
        assert parity.min_cosine > 0.99999
        assert parity.top1_agreement == 1


@pytest.mark.parametrize(("margin", "agreement"), [(0.09, 1), (0.2, 0)])
def test_a_tie_is_no_disagreement(margin: float, agreement: float) -> None:
    """An engine that swaps the two best classes: an error, unless PyTorch hardly tells them apart."""
    temporal = build_model({"": 3}).temporal
    classifier = cast(torch.nn.Linear, temporal.classifiers["logits"])
    classifier.weight.data.zero_()
    classifier.bias.data = torch.tensor([margin, 0.0, -1.0])
    features = [np.zeros((2, 32), np.float32)]
    swapped = np.array([[0.0, margin, -1.0]], np.float32)
    assert measure_temporal(temporal, lambda _: {"LOGITS": swapped}, features).top1_agreement == agreement


GOOD = Parity(max_abs_error=1e-6, min_cosine=1.0, top1_agreement=1.0)


@pytest.mark.parametrize(
    ("precision", "spatial", "temporal"),
    [
        ("fp32", GOOD, GOOD.model_copy(update={"max_abs_error": 1.1e-4})),
        ("fp32", GOOD, GOOD.model_copy(update={"max_abs_error": float("nan")})),
        ("int8", GOOD.model_copy(update={"min_cosine": 0.9989}), GOOD),
        ("int8", GOOD.model_copy(update={"min_cosine": float("nan")}), GOOD),
        ("fp16", GOOD, GOOD.model_copy(update={"top1_agreement": 0.99})),
    ],
)
def test_beyond_the_tolerance_is_refused(precision: Precision, spatial: Parity, temporal: Parity) -> None:
    with pytest.raises(ParityError, match=precision):
        require(ParityReport(spatial, temporal), precision)
    require(ParityReport(GOOD, GOOD), precision)


def test_an_engine_that_differs_leaves_nothing(
    parity_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_epsilon(*args: Any) -> Any:
        built = spatial_graph(*args)
        for node in built.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 0.05
        return built

    monkeypatch.setattr(exporter, "spatial_graph", wrong_epsilon)
    with pytest.raises(ParityError, match="fp32 logits differ"):
        export_plainly(build_model(), tmp_path / "new", parity_video)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (build_model(spatial_seed=5), {"head": "b"}, "other spatial weights .* repository of its own"),
        (build_model(), {"head": "b", "precision": "int8"}, "--precision int8 differs from .* fp32"),
        (build_model(), {"head": "b", "fps": 25.0}, "--fps 25.0 differs from the repository's 12.5"),
        (build_model(), {"head": "b", "backend": "onnxruntime"}, "--backend onnxruntime differs"),
        (build_model(), {"head": "b", "frames": 7}, "--frames 7 is not a multiple of the tubelet length 2"),
        (
            build_model(),
            {"head": "b", "calibration_videos": ("a.mp4",)},
            "--calibration-video is for .* int8",
        ),
        (
            build_model(),
            {"head": "b", "timeline": TimelineDecoding(window_tubelets=(4, 9), switch_cost=1.0)},
            "timeline windows of 9 tubelets are longer than its window of 8",
        ),
        (build_model(), {"head": "../b"}, "head name '../b' must be"),
        (build_model(), {"head": "spatial"}, "head name 'spatial' must be"),
    ],
)
def test_an_export_that_cannot_be_leaves_the_repository(
    own_copy: Path, parity_video: Path, model: SfaVivit, options: dict[str, Any], message: str
) -> None:
    before = contents(own_copy)
    with pytest.raises(ExportError, match=message):
        export_plainly(model, own_copy, parity_video, **options)
    assert contents(own_copy) == before
    assert list(own_copy.parent.iterdir()) == [own_copy]


def test_a_folder_of_something_else_is_left_alone(parity_video: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RepositoryError, match="not a model repository"):
        export_plainly(build_model(), tmp_path, parity_video)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


CRASHES = """
import os, signal, sys
from export import exporter, staging, writer
from pathlib import Path
from tests.conftest import build_model
from tests.export.support import export_plainly

target, video = Path(sys.argv[1]), Path(sys.argv[2])
POINTS = [(exporter, "write_engine"), (exporter, "measure"), (writer, "_digests"), (staging, "_sync_tree"),
          (staging, "_replace"), (staging, "fsync_path")]
model = build_model(seed=3)
for module, name in POINTS:
    if (child := os.fork()) == 0:
        setattr(module, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        export_plainly(model, target, video, head="b")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, name
    print(name)
"""


def test_killed_at_any_point_leaves_the_repository(own_copy: Path, parity_video: Path) -> None:
    before = contents(own_copy)
    command = [sys.executable, "-c", CRASHES, str(own_copy), str(parity_video)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split()[-1] == "fsync_path", done.stderr
    assert contents(own_copy) == before
    export_plainly(build_model(seed=3), own_copy, parity_video, head="b")
    assert set(Repository.load(own_copy).manifest.heads) == {"default", "long", "b"}
    assert list(own_copy.parent.iterdir()) == [own_copy], "leftovers of the killed ones"


def test_staging_reports_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write .*file"), staged(tmp_path / "file" / "inside"):
        pass


def test_int8_and_fp16_repositories_run_in_every_engine(parity_video: Path, tmp_path: Path) -> None:
    frames = random_frames(30)
    reference = None
    for precision in ("fp32", "fp16", "int8"):
        model = build_model()
        folder = tmp_path / precision
        summary = export_plainly(model, folder, parity_video, precision=precision, shortest_side=SIDE)
        for engine in ("onnxruntime", "torch"):
            features = Recognizer.load(folder, engine=engine).features(frames)
            reference = features if reference is None else reference
            assert cosines(features, reference).min() > 0.999, (precision, engine)
        sizes = {"fp32": 4, "fp16": 2, "int8": 1}
        spatial_values = sum(p.numel() for p in model.spatial.parameters())
        assert summary.engine_bytes("sfavivit_spatial", 1) < spatial_values * sizes[precision] + 150_000


def test_configs_are_valid_and_regenerate(repository: Path) -> None:
    configs = {
        file.parent.name: config(repository, file.parent.name) for file in repository.glob("*/config.pbtxt")
    }
    assert all(parsed.name == name for name, parsed in configs.items())
    assert set(configs) == {
        "sfavivit_spatial",
        "sfavivit_temporal_default",
        "sfavivit_default",
        "sfavivit_temporal_long",
        "sfavivit_long",
    }
    spatial, temporal, ensemble = (configs[f"sfavivit_{n}"] for n in ("spatial", "temporal_long", "long"))
    assert (spatial.input[0].name, list(spatial.input[0].dims)) == ("FRAMES", [-1, SIDE, SIDE, 3])
    assert spatial.input[0].data_type == 2  # TYPE_UINT8
    assert (spatial.output[0].name, list(spatial.output[0].dims)) == ("FEATURES", [-1, 32])
    assert [output.label_filename for output in temporal.output] == ["1/labels_verb.txt", "1/labels_noun.txt"]
    for output in temporal.output:
        assert (repository / temporal.name / output.label_filename).is_file()
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [spatial.name, temporal.name]
    assert ensemble.max_batch_size == spatial.max_batch_size == temporal.max_batch_size > 1
    assert [o.name for o in ensemble.output] == ["LOGITS_verb", "LOGITS_noun"]


def test_onnxruntime_backend_needs_no_python(parity_video: Path, tmp_path: Path) -> None:
    export_plainly(build_model(), tmp_path / "r", parity_video, backend="onnxruntime")
    assert not list((tmp_path / "r").rglob("*.py"))
    assert config(tmp_path / "r", "sfavivit_spatial").backend == "onnxruntime"


def test_one_projection_of_nouns_and_verbs_is_split(tmp_path: Path) -> None:
    nouns, verbs = tmp_path / "nouns.txt", tmp_path / "verbs.txt"
    nouns.write_text("plate\ncup\nknife\n")
    verbs.write_text("take\nput\nwash\ncut\n")
    model = build_model({"": 7})
    frames = torch.from_numpy(random_frames(8)[None])
    with torch.inference_mode():
        whole = model(frames)[""]
        labels = label_outputs(model, read_label_files([f"noun={nouns}", f"verb={verbs}"]))
        parts = model(frames)
    assert labels == {"noun": ("plate", "cup", "knife"), "verb": ("take", "put", "wash", "cut")}
    torch.testing.assert_close(torch.cat([parts["noun"], parts["verb"]], dim=1), whole)
    with pytest.raises(ExportError, match="the model has 7 classes; the label files have 3 noun"):
        split_output(build_model({"": 7}), {"noun": 3})


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a\nb\n", ["{file}"], "has 2 labels; the model has 7 classes"),
        (b"a\n\nc\nd\ne\nf\ng\n", ["{file}"], "line 2 is empty"),
        (b"\xff\xfe\n" * 7, ["{file}"], "not UTF-8"),
        (b"a\n" * 7, ["{file}", "{file}"], "has labels already"),
        (b"a\n" * 7, ["/nowhere/labels.txt"], "cannot be read: No such file"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, content: bytes, options: list[str], message: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(SfaVivitError, match=message):
        label_outputs(build_model(), read_label_files([option.format(file=file) for option in options]))


def golden_files() -> list[tuple[Path, Path]]:
    """(checkpoint, video and logits): the committed golden, and Scenic's own where SFAVIVIT_GOLDEN is."""
    pairs = [(DATA / "scenic_golden.msgpack", DATA / "scenic_golden.npz")]
    if "SFAVIVIT_GOLDEN" in os.environ:
        folder = Path(os.environ["SFAVIVIT_GOLDEN"])
        pairs.append((folder / "scenic_fe_a.msgpack", folder / "scenic_fe_a.npz"))
    return pairs


@pytest.mark.parametrize(("checkpoint", "golden"), golden_files(), ids=lambda path: path.name)
def test_exported_engines_give_scenics_logits(
    checkpoint: Path, golden: Path, parity_video: Path, tmp_path: Path
) -> None:
    export_plainly(load_checkpoint(checkpoint), tmp_path / "repository", parity_video)
    expected = np.load(golden)
    for engine in ("onnxruntime", "torch"):
        recognizer = Recognizer.load(tmp_path / "repository", engine=engine)
        found = [recognizer.logits(recognizer.features(video))[""] for video in expected["video"]]
        assert np.abs(np.stack(found) - expected["logits"]).max() <= 1e-4, engine

"""Export: parity with PyTorch, what the repository holds, refusals, and crashes that leave no trace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from tritonclient.grpc import model_config_pb2 as triton_config

from export import exporter
from export.exporter import ExportOptions, export_model
from export.graphs import spatial_graph, temporal_graph
from export.outputs import label_outputs, read_label_files, split_output
from export.parity import ParityReport, measure_temporal, require
from export.staging import staged
from export.writer import write_engine
from sfavivit import Recognizer, Repository
from sfavivit.config import AdapterDimensions
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.errors import ExportError, ParityError, RepositoryError, SfaVivitError
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.vivit import Adapter, SfaVivit
from sfavivit.repository.manifest import Parity, Precision, logits_tensor
from tests.conftest import SIDE, build_model, random_frames

ModelConfig: Any = vars(triton_config)["ModelConfig"]  # made at run time, unknown to mypy
TYPE_UINT8 = vars(triton_config)["TYPE_UINT8"]
REPOSITORY_ROOT = Path(__file__).parent.parent


def numpy_state(module: torch.nn.Module) -> dict[str, Any]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def spatial_engine(model: SfaVivit, precision: Precision, folder: Path) -> OnnxModel:
    write_engine(folder, spatial_graph(model.dims, numpy_state(model.spatial), precision), "onnxruntime")
    return OnnxModel(folder / "model.onnx")


@pytest.fixture(scope="module")
def model() -> SfaVivit:
    return build_model({"verb": 5, "noun": 3})


@pytest.fixture(scope="module")
def engines(model: SfaVivit, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, OnnxModel]:
    folder = tmp_path_factory.mktemp("engines")
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    return {precision: spatial_engine(model, precision, folder / precision) for precision in precisions}


@settings(max_examples=15)
@given(batch=st.integers(1, 4), tubelets=st.integers(1, 9), seed=st.integers(0, 9))
def test_spatial_graph_equals_pytorch_for_any_batch(
    model: SfaVivit, engines: dict[Precision, OnnxModel], batch: int, tubelets: int, seed: int
) -> None:
    frames = np.stack([random_frames(2 * tubelets, seed=seed + i) for i in range(batch)])
    with torch.inference_mode():
        expected = model.spatial(torch.from_numpy(frames)).numpy()
    found = engines["fp32"].run({"FRAMES": frames})["FEATURES"]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # A width of 32 averages little out: real models are ten times closer (see the manifests' parity).
    least: dict[Precision, float] = {"fp16": 0.9999, "int8": 0.997}
    for precision, bound in least.items():
        reduced = engines[precision].run({"FRAMES": frames})["FEATURES"]
        assert cosines(reduced, expected).min() > bound, precision


def cosines(a: Any, b: Any) -> Any:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tubelet_does_not_see_the_others_in_its_batch(
    engines: dict[Precision, OnnxModel], precision: Precision
) -> None:
    """The whole system stands on this; one quantisation scale for a tensor would break it."""
    tubelet = random_frames(2, seed=7)
    loud = np.full((30, SIDE, SIDE, 3), 255, np.uint8)
    alone = engines[precision].run({"FRAMES": tubelet[None]})["FEATURES"][0, 0]
    together = engines[precision].run({"FRAMES": np.concatenate([loud, tubelet])[None]})["FEATURES"][0, -1]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("adapter", [None, AdapterDimensions(48), AdapterDimensions(24, "relu", False)])
@pytest.mark.parametrize("tubelets", [1, 3, 8])
def test_temporal_graph_equals_pytorch(
    tmp_path: Path, adapter: AdapterDimensions | None, tubelets: int
) -> None:
    torch.manual_seed(0)
    model = SfaVivit(replace(build_model({"verb": 5, "noun": 3}).dims, adapter=adapter)).eval()
    if isinstance(model.temporal.adapter, Adapter):
        torch.nn.init.normal_(model.temporal.adapter.fc2.weight)
    built = temporal_graph(model.dims, numpy_state(model.temporal))
    write_engine(tmp_path / "1", built, "onnxruntime")
    features = torch.randn(3, tubelets, 32)
    with torch.inference_mode():
        expected = model.temporal(features)
    found = OnnxModel(tmp_path / "1" / "model.onnx").run({"FEATURES": features.numpy()})
    for name, value in expected.items():
        np.testing.assert_allclose(found[logits_tensor(name)], value.numpy(), atol=2e-5)


def test_graphs_are_standard_onnx(repository: Path) -> None:
    """The checker accepts them, and ONNX's own reference evaluator, an independent one, agrees."""
    file = repository / "sfavivit_spatial" / "1" / "model.onnx"
    onnx.checker.check_model(str(file), full_check=True)
    frames = random_frames(4)[None]
    reference: Any = ReferenceEvaluator(onnx.load(str(file))).run(None, {"FRAMES": frames})
    np.testing.assert_allclose(OnnxModel(file).run({"FRAMES": frames})["FEATURES"], reference[0], atol=1e-4)


def test_the_same_weights_give_the_same_bytes(repository: Path, parity_video: Path, tmp_path: Path) -> None:
    model = build_model()
    options = ExportOptions(shortest_side=SIDE, parity_video=parity_video)
    again = export_model(model, label_outputs(model, {}), tmp_path / "again", options).manifest
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


def report(spatial: Parity, temporal: Parity) -> ParityReport:
    return ParityReport(spatial, temporal)


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
        require(report(spatial, temporal), precision)
    require(report(GOOD, GOOD), precision)


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
    model = build_model()
    with pytest.raises(ParityError, match="fp32 logits differ"):
        export_model(
            model, label_outputs(model, {}), tmp_path / "new", ExportOptions(parity_video=parity_video)
        )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_copy(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "model_repository"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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
        (build_model(), {"head": "../b"}, "head name '../b' must be"),
        (build_model(), {"head": "spatial"}, "head name 'spatial' must be"),
    ],
)
def test_an_export_that_cannot_be_leaves_the_repository(
    own_copy: Path, parity_video: Path, model: SfaVivit, options: dict[str, Any], message: str
) -> None:
    before = snapshot(own_copy)
    with pytest.raises(ExportError, match=message):
        all_options = ExportOptions(**options, parity_video=parity_video)
        export_model(model, label_outputs(model, {}), own_copy, all_options)
    assert snapshot(own_copy) == before
    assert list(own_copy.parent.iterdir()) == [own_copy]


def test_a_folder_of_something_else_is_left_alone(parity_video: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    model = build_model()
    with pytest.raises(RepositoryError, match="not a model repository"):
        export_model(model, label_outputs(model, {}), tmp_path, ExportOptions(parity_video=parity_video))
    assert snapshot(tmp_path) == {"thesis.txt": b"years of work"}


CRASHES = """
import os, signal, sys
from export import exporter, staging, writer
from export.exporter import ExportOptions, export_model
from export.outputs import label_outputs
from pathlib import Path
from tests.conftest import build_model

target, video = Path(sys.argv[1]), Path(sys.argv[2])
POINTS = [(exporter, "write_engine"), (exporter, "measure"), (writer, "_digests"), (staging, "_sync_tree"),
          (staging, "_replace"), (staging, "_sync")]
model = build_model(seed=3)
for module, name in POINTS:
    if (child := os.fork()) == 0:
        setattr(module, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        export_model(model, label_outputs(model, {}), target, ExportOptions(head="b", parity_video=video))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, name
    print(name)
"""


def test_killed_at_any_point_leaves_the_repository(own_copy: Path, parity_video: Path) -> None:
    before = snapshot(own_copy)
    command = [sys.executable, "-c", CRASHES, str(own_copy), str(parity_video)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY_ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split()[-1] == "_sync", done.stderr
    assert snapshot(own_copy) == before
    model = build_model(seed=3)
    options = ExportOptions(head="b", parity_video=parity_video)
    export_model(model, label_outputs(model, {}), own_copy, options)
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
        options = ExportOptions(precision=precision, shortest_side=SIDE, parity_video=parity_video)
        summary = export_model(model, label_outputs(model, {}), tmp_path / precision, options)
        for engine in ("onnxruntime", "torch"):
            features = Recognizer.load(tmp_path / precision, engine=engine).features(frames)
            reference = features if reference is None else reference
            assert cosines(features, reference).min() > 0.999, (precision, engine)
        sizes = {"fp32": 4, "fp16": 2, "int8": 1}
        spatial_values = sum(p.numel() for p in model.spatial.parameters())
        assert summary.spatial_bytes < spatial_values * sizes[precision] + 150_000


def test_configs_are_valid_and_regenerate(repository: Path) -> None:
    configs = {}
    for file in repository.glob("*/config.pbtxt"):
        config = text_format.Parse(file.read_text(), ModelConfig())
        assert config.name == file.parent.name
        configs[config.name] = config
    assert set(configs) == {
        "sfavivit_spatial",
        "sfavivit_temporal_default",
        "sfavivit_default",
        "sfavivit_temporal_long",
        "sfavivit_long",
    }
    spatial, temporal, ensemble = (configs[f"sfavivit_{n}"] for n in ("spatial", "temporal_long", "long"))
    assert (spatial.input[0].name, list(spatial.input[0].dims)) == ("FRAMES", [-1, SIDE, SIDE, 3])
    assert spatial.input[0].data_type == TYPE_UINT8
    assert (spatial.output[0].name, list(spatial.output[0].dims)) == ("FEATURES", [-1, 32])
    assert [output.label_filename for output in temporal.output] == ["1/labels_verb.txt", "1/labels_noun.txt"]
    for output in temporal.output:
        assert (repository / temporal.name / output.label_filename).is_file()
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [spatial.name, temporal.name]
    assert ensemble.max_batch_size == spatial.max_batch_size == temporal.max_batch_size > 1
    assert [o.name for o in ensemble.output] == ["LOGITS_verb", "LOGITS_noun"]


def test_onnxruntime_backend_needs_no_python(parity_video: Path, tmp_path: Path) -> None:
    model = build_model()
    options = ExportOptions(backend="onnxruntime", parity_video=parity_video)
    export_model(model, label_outputs(model, {}), tmp_path / "r", options)
    assert not list((tmp_path / "r").rglob("*.py"))
    text = (tmp_path / "r" / "sfavivit_spatial" / "config.pbtxt").read_text()
    assert text_format.Parse(text, ModelConfig()).backend == "onnxruntime"


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
    data = Path(__file__).parent / "data"
    pairs = [(data / "scenic_golden.msgpack", data / "scenic_golden.npz")]
    if "SFAVIVIT_GOLDEN" in os.environ:
        folder = Path(os.environ["SFAVIVIT_GOLDEN"])
        pairs.append((folder / "scenic_fe_a.msgpack", folder / "scenic_fe_a.npz"))
    return pairs


@pytest.mark.parametrize(("checkpoint", "golden"), golden_files(), ids=lambda path: path.name)
def test_exported_engines_give_scenics_logits(
    checkpoint: Path, golden: Path, parity_video: Path, tmp_path: Path
) -> None:
    model = load_checkpoint(checkpoint)
    options = ExportOptions(parity_video=parity_video)
    export_model(model, label_outputs(model, {}), tmp_path / "repository", options)
    expected = np.load(golden)
    for engine in ("onnxruntime", "torch"):
        recognizer = Recognizer.load(tmp_path / "repository", engine=engine)
        found = [recognizer.logits(recognizer.features(video))[""] for video in expected["video"]]
        assert np.abs(np.stack(found) - expected["logits"]).max() <= 1e-4, engine

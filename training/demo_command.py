"""``demo``: train the demo model, export it and measure it; ``sample``: its sample video."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from export.exporter import ExportOptions, export_model
from sfavivit.errors import UsageError
from sfavivit.inference.options import ClassifyOptions
from sfavivit.inference.recognizer import Recognizer
from sfavivit.models.checkpoints import load_checkpoint, save_checkpoint
from sfavivit.models.vivit import SfaVivit
from training.demo import DemoConfig, long_clip_features, train_stage_one, train_stage_two
from training.demo_clips import SAMPLING
from training.synthetic import LABELS
from training.videos import Confusion, measure_held_out, write_sample
from training.watch import say, work_bar

STAGE_ONE, STAGE_TWO, LABELS_FILE = "stage_one.safetensors", "demo.safetensors", "labels.txt"


def demo(
    out: Annotated[Path, typer.Option(help="Where checkpoints and labels go.")] = Path("runs/demo"),
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository to write, which must not exist (default: OUT/model_repository)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips and start.")] = 0,
    scale: Annotated[
        float, typer.Option(min=0.001, max=10, help="Share of the steps and clips, for a trial.")
    ] = 1.0,
    held_out: Annotated[int, typer.Option(min=1, help="Clips to judge the model by.")] = 240,
    resume: Annotated[bool, typer.Option("--resume", help="Start from OUT/stage_one.safetensors.")] = False,
) -> None:
    """Train the demo model in two stages, export it, and measure it through real videos."""
    repository = repository or out / "model_repository"
    if repository.exists():
        raise UsageError(f"{repository} exists already; remove it or give another --repository")
    out.mkdir(parents=True, exist_ok=True)
    config = DemoConfig(seed=seed).scaled(scale)
    model = load_checkpoint(out / STAGE_ONE) if resume else _stage_one(config, out)
    model = _stage_two(model, config)
    save_checkpoint(model, out / STAGE_TWO)
    (out / LABELS_FILE).write_text("".join(f"{label}\n" for label in LABELS))
    export_demo(model, repository)
    confusion = judge(repository, held_out)
    say(f"held-out top-1 {confusion.accuracy:.1%} on {held_out} videos, through {repository}")
    for label, answer, times in confusion.mistakes():
        say(f"  {label} taken for {answer}: {times}")


def sample(video: Annotated[Path, typer.Argument(help=".mp4 to write.")]) -> None:
    """Write the sample video: five motions, one after the other."""
    write_sample(video)


def _stage_one(config: DemoConfig, out: Path) -> SfaVivit:
    with work_bar("stage I", config.stage_one.steps) as progress:
        model, _ = train_stage_one(config, progress)
    save_checkpoint(model, out / STAGE_ONE)
    return model


def _stage_two(model: SfaVivit, config: DemoConfig) -> SfaVivit:
    with work_bar("features", config.stage_two_clips) as progress:
        features, labels = long_clip_features(model, config, progress)
    with work_bar("stage II", config.stage_two.steps) as progress:
        return train_stage_two(model, features, labels, config, progress)[0]


def export_demo(model: SfaVivit, repository: Path) -> None:
    """Write the model as a new repository."""
    options = ExportOptions(fps=SAMPLING.fps, shortest_side=SAMPLING.shortest_side)
    export_model(model, {"": LABELS}, repository, options)


def judge(repository: Path, clips: int) -> Confusion:
    """Top-1 through the real path: frames -> H.264 .mp4 -> ffmpeg -> the repository's ONNX engines."""
    recognizer = Recognizer.load(repository)

    def classify(video: Path) -> str:
        return recognizer.classify(video, ClassifyOptions(top_k=1)).heads["default"][""].labels[0].label

    with TemporaryDirectory() as folder, work_bar("held-out videos", clips) as progress:
        return measure_held_out(classify, clips, Path(folder), progress)

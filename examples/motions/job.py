"""Job that makes the demo model: training, export, and top-1 on held-out video files."""

from __future__ import annotations

from pathlib import Path

from examples.motions.clips import SAMPLING
from examples.motions.rendering import LABELS
from examples.motions.train import DemoConfig, long_clip_features, train_stage_one, train_stage_two
from examples.motions.videos import judge
from export.exporter import ExportOptions, export_model
from sfavivit.engines.device import Device
from sfavivit.errors import UsageError
from sfavivit.models.checkpoints import load_checkpoint, save_checkpoint
from sfavivit.repository.manifest import TimelineDecoding
from training.progress import say, work_bar

# Chosen on untrimmed videos of DEVELOPMENT_SEED among windows of 4 to 64 tubelets and costs of 0 to 8:
# mAP@0.5 0.93, 0.92 and 0.85 on actions of 8-14, 3-8 and 1.5-4 s; 0.82, 0.29 and 0.03 with the whole window.
TIMELINE = TimelineDecoding(window_tubelets=(8, 16), switch_cost=2.0)
STAGE_ONE, STAGE_TWO, LABELS_FILE = "stage_one.safetensors", "demo.safetensors", "labels.txt"


def run(
    config: DemoConfig, out: Path, repository: Path, held_out: int, *, resume: bool, device: Device = "auto"
) -> None:
    """Train both stages (the first is loaded with ``resume``), export the model and print its accuracy.

    Training and export compute on the CPU; ``device`` is for the accuracy.

    Raises:
        UsageError: the repository exists already.
    """
    if repository.exists():
        raise UsageError(f"{repository} exists already; remove it or give another --repository")
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        model = load_checkpoint(out / STAGE_ONE)
    else:
        with work_bar("stage I", config.stage_one.steps) as progress:
            model = train_stage_one(config, progress)
        save_checkpoint(model, out / STAGE_ONE)
    with work_bar("features", config.stage_two_clips) as progress:
        features, labels = long_clip_features(model, config, progress)
    with work_bar("stage II", config.stage_two.steps) as progress:
        model = train_stage_two(model, features, labels, config, progress)
    save_checkpoint(model, out / STAGE_TWO)
    (out / LABELS_FILE).write_text("".join(f"{label}\n" for label in LABELS))
    options = ExportOptions(fps=SAMPLING.fps, shortest_side=SAMPLING.shortest_side, timeline=TIMELINE)
    export_model(model, {"": LABELS}, repository, options)
    confusion = judge(repository, held_out, device)
    say(f"held-out top-1 {confusion.accuracy:.1%} on {held_out} videos, through {repository}")
    for label, answer, times in confusion.mistakes():
        say(f"  {label} taken for {answer}: {times}")

"""``python -m training stage1 | stage2 | chain RECIPE``: the paper's training.

``python -m training head``: a new head for a model repository, on stored features.
``python -m training demo``: the demo model; ``python -m training sample``: its sample video.
"""

from __future__ import annotations

import typer

from sfavivit.cli.run import run_app
from training.demo_command import demo, sample
from training.head_command import head
from training.stage_commands import register

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
register(app)
app.command()(head)
app.command()(demo)
app.command()(sample)


if __name__ == "__main__":
    run_app(app)

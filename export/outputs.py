"""Labels of a model's outputs, and outputs that share one classifier.

Scenic's EPIC-Kitchens checkpoints hold nouns and verbs in one projection. Given
``--labels noun=nouns.txt --labels verb=verbs.txt``, the unnamed output is split in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from sfavivit.errors import ExportError, RepositoryError
from sfavivit.models.vivit import SfaVivit, classifier_key
from sfavivit.repository.manifest import Labels, parse_labels


def read_label_files(options: Sequence[str]) -> dict[str, Path]:
    """``["FILE"]`` or ``["verb=FILE", "noun=FILE"]`` -> {output: file}.

    Raises:
        ExportError: an output named twice.
    """
    files: dict[str, Path] = {}
    for option in options:
        name, equals, file = option.partition("=")
        output, path = (name, file) if equals and name.isidentifier() else ("", option)
        if output in files:
            raise ExportError(f"--labels {option}: output {output!r} has labels already")
        files[output] = Path(path)
    return files


def label_outputs(model: SfaVivit, files: dict[str, Path]) -> Labels:
    """A label for every class of every output; splits the model's single output when the files say so.

    Without files, classes are called ``class 0``, ``class 1`` ...

    Raises:
        ExportError: files that do not fit the outputs.
        RepositoryError: a file whose lines do not fit.
    """
    if not files:
        return {name: tuple(f"class {i}" for i in range(classes)) for name, classes in model.dims.outputs}
    contents = {}
    for name, file in files.items():
        try:
            contents[name] = file.read_bytes()
        except OSError as error:
            raise ExportError(f"labels file {file} cannot be read: {error.strerror}") from error
    outputs = dict(model.dims.outputs)
    if set(outputs) == {""} and "" not in files:
        split_output(model, {name: len(content.splitlines()) for name, content in contents.items()})
        outputs = dict(model.dims.outputs)
    if set(outputs) != set(files):
        raise ExportError(
            f"labels are given for {_names(files)}, but the model's outputs are {_names(outputs)}; "
            "use --labels FILE for an unnamed output and --labels NAME=FILE for each named one"
        )
    try:
        return {name: parse_labels(contents[name], files[name], outputs[name]) for name in outputs}
    except RepositoryError as error:
        raise ExportError(str(error)) from error


def _names(outputs: dict[str, int] | dict[str, Path]) -> str:
    return ", ".join(name or "(unnamed)" for name in outputs)


@torch.no_grad()
def split_output(model: SfaVivit, classes: dict[str, int]) -> None:
    """Make the unnamed output several named ones, rows of its classifier in order.

    Raises:
        ExportError: the parts do not add up to the whole.
    """
    whole = cast(nn.Linear, model.temporal.classifiers[classifier_key("")])
    if sum(classes.values()) != len(whole.weight):
        parts = " + ".join(f"{count} {name}" for name, count in classes.items())
        raise ExportError(f"the model has {len(whole.weight)} classes; the label files have {parts}")
    first, parts_of = 0, nn.ModuleDict()
    for name, count in classes.items():
        part = nn.Linear(model.dims.hidden_size, count)
        part.weight.copy_(whole.weight[first : first + count])
        part.bias.copy_(whole.bias[first : first + count])
        parts_of[classifier_key(name)] = part
        first += count
    model.temporal.classifiers = parts_of
    model.dims = model.spatial.dims = model.temporal.dims = replace(
        model.dims, outputs=tuple(classes.items())
    )

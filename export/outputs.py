"""Labels of a model's outputs, and the split of outputs that share one classifier.

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
    """Parse ``["FILE"]`` or ``["verb=FILE", "noun=FILE"]`` as {output: file}.

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
    """Return a label for every class of every output.

    Files of several outputs split the model's single one. Without files, classes are called ``class 0`` ...

    Raises:
        ExportError: files that cannot be read or do not fit the outputs.
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
    """Split the unnamed output into several named ones, rows of its classifier in order.

    Raises:
        ExportError: the classes do not add up to the model's.
    """
    whole = cast(nn.Linear, model.temporal.classifiers[classifier_key("")])
    if sum(classes.values()) != len(whole.weight):
        parts = " + ".join(f"{count} {name}" for name, count in classes.items())
        raise ExportError(f"the model has {len(whole.weight)} classes; the label files have {parts}")
    sizes = list(classes.values())
    classifiers = nn.ModuleDict()
    weights, biases = torch.split(whole.weight, sizes), torch.split(whole.bias, sizes)
    for name, weight, bias in zip(classes, weights, biases, strict=True):
        part = nn.Linear(model.dims.hidden_size, len(weight))
        part.load_state_dict({"weight": weight, "bias": bias})
        classifiers[classifier_key(name)] = part
    model.temporal.classifiers = classifiers
    model.dims = model.spatial.dims = model.temporal.dims = replace(
        model.dims, outputs=tuple(classes.items())
    )

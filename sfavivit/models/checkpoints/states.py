"""Finding a model's weights in what training frameworks save.

Trainers keep them beside the optimizer, under a key (``state_dict``, ``model``, ``model_ema`` ...) and below
a prefix of their names (``module.`` of data parallelism, ``model.`` of a trainer's own module). Names that
only this model has, the anchors, tell which mapping holds weights and where the prefix ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sfavivit.models.checkpoints.weights import checkpoint_error

_MAX_DEPTH = 4
# Modules that wrap others: torch.compile, FSDP, activation checkpointing, data parallelism.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}

State = dict[str, object]


def find_state(
    path: Path,
    content: object,
    anchors: Sequence[str],
    from_key: str | None = None,
    preferred: Sequence[str] = (),
) -> State:
    """Return the weights of one set in ``content``, under names without prefixes.

    A set is called by the keys that lead to it and its prefix, joined with slashes; ``from_key`` is such a
    name or one key of it. Without, the only set is taken, or the first one named in ``preferred``.

    Raises:
        CheckpointError: no set of weights, several and none chosen, or no set of that name.
    """
    if not isinstance(content, Mapping):
        raise checkpoint_error(path, f"expected named weights, found {type(content).__name__}")
    found: dict[str, State] = {}
    for route, mapping in _mappings(content):
        found |= _sets(path, route, mapping, anchors)
    names = ", ".join(found) or "none"
    if from_key is not None:
        chosen = [n for n in found if n == from_key] or [n for n in found if from_key in n.split("/")]
        if len(chosen) != 1:
            raise checkpoint_error(
                path, f"expected one set of weights named {from_key!r}; there are: {names}"
            )
        return found[chosen[0]]
    if not found:
        return {str(name): value for name, value in content.items()}  # the caller says what is missing
    chosen = list(found) if len(found) == 1 else [name for name in preferred if name in found]
    if not chosen:
        advice = "save one of them alone" if preferred else "choose one with --from-key"
        raise checkpoint_error(path, f"holds several sets of weights; {advice}: {names}")
    return found[chosen[0]]


def _mappings(content: Mapping[object, object]) -> Iterator[tuple[tuple[str, ...], Mapping[object, object]]]:
    """Yield every mapping in the content with the keys that lead to it, outer ones first."""
    seen = {id(content)}  # a pickle can hold a mapping that contains itself
    level: list[tuple[tuple[str, ...], Mapping[object, object]]] = [((), content)]
    for _ in range(_MAX_DEPTH):
        yield from level
        below: list[tuple[tuple[str, ...], Mapping[object, object]]] = []
        for route, mapping in level:
            for key, value in mapping.items():
                if isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    below.append(((*route, str(key)), value))
        level = below


def _sets(
    path: Path, route: tuple[str, ...], mapping: Mapping[object, object], anchors: Sequence[str]
) -> dict[str, State]:
    """Return the sets of weights directly in a mapping: one for each prefix of an anchor."""
    named = {name: v for name, v in mapping.items() if isinstance(name, str) and not isinstance(v, Mapping)}
    weights = {_unwrapped(name): value for name, value in named.items()}
    prefixes = {
        name.removesuffix(anchor)
        for name in weights
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    }
    if prefixes and len(weights) < len(named):
        raise checkpoint_error(path, "holds a weight twice, with and without the name of a wrapping module")
    sets: dict[str, State] = {}
    for prefix in sorted(prefixes):
        inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        sets["/".join((*route, *prefix.split("."))).strip("/") or "."] = {
            name[len(prefix) :]: value
            for name, value in weights.items()
            if name.startswith(prefix) and not name.startswith(inner)
        }
    return sets


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)

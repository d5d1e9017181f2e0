"""The ``sfavivit store`` commands: maintenance of a feature store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sfavivit.cli.options import err, out
from sfavivit.cli.progress import progress_bar
from sfavivit.cli.render import store_view
from sfavivit.features.maintenance import (
    DAY_SECONDS,
    Keep,
    Place,
    fault,
    places,
    remove,
    stats,
    to_prune,
)
from sfavivit.features.store import FeatureStore
from sfavivit.scoring.job_options import ModelLocation
from sfavivit.utils.text import printable

store_app = typer.Typer(no_args_is_help=True, help="Check, measure and prune a feature store.")
StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the feature store.")]


@store_app.command()
def verify(
    root: StoreArgument,
    delete: Annotated[bool, typer.Option("--delete", help="Remove damaged entries.")] = False,
) -> None:
    """Read every entry and list damaged entries and foreign files; exit code 1 when entries are damaged."""
    found = places(FeatureStore(root, create=False))
    entries = damaged = 0
    with _advancing(len(found)) as advance:
        for place in found:
            reason = fault(place)
            advance()
            is_entry = place.kind == "entry"
            entries += is_entry
            if reason is None:
                continue
            damaged += is_entry
            if delete and is_entry and _is_file(place):
                remove(place)
                reason += " (removed)"
            print(printable(f"{'damaged' if is_entry else place.kind}: {place.path}: {reason}"), flush=True)
    print(f"{entries} entries, {damaged} damaged")
    raise typer.Exit(1 if damaged else 0)


@store_app.command(name="stats")
def show_stats(
    root: StoreArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how much a store holds, and for which models."""
    store = FeatureStore(root, create=False)
    found = places(store)
    with _advancing(len(found)) as advance:
        counted = stats(found, advance)
    if as_json:
        fields = {"dtype": store.dtype, **asdict(counted)}
        print(json.dumps({**fields, "others": dict(counted.others)}))
    else:
        out.print(store_view(store, counted))


@store_app.command()
def prune(
    root: StoreArgument,
    keep_model: Annotated[
        list[str] | None,
        typer.Option(metavar="REPOSITORY", help="Remove features of all models but this one; repeatable."),
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Remove entries older than so many days.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Remove the oldest entries until the store has at most so many bytes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
) -> None:
    """Remove entries, and the temporary files that killed writers have left."""
    models = frozenset(ModelLocation(name).catalog().manifest.spatial_sha256 for name in keep_model or ())
    keep = Keep(
        models or None,
        None if older_than is None else older_than * DAY_SECONDS,
        max_bytes,
    )
    found = places(FeatureStore(root, create=False))
    with _advancing(len(found)) as advance:
        doomed = [place for place in to_prune(found, keep, advance) if _is_file(place)]
    for place in doomed:
        if dry_run:
            print(printable(str(place.path)))
        else:
            remove(place)
    leftovers = sum(place.kind == "leftover" for place in doomed)
    removed = "would be removed" if dry_run else "removed"
    size = sum(place.bytes for place in doomed)
    print(f"{len(doomed) - leftovers} entries and {leftovers} leftovers {removed}, {size / 1e6:.1f} MB")


def _is_file(place: Place) -> bool:
    """Return whether it is a file or a link; only people should remove whole folders."""
    return place.path.is_symlink() or not place.path.is_dir()


@contextmanager
def _advancing(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar of entries; each call moves it by one."""
    with progress_bar("entries", err) as update:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            update(done, total, f"{done}/{total}")

        yield advance

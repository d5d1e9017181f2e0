"""Rows of the training table, and the paper's claims tested on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from benchmarks.figures import Case, Figure, Row
from benchmarks.sign_videos import PICTURE_SIGNS
from benchmarks.training_table import Cost, TrainingTable
from benchmarks.training_variants import LONG_FULL, NEW_TEMPORAL, NOT_INITIALISED, SFA, Chain, kind
from training.record import EpochRow, near_peak_epoch

POINT = 1.0  # of top-1, in %
MIB = 1 << 20
TOP1, NEAR_PEAK, EPOCH, COST, NEAR_PEAK_COST, MEMORY = (
    "top-1",
    "near-peak epoch",
    "epoch",
    "cost",
    "cost to near-peak",
    "peak memory",
)


class Claim(NamedTuple):
    """A claim of the paper, the quantity ``measured`` in ``unit``, and whether it holds."""

    text: str
    measured: float
    unit: str
    holds: bool


def table_rows(table: TrainingTable) -> list[Row]:
    """Return the row of the image model, and a row for each variant and each claim.

    Top-1 is that of the last epoch; the near-peak epoch is counted in the last stage; costs are those of all
    stages.
    """
    costs = table.costs()
    rows = {
        name: Row({"variant": name, "stages": _stages(chain)}, _figures(chain, table.epochs(chain), costs))
        for name, chain in table.variants.items()
    }
    figures = {name: row.figures for name, row in rows.items()}
    return [_image_row(table), *rows.values(), *(_claim_row(claim) for claim in claims(figures))]


def _image_row(table: TrainingTable) -> Row:
    """Return the row of the image model, whose cost does not count: the paper's image models are given."""
    scale, top1 = table.scale, table.image_top1()
    case: Case = {"image model": f"{PICTURE_SIGNS} signs, {scale.pictures} pictures x {scale.image_epochs}"}
    return Row(case, _top1_figures(top1) if top1 else {})


def _top1_figures(top1: Sequence[float]) -> dict[str, Figure]:
    """Return the figures of ``top1``, a share for each seed."""
    percent = tuple(100 * one for one in top1)
    return {
        TOP1: Figure("%", "higher", percent),
        f"mean {TOP1}": Figure("%", "higher", (fmean(percent),)),
    }


def _stages(chain: Chain) -> str:
    return ", ".join(f"{stage.frames} frames x {stage.epochs}" for stage in chain)


def _figures(
    chain: Chain, seeds: Sequence[Sequence[EpochRow]], costs: Mapping[str, Cost]
) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    peaks = [near_peak_epoch(rows) or 0 for rows in seeds]
    if seeds:
        figures |= _top1_figures([rows[-1].top1 for rows in seeds])
        figures[NEAR_PEAK] = Figure("", "lower", tuple(peaks))
    if costs:
        seconds = [costs[kind(stage)].seconds for stage in chain]
        memory = zip(*(costs[kind(stage)].memory_bytes for stage in chain), strict=True)
        epochs = [stage.epochs or 0 for stage in chain]
        totals = [sum(map(float.__mul__, once, map(float, epochs))) for once in zip(*seconds, strict=True)]
        figures[EPOCH] = Figure("s", "lower", tuple(seconds[-1]))
        figures[COST] = Figure("s", "lower", tuple(totals))
        figures[MEMORY] = Figure("MiB", "lower", tuple(max(once) / MIB for once in memory))
        saved = [(epochs[-1] - peak) * median(seconds[-1]) for peak in peaks]
        if saved:
            figures[NEAR_PEAK_COST] = Figure("s", "lower", tuple(median(totals) - value for value in saved))
    return figures


def claims(figures: Mapping[str, Mapping[str, Figure]]) -> Iterator[Claim]:
    """Test the claims of arXiv 2306.04822: its abstract's on SFA models against full training (model E), and
    its ablations' on initialisation. Claims whose figures are missing are left out.
    """
    full = figures[LONG_FULL]
    for name in SFA:
        sfa = figures[name]
        if COST in full:
            cost = sfa[COST].median / full[COST].median
            yield Claim(f"{name} costs half of E or less, all stages", cost, "x", cost <= 0.5)
            memory = sfa[MEMORY].median / full[MEMORY].median
            yield Claim(f"{name} takes less memory than E", memory, "x", memory < 1)
        if _comparable(sfa, full):
            epochs = _mean(sfa, NEAR_PEAK) / _mean(full, NEAR_PEAK)
            yield Claim(f"{name} is near its peak in half of E's epochs or less", epochs, "x", epochs <= 0.5)
            lead = _mean(sfa, TOP1) - _mean(full, TOP1)
            yield Claim(f"{name} is within a point of E, or better", lead, "points", lead >= -POINT)
    for name in (NOT_INITIALISED, NEW_TEMPORAL):
        if _comparable(figures[name], figures["SFA C"]):
            loss = _mean(figures["SFA C"], TOP1) - _mean(figures[name], TOP1)
            yield Claim(f"{name}: over a point worse than SFA C", loss, "points", loss > POINT)


def _comparable(first: Mapping[str, Figure], second: Mapping[str, Figure]) -> bool:
    """Return whether both were trained with as many seeds: a run may be unfinished."""
    return TOP1 in first and TOP1 in second and len(first[TOP1].samples) == len(second[TOP1].samples)


def _mean(figures: Mapping[str, Figure], name: str) -> float:
    return fmean(figures[name].samples)


def _claim_row(claim: Claim) -> Row:
    case: Case = {"claim": claim.text}
    measured = Figure(claim.unit, "neither", (claim.measured,))
    return Row(case, {"measured": measured, "holds": Figure("", "neither", (float(claim.holds),))})

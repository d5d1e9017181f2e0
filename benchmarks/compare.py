"""What changed from one result to another, beyond the noise.

A figure that can be better or worse changed where both of these hold:

1. Its median moved by more than ``noise``, a share of the smaller of the two. Repeats in one run share its
   process and the state of the machine, so runs differ by more than repeats do (Kalibera and Jones,
   "Rigorous benchmarking in reasonable time", ISMM 2013), and a test on the repeats cannot see that.
2. Its samples lie apart. With at least four on each side: the Mann-Whitney U test at 5%, which compares
   ranks, so that an outlier alone is no change. With fewer that test cannot say anything (three on each side:
   p >= 0.1), and the ranges must not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.figures import Case, Figure, Result, Row
from benchmarks.rank_test import mann_whitney_p
from sfavivit.errors import UsageError

MIN_SAMPLES = 4
SIGNIFICANCE = 0.05
HARDWARE = ("processor", "cores", "gpu")
_OF_EACH_RUN = ("date", "commit")

Verdict = Literal["improved", "worse", "same", "context", "only in old", "only in new"]
_CaseKey = tuple[tuple[str, str | int | float | bool], ...]


@dataclass(frozen=True)
class Change:
    """A figure of a case in two results: its medians in ``unit``, None where a result does not have it.

    "context" is said of a figure that has no better direction, such as the number of requests in a run of
    fixed time: it follows from the others, or says what they are of.
    """

    case: Case
    figure: str
    unit: str
    old: float | None
    new: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """New over old; None where there is none."""
        return self.new / self.old if self.old and self.new is not None else None


def compare(old: Result, new: Result, noise: float = 0.05) -> list[Change]:
    """Every figure of every case: those of ``old`` in its order, then those that only ``new`` has.

    Raises:
        UsageError: results of different benchmarks, or that contradict themselves or each other.
    """
    if old.benchmark != new.benchmark:
        raise UsageError(f"a result of {old.benchmark!r} cannot be compared with one of {new.benchmark!r}")
    before, after = _by_case(old, "old"), _by_case(new, "new")
    changes = []
    for key, row in (before | after).items():
        figures, others = (rows[key].figures if key in rows else {} for rows in (before, after))
        for name in figures | others:
            changes.append(_change(row.case, name, figures.get(name), others.get(name), noise))
    return changes


def differences(old: Result, new: Result) -> dict[str, tuple[Any, Any]]:
    """What is not the same of machines, versions and commands: by its name, in ``old`` and in ``new``."""
    one, other = _facts(old), _facts(new)
    return {
        name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)
    }


def _change(case: Case, name: str, old: Figure | None, new: Figure | None, noise: float) -> Change:
    if old and new:
        if (old.unit, old.better) != (new.unit, new.better):
            one, other = (f"in {figure.unit!r} ({figure.better} is better)" for figure in (old, new))
            raise UsageError(f"figure {name!r} of {case} is {one} in the old result, {other} in the new one")
        return Change(case, name, old.unit, old.median, new.median, _verdict(old, new, noise))
    if old:
        return Change(case, name, old.unit, old.median, None, "only in old")
    assert new
    return Change(case, name, new.unit, None, new.median, "only in new")


def _verdict(old: Figure, new: Figure, noise: float) -> Verdict:
    if old.better == "neither":
        return "context"
    rise = new.median - old.median
    if abs(rise) <= noise * min(abs(old.median), abs(new.median)) or not _apart(old.samples, new.samples):
        return "same"
    return "improved" if (rise > 0) == (old.better == "higher") else "worse"


def _apart(one: Sequence[float], other: Sequence[float]) -> bool:
    if min(len(one), len(other)) < MIN_SAMPLES:
        return max(one) < min(other) or max(other) < min(one)
    return mann_whitney_p(one, other) < SIGNIFICANCE


def _by_case(result: Result, which: str) -> dict[_CaseKey, Row]:
    rows: dict[_CaseKey, Row] = {}
    for row in result.rows:
        key = tuple(sorted(row.case.items()))
        if key in rows:
            raise UsageError(f"the {which} result has two rows of one case, {row.case}; measure again")
        rows[key] = row
    return rows


def _facts(result: Result) -> dict[str, Any]:
    facts = {"command": result.command}
    for name, value in result.machine.items():
        if isinstance(value, dict):
            facts |= {f"{name} {key}": item for key, item in value.items()}
        elif name not in _OF_EACH_RUN:
            facts[name] = value
    return facts

"""Queue of requests in front of the service: slots and cancellations in the same moment."""

from __future__ import annotations

import asyncio

import pytest

from serving.admission import Admission
from sfavivit.errors import ServiceBusyError


async def hold(admission: Admission, entered: asyncio.Event, leave: asyncio.Event) -> None:
    async with admission.slot():
        entered.set()
        await leave.wait()


@pytest.mark.parametrize("leaves_first", [False, True])
def test_one_that_gives_up_in_the_moment_when_another_leaves(leaves_first: bool) -> None:
    """It ends as cancelled, the next in the queue gets the slot, and no slot is lost."""

    async def main() -> None:
        admission, leave, never = Admission(1, 2), asyncio.Event(), asyncio.Event()
        entered = [asyncio.Event() for _ in range(3)]
        runs, gives_up, waits = [
            asyncio.create_task(hold(admission, event, end))
            for event, end in zip(entered, (leave, never, never), strict=True)
        ]
        await entered[0].wait()
        await asyncio.sleep(0)
        assert (admission.running, admission.waiting) == (1, 2)
        with pytest.raises(ServiceBusyError):
            async with admission.slot():
                pass
        if leaves_first:
            leave.set()
        gives_up.cancel()
        leave.set()
        results = await asyncio.gather(gives_up, runs, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) and results[1] is None
        await asyncio.wait_for(entered[2].wait(), 5)
        assert not entered[1].is_set()
        assert (admission.running, admission.waiting) == (1, 0)
        never.set()
        await waits
        assert admission.running == 0

    asyncio.run(main())

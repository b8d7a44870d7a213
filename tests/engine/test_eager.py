"""Starting a coroutine by hand changes nothing that it or its task can see."""

from __future__ import annotations

import asyncio

import pytest

from junctor.engine.eager import Ready, Waiting, start


async def at_once(value: int) -> int:
    return value


async def later(value: int, waits: int = 2) -> int:
    for _ in range(waits):
        await asyncio.sleep(0.001)
    return value


async def test_what_never_waits_is_ready() -> None:
    assert start(at_once(3)) == Ready(3)


async def test_what_waits_is_finished_by_awaiting_it() -> None:
    started = start(later(4))
    assert isinstance(started, Waiting)
    assert await started == 4


async def test_an_error_before_the_first_wait_comes_out_of_start() -> None:
    async def fails() -> None:
        raise KeyError("early")

    with pytest.raises(KeyError, match="early"):
        start(fails())


async def test_an_error_after_a_wait_comes_out_of_the_await() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("late")

    started = start(fails())
    assert isinstance(started, Waiting)
    with pytest.raises(KeyError, match="late"):
        await started


async def test_a_failed_future_reaches_the_coroutine() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def handles() -> str:
        try:
            await future
        except ValueError as error:
            return f"handled {error}"
        return "nothing came"

    started = start(handles())
    future.set_exception(ValueError("it"))
    assert isinstance(started, Waiting)
    assert await started == "handled it"


async def test_a_timeout_cancels_inside_and_is_told_outside() -> None:
    cleaned = []

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    started = start(hangs())
    assert isinstance(started, Waiting)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await started
    assert cleaned == [True]

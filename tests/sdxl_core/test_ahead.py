"""The thread that writes what was computed: in order, never far behind, and never silent about what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from sdxl_core.ahead import THREAD, Behind


def test_pieces_are_done_in_their_order_by_another_thread() -> None:
    seen: list[tuple[int, str]] = []
    with Behind() as behind:
        for item in range(20):
            behind.add(lambda item=item: seen.append((item, threading.current_thread().name)))  # type: ignore[misc]
    assert [item for item, _ in seen] == [*range(20)] and all(name.startswith(THREAD) for _, name in seen)


def test_the_main_thread_waits_for_one_that_is_far_behind() -> None:
    may_write, filled, passed = threading.Event(), threading.Event(), threading.Event()

    def fill() -> None:
        with Behind(most=2) as behind:
            for item in range(3):
                behind.add(lambda: may_write.wait() and None)
                if item == 1:
                    filled.set()  # one in hand, one waiting
            passed.set()

    thread = threading.Thread(target=fill)
    thread.start()
    assert filled.wait(30)
    assert not passed.wait(0.2), "the third has no room"
    may_write.set()
    thread.join(30)
    assert passed.is_set() and not thread.is_alive()


def failing_on(bad: int, written: list[int]) -> Callable[[int], None]:
    def write(item: int) -> None:
        if item == bad:
            raise OSError(28, "No space left on device")
        written.append(item)

    return write


@pytest.mark.parametrize("count", [3, 50])
def test_what_goes_wrong_is_raised_at_the_latest_on_leaving(count: int) -> None:
    """With few pieces by leaving, with many by an `add`; nothing after it is done, and nobody waits for ever."""
    written: list[int] = []
    write = failing_on(2, written)
    with pytest.raises(OSError, match="No space"), Behind(most=1) as behind:
        for item in range(count):
            behind.add(partial(write, item))
    assert written == [0, 1]
    assert not any(thread.name.startswith(THREAD) for thread in threading.enumerate())


def test_an_error_is_raised_before_room_runs_out() -> None:
    """By the first `add` after it, however many more might wait."""
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise OSError(28, "No space left on device")

    added = 0
    with pytest.raises(OSError, match="No space"), Behind(most=1000) as behind:
        behind.add(fail)
        assert failed.wait(30)
        behind._begun[0].exception(30)
        behind.add(lambda: None)
        added += 1
    assert added == 0


def test_an_error_of_ones_own_is_not_hidden_and_what_was_added_is_kept() -> None:
    written: list[int] = []
    with pytest.raises(KeyboardInterrupt), Behind(most=4) as behind:
        for item in range(4):
            behind.add(partial(written.append, item))
        raise KeyboardInterrupt
    assert written == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt), Behind() as failing:
        failing.add(partial(failing_on(0, []), 0))
        raise KeyboardInterrupt

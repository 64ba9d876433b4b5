"""The thread that writes pictures: in order, never far behind, and never silent about what went wrong."""

from __future__ import annotations

import io
import threading

import pytest
from PIL import Image

from sdxl_core.picture_files import Writer, pixel_digest, png_bytes


def test_items_are_written_in_their_order_by_another_thread() -> None:
    seen: list[tuple[int, str]] = []
    with Writer[int](lambda item: seen.append((item, threading.current_thread().name)), room=2) as writer:
        for item in range(20):
            writer.put(item)
    assert seen == [(item, "pictures") for item in range(20)] and writer.written == 20


def test_drawing_waits_for_a_writer_that_is_far_behind() -> None:
    may_write, filled, passed = threading.Event(), threading.Event(), threading.Event()

    def fill() -> None:
        with Writer[int](lambda item: may_write.wait(), room=2) as writer:
            for item in range(4):
                writer.put(item)
                if item == 2:
                    filled.set()  # one in hand, two waiting
            passed.set()

    thread = threading.Thread(target=fill)
    thread.start()
    assert filled.wait(30)
    assert not passed.wait(0.2), "the fourth has no room"
    may_write.set()
    thread.join(30)
    assert passed.is_set() and not thread.is_alive()


def fail_on(bad: int, written: list[int]) -> Writer[int]:
    def write(item: int) -> None:
        if item == bad:
            raise OSError(28, "No space left on device")
        written.append(item)

    return Writer(write, room=1)


@pytest.mark.parametrize("count", [3, 50])
def test_what_goes_wrong_is_raised_at_the_latest_on_leaving(count: int) -> None:
    """With few items by leaving, with many by a `put`; nothing after it is written, and nobody waits for ever."""
    written: list[int] = []
    with pytest.raises(OSError, match="No space"), fail_on(2, written) as writer:
        for item in range(count):
            writer.put(item)
    assert written == [0, 1] and writer.written == 2
    assert "pictures" not in [thread.name for thread in threading.enumerate()]


def test_an_error_of_ones_own_is_not_hidden_and_what_was_drawn_is_kept() -> None:
    written: list[int] = []
    with pytest.raises(KeyboardInterrupt), Writer[int](written.append, room=4) as writer:
        for item in range(4):
            writer.put(item)
        raise KeyboardInterrupt
    assert written == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt), fail_on(0, []) as failing:
        failing.put(0)
        raise KeyboardInterrupt


def test_pixel_digest_ignores_how_a_picture_was_compressed_and_described() -> None:
    picture = Image.new("RGB", (4, 3), (1, 2, 3))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    assert pixel_digest(png_bytes(picture, {"parameters": "a cat"})) == pixel_digest(buffer.getvalue())

"""What is tried again: errors that pass, and no others; with the libraries' own classes."""

from __future__ import annotations

import errno

import httpx
import pytest
import requests
import urllib3
from huggingface_hub.errors import HfHubHTTPError

from eval.errors import EvalError
from sdxl_core.errors import UserError
from tasks.errors import StageTimedOut, TrainerFailed, TrainerPreempted, TrainerStopped
from tasks.transient import is_transient


def answered(status: int) -> HfHubHTTPError:
    asked = httpx.Request("GET", "https://hub.invalid/x")
    return HfHubHTTPError(f"{status}", response=httpx.Response(status, request=asked))


def named(module: str, name: str, above: str) -> Exception:
    """Of a library that not everybody has: a class of its name, below another of its."""
    base = type(above, (Exception,), {"__module__": module})
    error: Exception = type(name, (base,), {"__module__": module})("refused")
    return error


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


PASSING = [
    TrainerStopped("killed"),
    TrainerPreempted("asked to stop"),
    ConnectionResetError("by peer"),
    TimeoutError("timed out"),
    *(OSError(number, "trouble") for number in (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT)),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut off"),
    requests.exceptions.ConnectionError("refused"),
    requests.exceptions.ReadTimeout("slow"),
    urllib3.exceptions.ProtocolError("cut off"),
    named("botocore.exceptions", "EndpointConnectionError", "ConnectionError"),
    named("aiohttp.client_exceptions", "ClientOSError", "ClientConnectionError"),
    answered(503),
    answered(429),
    caused_by(RuntimeError("could not fetch"), httpx.ConnectTimeout("slow")),
]
LASTING = [
    RuntimeError("a bug"),
    ValueError("a bug"),
    MemoryError(),
    UserError("mend your picture"),
    EvalError("no such column"),
    caused_by(UserError("no such model"), ConnectionError("refused")),
    TrainerFailed("not finite"),
    StageTimedOut("too long"),
    *(OSError(number, "trouble") for number in (errno.ENOSPC, errno.EACCES, errno.ENOENT, errno.EROFS)),
    OSError("cannot identify image file"),
    httpx.UnsupportedProtocol("gopher"),
    answered(404),
    answered(401),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_is_known(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_would_come_again_is_not_taken_for_it(error: Exception) -> None:
    assert not is_transient(error)

"""Which errors pass by themselves, so that trying again makes sense. Everything else would come again."""

from __future__ import annotations

import errno

from tasks.errors import USER_ERRORS, StageTimedOut, TrainerFailed, TrainerStopped

_LASTING: tuple[type[BaseException], ...] = (*USER_ERRORS, TrainerFailed, StageTimedOut)
_PASSING: tuple[type[BaseException], ...] = (TrainerStopped, ConnectionError)
_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO),  # a network disk that comes back
        *(errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_OF_LIBRARIES = frozenset(
    {
        "httpx.TimeoutException",
        "httpx.NetworkError",
        "httpx.RemoteProtocolError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "requests.exceptions.ChunkedEncodingError",
        "urllib3.exceptions.TimeoutError",
        "urllib3.exceptions.ProtocolError",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
    }
)
"""By name, so that none has to be loaded; subclasses are meant too."""


def is_transient(error: BaseException | None) -> bool:
    """Whether the error, or one that it was raised from, is of a kind that passes; nothing of the user's is."""
    while error is not None:
        if isinstance(error, _LASTING):
            return False
        if _passes(error):
            return True
        error = error.__cause__
    return False


def _passes(error: BaseException) -> bool:
    if isinstance(error, _PASSING) or type(error) is TimeoutError:  # Prefect's own limits are subclasses of it
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    if not _OF_LIBRARIES.isdisjoint(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__):
        return True
    return getattr(getattr(error, "response", None), "status_code", None) in _STATUSES  # of hubs and buckets

"""Secrets: kept out of configurations and parameters, which others see, and out of what is logged."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tasks.errors import ConfigError

if TYPE_CHECKING:
    from tasks.manifest import Json

LOGGERS = ("sdxl_flows", "sdxl_flows.store")
"""All of ours: a filter of a logger does not see what its children say."""
MASK = "***"
_SECRET_NAME = re.compile(
    r"(?:.*_)?(?:TOKEN|KEY|SECRET|PASSWORD|AUTH_STRING)|AWS_ACCESS_KEY_ID|PREFECT_.*DATABASE_CONNECTION_URL"
)
_SHORTEST = 8
"""Shorter values are words that stand everywhere."""
_LOOKS = {
    r"\bhf_[A-Za-z0-9]{20,}\b": ("an access token of the Hugging Face hub", "HF_TOKEN"),
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b": ("an AWS access key", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    r"\bwandb_v\d_[A-Za-z0-9_]{20,}\b": ("a key of Weights & Biases", "WANDB_API_KEY"),
    r"://[^/\s:@]*:[^/\s@]+@": (
        "an address with a password",
        "HTTPS_PROXY for a proxy, PREFECT_API_AUTH_STRING for Prefect's server",
    ),
}
_KEY_FIELD = re.compile(r"key|token|secret|password", re.IGNORECASE)
_HEX_KEY = re.compile(r"[0-9a-f]{40}")


def refuse_secrets(document: Json, source: str) -> None:
    """Raises ConfigError where a text looks like a credential, naming its place and the variable to use; not itself."""
    for key, text in _texts(document):
        found = next((told for look, told in _LOOKS.items() if re.search(look, text)), None)
        if found is None and _KEY_FIELD.search(key.rpartition(".")[2]) and _HEX_KEY.fullmatch(text):
            found = ("a key of Weights & Biases", "WANDB_API_KEY")
        if found is not None:
            what, variable = found
            raise ConfigError(
                f"{source}: {key}: looks like {what}. A configuration is shown in reports and by Prefect's server: "
                f"remove it, set {variable} in the environment of what runs, and renew what was submitted already"
            )


def is_secret_name(name: str) -> bool:
    """Whether a variable of the environment is one whose value is masked."""
    return _SECRET_NAME.fullmatch(name.upper()) is not None


def _texts(value: Json, where: str = "") -> Iterator[tuple[str, str]]:
    """-> (key, text) of all texts inside, keys of mappings as well."""
    if isinstance(value, str):
        yield where, value
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        if isinstance(value, Mapping):
            yield where or "top level", str(name)
        yield from _texts(entry, f"{where}.{name}".lstrip("."))


def masked(text: str) -> str:
    """The text without the values of secret variables of the environment."""
    for value in _secrets():
        text = text.replace(value, MASK)
    return text


def _secrets() -> list[str]:
    """Longest first, as one may hold another. Of `name:password`, the password also by itself."""
    found = {value for name, value in os.environ.items() if is_secret_name(name)}
    found |= {value.partition(":")[2] for value in found if value.count(":") == 1}
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)


class _Mask(logging.Filter):
    """Masks secrets in a record before any handler has it."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if (shown := masked(message)) != message:
            record.msg, record.args = shown, ()
        if record.exc_info:
            record.exc_text = masked(logging.Formatter().formatException(record.exc_info))
        return True


def mask_logs() -> None:
    """Have all that our loggers say masked, on the console, in files and in Prefect. Twice is as good as once."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Mask) for one in logger.filters):
            logger.addFilter(_Mask())


def log_to_stderr() -> None:
    """What the project's own loggers say, for people at a terminal, masked."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("sdxl_flows")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    mask_logs()

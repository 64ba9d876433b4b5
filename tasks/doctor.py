"""What this machine has of what a run needs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from typing import Literal

from tasks.errors import StoreAway, StoreError
from tasks.store import store_root, store_url

_REQUIRED = ("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "prefect", "datasets", "lpips")
_EXTRAS = {"wandb": "wandb", "xformers": "xformers", "insightface": "faces", "bitsandbytes": "8bit"}
_ROOMY_GB, _ENOUGH_MEMORY_GB = 20, 4


@dataclass(frozen=True)
class Finding:
    subject: str
    state: Literal["ok", "note", "bad"]
    text: str


def examine() -> Iterator[Finding]:
    """Look at interpreter, libraries, extras, device, memory, disk, store and hub, one finding after another."""
    right = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Finding("python", "ok" if right else "bad", f"{platform.python_version()} (needs 3.11 or 3.12)")
    yield from _libraries()
    yield _device()
    yield _memory()
    yield _disk()
    yield from _shared_store()
    yield _hub()


def _libraries() -> Iterator[Finding]:
    for name in _REQUIRED:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "bad", "missing: pip install -e . -c constraints.txt")
    for name, extra in _EXTRAS.items():
        if util.find_spec(name) is None:
            yield Finding(
                name, "note", f"not installed; if you want it: pip install -e '.[{extra}]' -c constraints.txt"
            )
        else:
            yield Finding(name, "ok", metadata.version(name))


def _device() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("device", "bad", "unknown: torch does not import")
    if not torch.cuda.is_available():
        cores = os.cpu_count() or 1
        return Finding(
            "device", "note", f"{cores} processor cores, no GPU: the miniature runs well, real SDXL does not"
        )
    names = ", ".join(
        f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
        for i in range(torch.cuda.device_count())
    )
    return Finding("device", "ok", f"{names}; CUDA {torch.version.cuda}")


def _memory() -> Finding:
    import psutil

    free_gb = psutil.virtual_memory().available / 1e9
    state: Literal["ok", "note"] = "ok" if free_gb >= _ENOUGH_MEMORY_GB else "note"
    return Finding("memory", state, f"{free_gb:.1f} GB available (the miniature wants {_ENOUGH_MEMORY_GB})")


def _disk() -> Finding:
    root = store_root()
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        return Finding("store", "bad", f"{root}: not writable; set SDXL_FLOWS_STORE")
    free_gb = shutil.disk_usage(place).free / 1e9
    state: Literal["ok", "note"] = "ok" if free_gb >= _ROOMY_GB else "note"
    return Finding("store", state, f"{root}: {free_gb:.0f} GB free (real SDXL wants {_ROOMY_GB})")


def _shared_store() -> list[Finding]:
    """Of the store that others share, if the environment names one."""
    if (url := store_url()) is None:
        return []
    from tasks.shared.objects import MARKER, Objects

    try:
        objects = Objects(url)
        began = time.monotonic()
        objects.listed("")
        objects.read(MARKER)
    except (StoreError, StoreAway) as error:
        return [Finding("shared store", "bad", str(error))]
    requests_ms = (time.monotonic() - began) / 2 * 1000
    return [Finding("shared store", "ok", f"{url}: creates objects once; a request takes {requests_ms:.0f} ms")]


def _hub() -> Finding:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if HF_HUB_OFFLINE:
        return Finding("hub", "note", "offline by HF_HUB_OFFLINE; local folders and what is cached still work")
    try:
        return Finding("hub", "ok", f"signed in as {HfApi().whoami()['name']}")
    except LocalTokenNotFoundError:
        return Finding("hub", "note", "not signed in; public models work if the network does (`hf auth login`)")
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        return Finding("hub", "note", f"not reached ({reason}); local folders and what is cached still work")

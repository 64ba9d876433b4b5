"""A call from another machine, on this one: `python -m tasks.remote.run CALL`.

CALL is an object in the shared store, or a file here. The store is that of the environment (SDXL_FLOWS_STORE; its
copies here go to SDXL_FLOWS_CACHE), and so are credentials, or they come with the machine's role. Ends with the
project's exit codes: 0 the artifact is in the store, 2 somebody has to change something, 75 stopped by SIGTERM after
saving, 1 anything else. How far it is and how it ended is written beside the object.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from sdxl_core.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED, EXIT_USER_ERROR
from tasks.errors import EXIT_CODES, ConfigError, StoreAway
from tasks.manifest import Frozen, Json
from tasks.progress import Progress
from tasks.remote.calls import RemoteCall, as_call
from tasks.secrets import log_to_stderr, masked
from tasks.shared.objects import Objects
from tasks.stage import Call, Conditions, Job, materialise
from tasks.store import ArtifactStore, named_store
from tasks.transient import is_transient

_LOG = logging.getLogger("sdxl_flows")
TELL_EVERY_S = 5.0
_FAILURE = Path("/opt/ml/output")
"""Where SageMaker takes the reason of a failure from, if a container leaves it there."""


class Told(Frozen):
    """How far a call is, for whoever waits for it."""

    done: int
    total: int
    note: str = ""


class End(Frozen):
    """How a call ended, for whoever waits for it."""

    code: int
    error: str = ""
    """Class of what was raised."""
    message: str = ""
    passes: bool = False
    """Whether another attempt makes sense."""


class Stopped(BaseException):
    """SIGTERM came: whatever runs is left, and the trainer, if one runs, saves on the way out."""


def told_place(call: str) -> str:
    """Of how far a call is; `call`: the object that it is."""
    return f"{call.removesuffix('.json')}.progress"


def end_place(call: str) -> str:
    """Of how it ended."""
    return f"{call.removesuffix('.json')}.end"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(f"usage: python -m tasks.remote.run CALL\n\n{__doc__}", file=sys.stderr)
        return EXIT_USER_ERROR
    log_to_stderr()
    signal.signal(signal.SIGTERM, _stop)
    objects: Objects | None = None
    try:
        store = named_store()
        objects = store.objects
        remote, shared = _read(arguments[0], objects)
        _carry_out(remote, store, arguments[0] if shared else None)
        end = End(code=EXIT_DONE)
    except Stopped:
        end = End(code=EXIT_PREEMPTED, error="Stopped", message="stopped by SIGTERM; what is done is saved")
    except Exception as error:
        code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), None)
        if code is None:
            _LOG.error("a fault of ours", exc_info=error)
        message = masked(str(error)) or type(error).__name__
        end = End(code=code or EXIT_FAILED, error=type(error).__name__, message=message, passes=is_transient(error))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the last words are left
    _say(end, objects, arguments[0])
    return end.code


def _read(name: str, objects: Objects | None) -> tuple[RemoteCall, bool]:
    """The call, and whether it is an object.

    Raises:
        ConfigError: there is none, or what there is was not written by this version.
    """
    file = Path(name)
    data = file.read_bytes() if file.is_file() else None
    shared = data is None and objects is not None
    if shared:
        assert objects is not None
        data = objects.read(name)
    if data is None:
        raise ConfigError.about(name, expected="a call, as a file here or an object in the store", got="none")
    try:
        return RemoteCall.model_validate_json(data), shared
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        got = f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}"
        fix = "Let both sides run the same version of the project"
        raise ConfigError.about(name, expected="a call of this version", got=got, fix=fix) from None


def _carry_out(remote: RemoteCall, store: ArtifactStore, place: str | None) -> None:
    under = Conditions(run=remote.run, limit_s=remote.limit_s)
    if (found := store.find_whole(remote.kind, remote.key)) is not None and store.is_shared(found):
        _LOG.info("%-22s is there already", remote.label)
        return
    call = as_call(remote, store)
    if store.objects is None or place is None:
        materialise(call, store, "auto", under)
        return
    with _telling(store.objects, told_place(place)) as tell:
        materialise(_heard(call, tell), store, "auto", under)


def _heard(call: Call, tell: Progress) -> Call:
    """The same call, whose progress somebody else hears too."""
    build = call.stage.build

    def built(job: Job) -> dict[str, Json]:
        shown = job.progress

        def both(done: int, total: int, note: str = "") -> None:
            shown(done, total, note)
            tell(done, total, note)

        return build(replace(job, progress=both))

    return replace(call, stage=replace(call.stage, build=built))


@dataclass
class _Latest:
    told: Told | None = None
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def _telling(objects: Objects, place: str) -> Iterator[Progress]:
    """Writes progress to the store by a thread of its own: no slow or absent store holds up a stage."""
    latest = _Latest()

    def write() -> None:
        written: Told | None = None
        while not latest.over.wait(TELL_EVERY_S):
            if (now := latest.told) is not None and now != written:
                with suppress(StoreAway):
                    objects.write(place, now.model_dump_json().encode())
                    written = now

    thread = threading.Thread(target=write, daemon=True, name="tells progress")
    thread.start()

    def tell(done: int, total: int, note: str = "") -> None:
        latest.told = Told(done=done, total=total, note=note)

    try:
        yield tell
    finally:
        latest.over.set()
        thread.join()


def _say(end: End, objects: Objects | None, name: str) -> None:
    """To people, to whoever waits, and to SageMaker; none of them being there is no reason to end otherwise."""
    if end.code:
        print(f"error: {end.message}", file=sys.stderr, flush=True)
        with suppress(OSError):
            if _FAILURE.is_dir():
                (_FAILURE / "failure").write_text(end.message[:1000], encoding="utf-8")
    if objects is not None and not Path(name).is_file():
        with suppress(Exception):
            objects.write(end_place(name), end.model_dump_json().encode())


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # one is enough; the trainer is saving
    raise Stopped


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)

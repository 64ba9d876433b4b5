"""A simulation of many GPUs that draw one set of pictures from shared shards: `python -m benchmarks.fleet`.

What is simulated is the scheduling that the code does: a shard is leased by one worker, its cells are sent in packs, a
worker that dies leaves its lease to another after `lease_s`, with the packs that it had sent. How long a picture takes
is an assumption, named below and in docs/scale.md; nothing of this was measured on such a fleet.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fleet:
    gpus: int
    pictures: int
    pictures_in_a_shard: int
    s_per_picture: float = 2.5
    """Assumed: SDXL at 1024 px, 30 steps with guidance, on one H100."""
    start_s: float = 60.0
    """Loading the model, once a worker."""
    shard_s: float = 1.0
    """Lease, look-up of what is there, end."""
    mtbf_h: float = 500.0
    """Of one GPU's worker; with 1000 of them one goes every half an hour."""
    lease_s: float = 60.0
    back_s: float = 600.0
    """Until a worker that died is replaced."""
    pictures_in_a_pack: int = 20


@dataclass
class Outcome:
    hours: float = 0.0
    busy: float = 0.0
    """Share of all GPUs' time that drew pictures of use."""
    deaths: int = 0
    drawn_again: int = 0
    packs: int = 0
    leases: int = 0


@dataclass(order=True)
class _Event:
    at_s: float
    number: int
    worker: int = field(compare=False)


def simulate(fleet: Fleet, seed: int = 0) -> Outcome:
    """Every worker takes the next shard when it is free; a death loses what was not sent."""
    rng, outcome = random.Random(seed), Outcome()
    waiting = [fleet.pictures_in_a_shard] * (fleet.pictures // fleet.pictures_in_a_shard)
    if rest := fleet.pictures % fleet.pictures_in_a_shard:
        waiting.append(rest)
    orphans: list[tuple[float, int]] = []
    free = [_Event(fleet.start_s, number, number) for number in range(fleet.gpus)]
    heapq.heapify(free)
    number, last_s = fleet.gpus, 0.0
    while (waiting or orphans) and free:
        event = heapq.heappop(free)
        now = event.at_s
        if orphans and (orphans[0][0] <= now or not waiting):
            ready, shard = heapq.heappop(orphans)
            now = max(now, ready)
        else:
            shard = waiting.pop()
        takes = fleet.shard_s + shard * fleet.s_per_picture
        death = rng.expovariate(1 / (fleet.mtbf_h * 3600))
        outcome.leases += 1
        number += 1
        if death < takes:
            drawn = max(0, int((death - fleet.shard_s) / fleet.s_per_picture))
            sent = drawn // fleet.pictures_in_a_pack * fleet.pictures_in_a_pack
            outcome.deaths += 1
            outcome.drawn_again += drawn - sent
            outcome.packs += sent // fleet.pictures_in_a_pack
            heapq.heappush(orphans, (now + death + fleet.lease_s, shard - sent))
            heapq.heappush(free, _Event(now + death + fleet.back_s + fleet.start_s, number, event.worker))
        else:
            outcome.packs += -(-shard // fleet.pictures_in_a_pack)
            last_s = max(last_s, now + takes)
            heapq.heappush(free, _Event(now + takes, number, event.worker))
    outcome.hours = last_s / 3600
    outcome.busy = fleet.pictures * fleet.s_per_picture / (fleet.gpus * last_s)
    return outcome


SCENES = (
    Fleet(8, 10_000, 100),
    Fleet(100, 1_000_000, 500),
    Fleet(1000, 10_000_000, 50),
    Fleet(1000, 10_000_000, 200),
    Fleet(1000, 10_000_000, 1500),
    Fleet(1000, 10_000_000, 7000),
)
COLUMNS = "GPUs | pictures | in a shard | hours | at work | deaths | drawn again | packs a second | leases a second"


def main() -> None:
    print(f"| {COLUMNS} |\n|{'---:|' * len(COLUMNS.split(' | '))}")
    for fleet in SCENES:
        found = simulate(fleet)
        seconds = found.hours * 3600
        shown = [
            fleet.gpus,
            f"{fleet.pictures:,}",
            fleet.pictures_in_a_shard,
            f"{found.hours:.1f}",
            f"{found.busy:.1%}",
        ]
        shown += [found.deaths, found.drawn_again, f"{found.packs / seconds:.1f}", f"{found.leases / seconds:.2f}"]
        print(f"| {' | '.join(map(str, shown))} |")


if __name__ == "__main__":
    main()

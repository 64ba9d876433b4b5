"""What the page of `sdxl-flows view` shows and takes, as JSON values; how it looks is not known here."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from eval.booth import Booth, Place, ShownPair, sides
from eval.images import GeneratedImage
from eval.votes import Pair
from tasks.errors import ConfigError
from tasks.manifest import Json
from tasks.published import Published, made_by, pairs_of, published_reports
from tasks.store import ArtifactStore, DamagedArtifact

if TYPE_CHECKING:
    from tasks.studio import Studio

_SETS_REMEMBERED = 16


class Viewing:
    """Reports below a folder, their pictures, a booth to vote in, and perhaps a studio."""

    def __init__(self, store: ArtifactStore, runs: Path, votes: Path, studio: Studio | None) -> None:
        self._store, self._runs, self._studio = store, runs, studio
        self._booth = Booth(votes)
        self._pictures: dict[str, GeneratedImage] = {}
        self._pairs = lru_cache(_SETS_REMEMBERED)(self._read_pairs)
        self._png = lru_cache(64)(self._plain_png)

    def start(self) -> dict[str, Json]:
        """What is there to see."""
        reports = [
            {
                "id": one.id,
                "name": one.name,
                "title": one.title,
                "candidate": one.candidate,
                "headline": one.headline,
                "verdict": one.verdict,
                "finished": one.finished,
            }
            for one in published_reports(self._runs)
        ]
        votes = {"file": self._booth.path.name, "torn": self._booth.read().is_torn}
        return {"runs": self._runs.name, "reports": reports, "votes": votes, "studio": self._studio_offers()}

    def report(self, id: str) -> Published:
        """Raises ConfigError where there is none."""
        for one in published_reports(self._runs):
            if one.id == id:
                return one
        raise ConfigError("there is no such report any more; load the page again")

    def gallery(self, id: str) -> dict[str, Json]:
        """Raises ConfigError where the report's artifacts are gone, EvalError where they are damaged."""
        from eval.browsing import browsed

        made = made_by(self._store, self.report(id))
        comparison = made.recipe.inputs["comparison"]
        if self._store.find_whole(comparison.kind, comparison.key) is None:
            raise ConfigError(f"{made.label}: its comparison {comparison} is not in the store; `run` it again")
        place = self._store.path(comparison) / (made.recipe.params.get("slug") or "")  # of one of several candidates
        found = browsed(self.pairs(id), place)
        pairs = [
            {
                "prompt": one.shown.base.prompt,
                "prompt_id": one.shown.base.prompt_id,
                "category": one.shown.base.category,
                "seed": one.shown.base.seed,
                "replicate": one.shown.base.replicate,
                "base": one.shown.base.identity,
                "candidate": one.shown.candidate.identity,
                "badges": [{"text": f"{badge.title} {badge.text}", "tone": badge.tone} for badge in one.badges],
                "gains": one.gains,
            }
            for one in found.pairs
        ]
        return {"metrics": found.metrics, "pairs": pairs}

    def pairs(self, id: str) -> tuple[ShownPair, ...]:
        """Raises as `gallery`."""
        return self._pairs(made_by(self._store, self.report(id)).key)

    def ask(self, id: str, voter: str) -> dict[str, Json]:
        """The voter's next pair, without a word on whose pictures they are."""
        ballot = self._booth.ask(voter, self.pairs(id))
        asked = {"done": ballot.done, "total": ballot.total, "pair": None}
        if ballot.shown is None:
            return asked
        pair = {"id": _token(ballot.shown.pair), "prompt": ballot.shown.base.prompt}
        return asked | {"pair": pair | {"left": ballot.left, "right": ballot.right}}

    def cast(self, id: str, voter: str, pair: str, place: Place) -> None:
        """Raises ConfigError where the report has no such pair."""
        shown = next((one for one in self.pairs(id) if _token(one.pair) == pair), None)
        if shown is None:
            raise ConfigError("this report has no such pair; load the page again")
        self._booth.cast(voter, self.report(id).title, shown, place)

    def draw(self, voter: str, prompt: str, seed: int, steps: int, guidance_scale: float) -> dict[str, Json]:
        """A typed prompt's pictures, blind."""
        from eval.booth import voter_named

        voter = voter_named(voter)
        name, drawn = self._require_studio().draw(prompt, seed, steps, guidance_scale)
        if len(drawn.shown.pair) == 1:
            same = drawn.shown.base.identity
            return {"id": name, "left": same, "right": same, "same": True}
        left, right = sides(voter, drawn.shown.pair)
        return {"id": name, "left": left, "right": right, "same": False}

    def cast_typed(self, voter: str, name: str, place: Place) -> dict[str, Json]:
        """Take the vote, and only then say who stood where."""
        studio = self._require_studio()
        vote = studio.vote(self._booth, voter, name, place)
        right = "candidate" if vote.left == "base" else "base"
        return {"left": vote.left, "right": right, "results": studio.results(self._booth)}

    def png(self, digest: str) -> bytes | None:
        """A picture without what its file says of who drew it; None where it is not among those that were shown."""
        if self._studio is not None and digest in self._studio.pngs:
            return _without_text(self._studio.pngs[digest])
        return self._png(digest) if digest in self._pictures else None

    def _plain_png(self, digest: str) -> bytes:
        buffer = io.BytesIO()
        self._pictures[digest].load().save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _read_pairs(self, key: str) -> tuple[ShownPair, ...]:
        try:
            made = self._store.manifest("report", key)
        except DamagedArtifact as damage:
            raise ConfigError(f"report/{key}: {damage}; `run` it again") from None
        assert made is not None
        pairs = tuple(pairs_of(self._store, made))
        self._pictures |= {image.identity: image for shown in pairs for image in (shown.base, shown.candidate)}
        return pairs

    def _studio_offers(self) -> dict[str, Json] | None:
        if self._studio is None:
            return None
        sampling = self._studio.sampling
        return {"run": self._studio.name, "steps": sampling.steps, "guidance_scale": sampling.guidance_scale}

    def _require_studio(self) -> Studio:
        if self._studio is None:
            raise ConfigError("no model to draw with; start with `sdxl-flows view --config CONFIG`")
        return self._studio


def _token(pair: Pair) -> str:
    """Stands for a pair in the page; the order of its pictures does not show in it."""
    return hashlib.sha256("/".join(sorted(pair)).encode()).hexdigest()[:32]


def _without_text(png: bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as stored:
        stored.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

"""What an author says of a model, `export` in a configuration. Importing this imports no torch."""

from __future__ import annotations

import datetime
from typing import Annotated

from pydantic import Field, field_validator

from sdxl_core.config import Config

Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class ExportConfig(Config):
    """What `export` and `push` write into files and model card. Changes nothing that is trained or judged."""

    title: Line | None = None
    """Default: the name of the run, or of the file."""
    author: Line | None = None
    license: Line | None = None
    """A hub identifier (`mit`, `openrail++`) or the licence's name. SDXL's own is `openrail++`."""
    trigger_phrase: Line | None = None
    """What a prompt has to say to bring the subject or style up: `photo of sks dog`."""
    tags: tuple[Annotated[str, Field(pattern=r"^[^,\x00-\x1f\x7f]{1,100}$")], ...] = ()
    """For listings: `dog`, `style`."""
    description: Annotated[str, Field(max_length=20_000)] | None = None
    """Plain text; may have several lines."""
    date: str | None = None
    """`2026-11-21`, or with a time. Unset: none, so that the same weights give the same file."""

    @field_validator("date", mode="before")
    @classmethod
    def _iso(cls, date: object) -> object:
        """YAML takes an unquoted date for one."""
        if isinstance(date, datetime.date):
            return date.isoformat()
        if isinstance(date, str):
            try:
                datetime.datetime.fromisoformat(date)
            except ValueError:
                raise ValueError("expected a date such as 2026-11-21") from None
        return date

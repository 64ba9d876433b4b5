"""What all groups of commands have in common: help that comes at once, because nothing is loaded to show it."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

PAGE_WIDTH = 110


class Group(TyperGroup):
    """A group of commands whose `--help` is plainly off where it is not given.

    Typer would find that out by pydantic, and so load it before any command's help.
    """

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


def group(help_text: str, **settings: Any) -> typer.Typer:
    """A group of commands, with plain text for help and mistakes: panels would load rich and a Markdown parser."""
    return typer.Typer(
        cls=Group,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"max_content_width": PAGE_WIDTH},
        **settings,
    )

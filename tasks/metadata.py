"""`make-metadata` for the command line, which sees the tasks only."""

from __future__ import annotations

from pathlib import Path


def write_metadata(
    directory: Path, prompt: str, extend: bool, overwrite: bool, image_column: str, caption_column: str
) -> dict[str, int]:
    """See `sdxl_core.data.metadata.make_metadata`."""
    from sdxl_core.data.metadata import make_metadata

    return make_metadata(
        directory,
        prompt,
        extend=extend,
        overwrite=overwrite,
        image_column=image_column,
        caption_column=caption_column,
    )

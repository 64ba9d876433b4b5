"""Where pictures and captions come from. To add a source: one file, and one line here."""

from __future__ import annotations

from sdxl_core.data.sources import captions, concepts, hub, imagefolder, parquet, plain
from sdxl_core.data.sources.base import Source

SOURCES: dict[str, Source] = {
    "imagefolder": Source(imagefolder.listing, imagefolder.identity),
    "prompt": Source(plain.listing, plain.identity),
    "captions": Source(captions.listing, captions.identity),
    "concepts": Source(concepts.listing, concepts.identity),
    "parquet": Source(parquet.listing, parquet.identity),
    "hub": Source(hub.listing, hub.identity),
}

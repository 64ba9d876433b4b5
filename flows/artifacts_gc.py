"""The flow `artifacts-gc`: clear what no recent run reaches."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.gc import Retention, collect, find_garbage, told
from tasks.shown import board
from tasks.store import named_store

USUAL = Retention()


@flow(name="artifacts-gc", result_serializer="json")
def artifacts_gc(
    retention: Retention = USUAL,
    dry_run: bool = False,
    store: str | None = None,
) -> dict[str, Any]:
    """Remove artifacts that no recent run reaches; removing anything only costs its recomputation.

    Args:
        retention: what is kept.
        dry_run: only say what would go.
        store: the store's folder or URL; default: SDXL_FLOWS_STORE, else .sdxl-flows in the working folder.

    Returns:
        `freed_bytes`, or with `dry_run` `would_free_bytes`; `rows`: how many of which kind, and their bytes.
    """
    opened = named_store(store)
    garbage = find_garbage(opened, retention)
    rows = told(garbage)
    with board(opened, "artifacts-gc") as shown:
        shown.table("artifacts-gc", "What would go" if dry_run else "What no recent run reaches", rows)
        freed = {"would_free_bytes": garbage.total_bytes} if dry_run else {"freed_bytes": collect(opened, garbage)}
    return {**freed, "rows": rows}

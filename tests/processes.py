"""Other processes for tests: clean ones, and quickly there.

A forked copy of the tests' own process would inherit the locks of whatever threads ran before, held or not; so children
are forked from a server that has only loaded what they need.
"""

from __future__ import annotations

import multiprocessing

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["tests.tasks.conftest", "sdxl_core.bundle"])

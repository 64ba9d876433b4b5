"""Fixtures shared by all tests. Nothing is downloaded, and nothing reaches for a network."""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

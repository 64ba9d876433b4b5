"""What the trainer ends with, and the command line with it."""

from __future__ import annotations

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_PREEMPTED = 0, 1, 2, 75
EXIT_REJECTED, EXIT_INCONCLUSIVE = 3, 4
"""Of an evaluation with gates that were not all passed; see docs/statistics.md."""
EXIT_KILLED = 143
"""By a second SIGTERM, without saving."""

"""A Prefect server with all that goes with it, on this machine or elsewhere: `sdxl-flows serve` and `deploy`."""

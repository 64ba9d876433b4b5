"""The page of `sdxl-flows view`."""

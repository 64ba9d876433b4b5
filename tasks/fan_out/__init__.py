"""What lies beneath a stage, made in parts by threads, processes, or workers of Dask and Ray."""

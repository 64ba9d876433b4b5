"""Wiring: which stage feeds which, the Prefect flows and the command line."""

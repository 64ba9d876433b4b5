"""Stages as tasks: what goes into a key, where artifacts live, and how a stage is run."""

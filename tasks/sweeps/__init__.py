"""Sweeps: what is varied, which trainings that makes, and how they run."""

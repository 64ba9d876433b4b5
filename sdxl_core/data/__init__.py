"""Datasets: reading, checking, fingerprinting and preparing pictures with captions."""

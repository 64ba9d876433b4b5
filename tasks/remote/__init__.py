"""Stages on other machines that share the store."""

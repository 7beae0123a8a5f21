"""Measured speed, beside named peers."""

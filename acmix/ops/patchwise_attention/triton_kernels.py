"""Patchwise attention has no GPU kernel yet."""

"""Heads that detect and segment: modules that read a pyramid of features."""

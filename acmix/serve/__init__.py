"""Answers over HTTP: `acmix serve`."""

"""Writes docs/settings.md, the reference of every setting, from acmix/config/schema.py."""

from __future__ import annotations

from pathlib import Path

from acmix.config.reference import page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

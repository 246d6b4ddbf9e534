"""Local attention's table of cases."""

from __future__ import annotations

from acmix.ops.local_attention.cases import CASES as LOCAL_CASES
from acmix.ops.local_attention.cases import Case as LocalCase

__all__ = ["LOCAL_CASES", "LocalCase"]

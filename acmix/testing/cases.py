"""The operators' tables of cases, under one name each."""

from __future__ import annotations

from acmix.ops.conv_path.cases import CASES as CONV_CASES
from acmix.ops.conv_path.cases import Case as ConvCase
from acmix.ops.window_attention.cases import CASES as WINDOW_CASES
from acmix.ops.window_attention.cases import Case as WindowCase

__all__ = ["CASES", "CONV_CASES", "WINDOW_CASES", "Case", "ConvCase", "WindowCase"]

Case = ConvCase | WindowCase
CASES: tuple[Case, ...] = (*CONV_CASES, *WINDOW_CASES)

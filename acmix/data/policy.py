"""timm's auto-augmentations by their strings, such as "rand-m9-mstd0.5-inc1": what can be said, and no more.

timm itself passes over a section without a number ("rand-mstd"), a second set of transforms ("rand-tnone") and a
probability above 1, and fails with an assertion on the rest.
"""

from __future__ import annotations

import re

from acmix.errors import UsageError

# up to 99 of what is done to one image, one after the other
COUNT, NUMBER = "[1-9][0-9]?", r"[0-9]+(?:\.[0-9]+)?"
SHARE = r"(?:0(?:\.[0-9]+)?|1(?:\.0+)?)"
MSTD, MAGNITUDE = f"mstd{NUMBER}", "m[0-9]+"
# the policy, and what may stand behind it between dashes
SECTIONS = {
    "rand": f"{MAGNITUDE}|n{COUNT}|p{SHARE}|{MSTD}|mmax[0-9]+|inc[01]|tweights|t3aw?",
    "augmix": rf"{MAGNITUDE}|w{COUNT}|d{COUNT}|a(?!0*(?:\.0*)?$){NUMBER}|b[01]|{MSTD}",
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), MSTD),
}


def check_policy(text: str) -> None:
    """Refuses what timm would not read, or would read in part.

    Args:
        text: `augment.auto_augment`.

    Raises:
        UsageError: no such policy, or a section that it does not have.
    """
    name, *sections = text.split("-")
    if name not in SECTIONS:
        raise UsageError(
            f"augment.auto_augment={text!r} is none of timm's policies; expected one like rand-m9-mstd0.5-inc1 or "
            f"augmix-m5-w4-d2, one of {', '.join(list(SECTIONS)[2:])}, or null"
        )
    for section in sections:
        if not re.fullmatch(SECTIONS[name], section):
            known = {"rand": "m9, n2, p0.5, mstd0.5, mmax10, inc1, tweights", "augmix": "m3, w3, d2, a1.0, b1, mstd0.5"}
            raise UsageError(
                f"augment.auto_augment={text!r}: {section!r} is no section of {name!r}; expected the like of "
                f"{known.get(name, 'mstd0.5')}"
            )

"""Which known names were probably meant: one rule for models, configurations, settings and operators.

This module imports nothing of ours; every other may import it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

# how alike words have to be, from 0 to 1, and by how much a name may be less near than the nearest
ALIKE, BAND = 0.7, 0.03
# of letters: a shorter name is looked for in no other
SHORTEST = 2
# a longer one is no name that was mistyped, and comparing takes the square of its length
LONGEST = 200
# letters of a word that many others hold, or differ from in one letter, by chance
SHORT = 4
# nearly all names of models begin with it, so it tells little
USUAL = "acmix"


def near(name: str, known: Iterable[str], most: int = 5) -> list[str]:
    """The known names closest to one that is not known, the closest first.

    Names that hold it come first, in any case and with any separators: `swin_tiny` and `resnet 50` are found in
    `acmix_swin_tiny_patch4_window7_224` and `acmix_resnet50`. Next are those that have all its words, then those whose
    words are spelt nearly so.
    """
    names = list(dict.fromkeys(known))
    if len(name) > LONGEST:
        return []
    for rule in (holds, has_the_words, is_spelt_alike):
        scores = {each: score + is_usual(name, each) for each in names if (score := rule(name, each))}
        if scores:
            chosen = [each for each, score in scores.items() if score >= max(scores.values()) - BAND]
            # of equals the shortest, which says least besides
            return sorted(chosen, key=lambda each: (-scores[each], len(each)))[:most]
    return []


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """ "did you mean 'a' or 'b'?", or what to say where no known name is near."""
    *rest, last = [repr(each) for each in near(name, known)] or [""]
    return f"did you mean {', '.join(rest)}{' or ' * bool(rest)}{last}?" if last else otherwise


def words(name: str) -> list[str]:
    """The words of a name in small letters: `ACmix_ResNet-50` has resnet and 50."""
    found = re.findall(r"[^\W_]+", name.casefold())
    return found[1:] if found[:1] == [USUAL] and len(found) > 1 else found


def is_usual(name: str, known: str) -> bool:
    """Whether both are names of this library: who typed `acmix_` means one."""
    return name.casefold().startswith(USUAL) and known.startswith(USUAL)


def holds(name: str, known: str) -> float:
    """Whether a known name holds another; most where it is the whole, then where it is the beginning."""
    short, long = "".join(words(name)), "".join(words(known))
    if len(short) < SHORTEST or short not in long:
        return 0.0
    if len(short) < SHORT and not any(each.startswith(short) for each in words(known)):
        return 0.0
    return 1.0 + long.startswith(short) + (short == long)


def has_the_words(name: str, known: str) -> float:
    """Whether each word of the name begins one of the other's."""
    mine, theirs = words(name), words(known)
    return float(len(mine) > 1 and all(any(each.startswith(word) for each in theirs) for word in mine))


def is_spelt_alike(name: str, known: str) -> float:
    """How alike the words are, each of the name's to the likest of the other's; 0 where they are too different."""
    mine, theirs = words(name), words(known)
    if not mine or not theirs:
        return 0.0
    whole = alike("".join(mine), "".join(theirs))
    score = max(whole, sum(max(alike(word, other) for other in theirs) for word in mine) / len(mine))
    return score + whole / 10 if score >= ALIKE else 0.0


def alike(first: str, second: str) -> float:
    """The share of letters that two words have in the same order, from 0 to 1; short ones begin with the same."""
    if min(len(first), len(second)) <= SHORT and first[:1] != second[:1]:
        return 0.0
    return SequenceMatcher(None, first, second, autojunk=False).ratio()

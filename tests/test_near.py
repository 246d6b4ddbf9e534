"""What somebody meant is found by parts of a name, in any spelling, before by likeness of letters."""

from __future__ import annotations

import pytest

from acmix.near import did_you_mean, near

SWIN = "acmix_swin_tiny_patch4_window7_224"
SWIN_384 = "acmix_swin_tiny_patch4_window12_384"
MODELS = [
    *("acmix_deit_small_patch16_224", "acmix_deit_tiny_patch16_224", "acmix_pvt_small", "acmix_pvt_tiny"),
    *("acmix_resnet26", "acmix_resnet50", "acmix_swin_digits", "acmix_swin_small_patch4_window7_224", SWIN_384, SWIN),
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("acmix_swin_tiny", [SWIN, SWIN_384]),
        ("swin_tiny", [SWIN, SWIN_384]),
        ("Swin-T", [SWIN, SWIN_384]),
        ("acmix_swin_t", [SWIN, SWIN_384]),
        ("acmix swin tinny", [SWIN, SWIN_384]),
        ("swim_tiny", [SWIN, SWIN_384]),
        ("swin_tiny_224", [SWIN]),
        ("acmix_resnet-50", ["acmix_resnet50"]),
        ("resnet 50", ["acmix_resnet50"]),
        ("RESNET50", ["acmix_resnet50"]),
        ("acmix_resnet50_v2", ["acmix_resnet50"]),
        ("acmix_deit_small", ["acmix_deit_small_patch16_224"]),
        ("deit", ["acmix_deit_tiny_patch16_224", "acmix_deit_small_patch16_224"]),
        ("digits", ["acmix_swin_digits"]),
        ("acmix_swin_digit", ["acmix_swin_digits"]),
        ("pvt_tiny", ["acmix_pvt_tiny"]),
        *((name, []) for name in ("", "x", "acmix", "foo", "...", "vgg16")),
    ],
)
def test_the_near_names_are_those_that_were_meant(name: str, found: list[str]) -> None:
    assert near(name, MODELS) == found


@pytest.mark.parametrize("name", ["nope", "run", "best", "out", "ab"])
def test_a_short_name_is_not_near_by_chance(name: str) -> None:
    known = ["ecaresnet50d_pruned", "mambaout_base", "test_vit", "vit_base_patch16_rope_224", "vitabswin"]
    assert near(name, known) == []
    assert near("swim", [SWIN]) == [SWIN]


def test_a_name_of_this_library_is_preferred_where_one_begins_so() -> None:
    known = ["swin_tiny_patch4_window7_224", SWIN]
    assert near("acmix_swin_tiny", known) == [SWIN]
    assert near("swin_tiny", known) == known


def test_the_question_names_one_or_several_or_says_what_else_helps() -> None:
    assert did_you_mean("resnet", MODELS) == "did you mean 'acmix_resnet26' or 'acmix_resnet50'?"
    assert did_you_mean("resnet50", MODELS) == "did you mean 'acmix_resnet50'?"
    assert did_you_mean("vgg16", MODELS, otherwise="see a list") == "see a list"
    assert near("acmix_san", [f"acmix_san{number}" for number in range(9)], most=2) == ["acmix_san0", "acmix_san1"]

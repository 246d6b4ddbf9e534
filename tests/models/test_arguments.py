"""A mistyped name or argument of a model is one line with the near name, in Python and in a run."""

from __future__ import annotations

from typing import Any

import pytest

import acmix
from acmix.config import complete
from acmix.errors import UsageError
from acmix.models.build import build_model

SWIN = "acmix_swin_tiny_patch4_window7_224"
NEAR = f"did you mean {SWIN!r} or 'acmix_swin_tiny_patch4_window12_384'?"


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("acmix_swin_tiny", {}, f"no model 'acmix_swin_tiny'; {NEAR}"),
        ("swin_tiny", {}, f"no model 'swin_tiny'; did you mean 'swin_tiny_patch4_window7_224', {SWIN!r} or"),
        ("acmix_resnet-50", {}, "did you mean 'acmix_resnet50'?"),
        ("nothing_like_it", {}, "acmix.list_models() names them"),
        (SWIN, {"embed_dims": 48}, f"embed_dims=48: {SWIN} takes no such argument; did you mean 'embed_dim'?"),
        ("acmix_resnet26", {"head": 2}, "did you mean 'heads'? there are: layers,"),
        ("acmix_deit_tiny_patch16_224", {"rate": 0.5}, "did you mean 'rates'?"),
        ("swin_tiny_patch4_window7_224", {"embed_dims": 48}, "did you mean 'embed_dim'? there are: img_size,"),
        ("resnet18", {"zero_init": True}, "did you mean 'zero_init_last'?"),
    ],
)
def test_in_python(name: str, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        acmix.create_model(name, **kwargs)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.name=acmix_swin_tiny"], f"model.name='acmix_swin_tiny': no such model; {NEAR}"),
        (["model.name=swin_tinny"], "'swin_tiny_patch4_window7_224'"),
        (["model.args.embed_dims=48"], f"model.args.embed_dims=48: {SWIN} takes no such argument; did you mean"),
        (["model.name=acmix_resnet26", "model.args.window_size=7"], "takes no such argument; there are: layers,"),
        (
            ["model.name=swin_tiny_patch4_window7_224", "model.add_conv_path=true", "model.args.embed_dims=48"],
            "model.args.embed_dims=48: swin_tiny_patch4_window7_224 takes no such argument; did you mean 'embed_dim'?",
        ),
    ],
)
def test_in_a_run(overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        build_model(complete({}, overrides, where="x.yaml"))
    line = str(error.value)
    assert said in line
    # what a setting decides is no argument of a run
    assert "takes no such" not in line or "num_classes" not in line.partition("there are: ")[2]

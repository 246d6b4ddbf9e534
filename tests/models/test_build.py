"""A run's settings become a network, or one line that says why not."""

import pytest
import torch

from acmix.errors import UsageError
from acmix.models.build import build_model
from tests.support.tiny import CLASSES, tiny_config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.name=acmix_resnet51", "no such model; did you mean 'acmix_resnet50'?"),
        ("model.name=resnet5O", "model.name='resnet5O': no such model; did you mean 'resnet50', 'acmix_resnet50'"),
        ("model.name=zzzz", "no such model; `acmix models` lists ours, timm.list_models() timm's"),
        (
            "model.args={embed: 12}",
            "model.args.embed=12: acmix_swin_tiny_patch4_window7_224 takes no such argument; did you mean 'embed_dim'?",
        ),
        ("model.args={depths: [1, 1], num_heads: [1]}", "expected one entry a stage"),
        ("model.args={embed_dim: 10, depths: [1], num_heads: [3]}", "cannot build model"),
        ("model.args={embed_dim: twelve}", "cannot build model"),
        ("model.args={depths: 2}", "has no len(); check model.args.depths=2"),
        ("model.freeze=true", "model.freeze is for timm's models, and 'acmix_swin_tiny_patch4_window7_224' has"),
        ("model.add_conv_path=true", "model.add_conv_path is for timm's models"),
        ("model.args={embed_dim: 12.0}", "write 12.0 as 12"),
        ('model.args={depths: ["1", 1]}', "write '1' as 1"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line(override: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        build_model(tiny_config("", override))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet10t", "dla46_c"])
def test_a_model_of_timm_can_be_built_with_drop_path_or_without(name: str) -> None:
    settings = tiny_config("", f"model.name={name}", "model.args={}", "model.drop_path_rate=0")
    assert build_model(settings)(torch.zeros(2, 3, 32, 32)).shape == (2, CLASSES)


def test_a_rate_that_a_model_cannot_take_is_an_error() -> None:
    with pytest.raises(UsageError, match="unexpected keyword argument 'drop_path_rate'"):
        build_model(tiny_config("", "model.name=dla46_c", "model.args={}", "model.drop_path_rate=0.1"))

"""timm's interface is one and the same for every family."""

import pytest
import torch

from acmix.errors import UsageError
from tests.models.test_models import FAMILIES, images, toy

families = pytest.mark.parametrize("name", FAMILIES)


@families
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_hook_on_what_gives_a_map_is_called_once_a_pass(name, checkpointing):
    model = toy(name).eval()
    model.set_grad_checkpointing(checkpointing)
    called = []
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(lambda *_, at=info["module"]: called.append(at))
    with torch.no_grad():
        for use in (model, model.forward_intermediates):
            called.clear()
            use(images())
            assert called == [info["module"] for info in model.feature_info]


@families
def test_what_is_cut_off_is_gone_and_the_maps_before_it_stay(name):
    model, cut = toy(name).eval(), toy(name).eval()
    x = images(2, 40, 24)
    assert cut.prune_intermediate_layers([0], prune_norm=True) == [0]
    with torch.no_grad():
        first = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        found = cut.forward_intermediates(x, indices=[0], intermediates_only=True)
        everything = cut.forward_intermediates(x, intermediates_only=True)
    assert torch.equal(found[0], first[0])
    assert len(everything) == 1
    gone = {info["module"] for info in model.feature_info[1:]} | {model.classifier}
    kept = cut.state_dict().keys()
    assert kept < model.state_dict().keys()
    assert not [key for key in kept if any(key.startswith(f"{each}.") for each in gone)]


@families
def test_the_last_map_is_normalised_on_request(name):
    model = toy(name).eval()
    with torch.no_grad():
        last, maps = model.forward_intermediates(images(), norm=True)
        plain = model.forward_intermediates(images(), intermediates_only=True)
        assert torch.equal(last, model.forward_features(images()))
    assert torch.equal(maps[-1], plain[-1]) == (not hasattr(model, "norm"))
    if last.shape == maps[-1].shape:
        assert torch.equal(last, maps[-1])


@families
def test_a_model_tells_its_numbers_and_refuses_a_format_that_it_has_not(name):
    model = toy(name, in_chans=2)
    assert (model.in_chans, model.num_classes) == (2, 5)
    assert model.get_classifier().in_features == model.num_features
    coarse, fine = (model.group_matcher(coarse=each) for each in (True, False))
    assert coarse["stem"] == fine["stem"]
    with pytest.raises(UsageError, match="output_fmt='NDHWC'; expected 'NCHW'"):
        model.forward_intermediates(torch.randn(1, 2, 32, 32), output_fmt="NDHWC")

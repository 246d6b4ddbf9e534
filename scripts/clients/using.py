"""Tools that build on a backbone, keep models, or look into them."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
from typing import Any

import timm
import torch
from families import BATCH, CLASSES, SIDE, Family, change, images, learned, output, replaced
from figures import Count, Effect, Error, Figures, NotApplicable
from torch import Tensor, nn

DECODERS = ("Unet", "FPN", "DeepLabV3Plus", "PAN", "UPerNet", "DPT")
# PAN halves the last map three times
LARGE = 256
DETECTORS = ("FasterRCNN", "RetinaNet", "FCOS", "MaskRCNN")


def decoder(family: Family, ours: bool, name: str) -> Figures:
    """A decoder of segmentation_models_pytorch: output's shape, and a gradient for every weight of the encoder."""
    import segmentation_models_pytorch as smp  # pyright: ignore[reportMissingImports]

    if family.pyramid == (name == "DPT") or (name == "DPT" and family.change):
        raise NotApplicable(f"{name} reads {'a pyramid' if name != 'DPT' else 'a ViT built by name'}")
    dilated = "ResNet" in family.title
    if name == "DeepLabV3Plus" and not dilated:
        raise NotApplicable("it needs output_stride, which ResNets alone take")
    torch.manual_seed(0)
    given: dict[str, Any] = dict(encoder_weights=None, classes=CLASSES, **family.keywords(ours))
    if name == "PAN" and not dilated:
        given["encoder_output_stride"] = 32
    if name == "DPT":
        del given["depth"]  # DPT's own word for the number of maps
    model = getattr(smp, name)(f"tu-{family.name}", **given)
    if family.change and ours:
        replaced(model.encoder)
    model.train()
    side = LARGE if name == "PAN" else SIDE
    masks = model(images(side=side))
    masks.float().square().mean().backward()
    got = [learned(parameter.grad) for parameter in model.encoder.parameters()]
    return {
        "output": Count(int(masks.shape == (BATCH, CLASSES, side, side)) + int(bool(masks.isfinite().all())), 2),
        "encoder's gradients": Count(sum(got), len(got)),
    }


class Pyramid(nn.Module):
    """A backbone's maps and torchvision's feature pyramid on them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.body = body
        channels = body.feature_info.channels()  # type: ignore[union-attr]
        self.fpn, self.out_channels = FeaturePyramidNetwork(channels, 32), 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(i): each for i, each in enumerate(self.body(x))})


def detector(family: Family, ours: bool, name: str) -> Figures:
    """A detector of torchvision on the backbone's last maps: losses, and a gradient for every weight."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    backbone = family.fresh(ours, features_only=True)
    maps = len(backbone.feature_info.channels())  # type: ignore[union-attr]
    sizes = tuple((8 * 2**i,) for i in range(maps))
    anchors = AnchorGenerator(sizes, ((1.0,),) * maps)
    names = [str(i) for i in range(maps)]
    given: dict[str, Any] = dict(num_classes=3, min_size=SIDE, max_size=SIDE)
    if name in ("FasterRCNN", "MaskRCNN"):
        given["rpn_anchor_generator"], given["box_roi_pool"] = anchors, MultiScaleRoIAlign(names, 5, 2)
    else:
        given["anchor_generator"] = anchors
    if name == "MaskRCNN":
        given["mask_roi_pool"] = MultiScaleRoIAlign(names, 5, 2)
    model = getattr(detection, name)(Pyramid(backbone), **given).train()
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [20.0, 10.0, 60.0, 50.0]])
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 10:40, 20:40] = 1
    losses = model(list(images()), [dict(boxes=boxes, labels=torch.tensor([1, 2]), masks=masks)] * BATCH)
    torch.stack(list(losses.values())).sum().backward()
    got = [learned(parameter.grad) for parameter in backbone.parameters()]
    found = model.eval()(list(images()))
    return {
        "finite losses": Count(sum(bool(each.isfinite()) for each in losses.values()), len(losses)),
        "backbone's gradients": Count(sum(got), len(got)),
        "images answered": Count(sum("boxes" in each for each in found), BATCH),
    }


def local_dir(family: Family, ours: bool) -> Figures:
    """timm's save_for_hf, and create_model('local-dir:…'): the same outputs, with the arguments that were saved."""
    from timm.models import save_for_hf

    if family.change and ours:
        raise NotApplicable("timm builds its own model by that name")
    model = family.model(ours)
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, safe_serialization=True)
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return {"outputs": Error(change(output(again), output(model)), 0.0)}


def hub_mixin(family: Family, ours: bool) -> Figures:
    """huggingface_hub's PyTorchModelHubMixin around a model: saved, loaded, the same outputs."""
    from huggingface_hub import PyTorchModelHubMixin

    class Shared(nn.Module, PyTorchModelHubMixin):
        def __init__(self, side: int = SIDE) -> None:
            super().__init__()
            self.model = family.fresh(ours)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    model = Shared()
    model.model = family.model(ours)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = Shared.from_pretrained(folder).eval()
    return {"outputs": Error(change(output(again), output(model)), 0.0)}


def copies(family: Family, ours: bool) -> Figures:
    """torch.save, pickle and deepcopy of a whole model: the same outputs."""
    model = family.model(ours)
    expected = output(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    made = [torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    again = family.fresh(ours)
    again.load_state_dict(model.state_dict())
    return {"outputs": Error(max(change(output(each), expected) for each in [*made, again.eval()]), 0.0)}


def grad_cam(family: Family, ours: bool) -> Figures:
    """grad-cam on a late map: for some class a picture that is not flat; a negative one is cut to 0."""
    from pytorch_grad_cam import GradCAM  # pyright: ignore[reportMissingImports]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # pyright: ignore[reportMissingImports]

    model = family.model(ours)
    names = [name for name, _ in model.named_modules()]
    last = next(name for name in ("blocks.2", "layers.2", "stages.2.blocks.0", "layer3") if name in names)
    reshape = {"DeiT": tokens, "timm ViT, upgraded": tokens, "PVT": patches}.get(family.title)
    if family.title == "Swin":
        reshape = channels_first
    with GradCAM(model=model, target_layers=[model.get_submodule(last)], reshape_transform=reshape) as cam:
        seen = [
            cam(images(), targets=[ClassifierOutputTarget(label)] * BATCH).std((1, 2)) > 0 for label in range(CLASSES)
        ]
    return {"images with a picture": Count(sum(bool(any(each)) for each in zip(*seen, strict=True)), BATCH)}


def tokens(x: Tensor) -> Tensor:
    """(B, 1 + H·W, C) -> (B, C, H, W)."""
    return patches(x[:, 1:])


def patches(x: Tensor) -> Tensor:
    """(B, H·W, C) -> (B, C, H, W)."""
    side = int(x.shape[1] ** 0.5)
    return x.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def attributions(family: Family, ours: bool) -> Figures:
    """captum's integrated gradients: they add up to the difference of the logit that they explain."""
    from captum.attr import IntegratedGradients  # pyright: ignore[reportMissingImports]

    model = family.model(ours)
    x, dark = images(), torch.zeros_like(images())
    given = IntegratedGradients(model).attribute(x, dark, target=1, n_steps=64)
    wanted = (output(model, x) - output(model, dark))[:, 1]
    return {
        "change": Effect(change(given, torch.zeros_like(given) + x)),
        "sum": Error(change(given.flatten(1).sum(1), wanted), 0.1),
    }

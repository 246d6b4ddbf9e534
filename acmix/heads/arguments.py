"""Whose an argument of a detector or a segmenter is: its own, its backbone's, or nobody's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from acmix.errors import UsageError
from acmix.heads.features import Features
from acmix.models.arguments import UnknownArgument
from acmix.near import did_you_mean

# torchvision's names of what is called otherwise here; not every head has each argument
TORCHVISIONS = {
    "image_mean": "mean",
    "image_std": "std",
    "box_detections_per_img": "detections",
    "detections_per_img": "detections",
    "box_score_thresh": "score_threshold",
    "score_thresh": "score_threshold",
    "box_batch_size_per_image": "samples",
    "rpn_pre_nms_top_n_train": "proposals, half of it",
    "rpn_post_nms_top_n_train": "proposals, half of it",
    "rpn_pre_nms_top_n_test": "proposals",
    "rpn_post_nms_top_n_test": "proposals",
    "representation_size": "hidden",
    "out_channels": "channels",
    "weights_backbone": "pretrained=True, of timm's backbones",
    "weights": "acmix.load, for a model of ours that was trained",
    "aux_loss": "auxiliary_weight, 0 for none",
}
# what stands there for no argument of a head
EVERY_HEADS = ("weights_backbone", "weights")
# arguments of backbones that heads depend on
SETTLED = ("levels", "features_only", "out_indices", "output_stride", "feature_cls")


def features_of(
    backbone: str, others: Mapping[str, Any], arguments: Mapping[str, Any], *, owner: str, takes: Collection[str]
) -> Features:
    """Builds a backbone.

    Args:
        backbone: its name.
        others: arguments that its owner does not take itself.
        arguments: those that are surely the backbone's.
        owner: what the backbone is built for.
        takes: arguments of the owner, for hints.

    Raises:
        UsageError: an argument that neither takes, that is given twice, or that torchvision names otherwise.
    """
    for name in others:
        here = TORCHVISIONS.get(name, "")
        if here and (name in EVERY_HEADS or here.partition(",")[0] in takes):
            raise UsageError(f"{name}: torchvision's name; here it is {here}")
        if name in arguments:
            raise UsageError(f"{name}={others[name]!r}: backbone_args has it too; leave one out")
        if name in SETTLED:
            raise UsageError(f"{name}={others[name]!r}: {owner} settles that itself; leave it out")
    try:
        return Features(backbone, **{**others, **arguments})
    except UnknownArgument as error:
        name = str(error).partition("=")[0]
        if name not in others:
            raise
        hint = did_you_mean(name, takes) or f"{owner} takes {', '.join(takes)}"
        raise UsageError(f"{name}={others[name]!r}: neither {owner} nor {backbone} takes it; {hint}") from error

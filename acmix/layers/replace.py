"""ACmix2d in the place of convolutions of a model that exists already.

Shapes: O, I channels out and in · k side of the kernel · N heads · D = O/N · P = 3·N pieces · T = k² maps
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from acmix.errors import UsageError
from acmix.layers.acmix2d import ACmix2d
from acmix.layers.fold import FoldedGatedACmix
from acmix.layers.foldable import Foldable, exact, take_row
from acmix.layers.plain import has_plain_weights

Select = Callable[[str, nn.Conv2d], bool] | Sequence[str] | str | None


class GatedACmix2d(Foldable):
    """Adds ACmix to a convolution, at first by nothing: conv(x) + gate·acmix(x), where the gate starts at 0.

    Args:
        conv: the convolution that stays.
        acmix: a layer of the same channels, stride and output size.
    """

    start = "gated"

    def __init__(self, conv: nn.Conv2d, acmix: ACmix2d) -> None:
        super().__init__()
        self.conv, self.acmix = conv, acmix
        self.gate = nn.Parameter(torch.zeros(1, dtype=conv.weight.dtype, device=conv.weight.device))
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.register_load_state_dict_pre_hook(take_convolution)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, ceil(H/stride), ceil(W/stride))."""
        return self.conv(x) + self.gate * self.acmix(x)

    def can_fold(self) -> bool:
        return super().can_fold() and isinstance(self.acmix, ACmix2d) and self.acmix.can_fold()

    def folded(self) -> FoldedGatedACmix:
        return FoldedGatedACmix(self.conv, self.acmix.folded(self.gate.item()))


def take_convolution(layer: GatedACmix2d, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Lets a checkpoint from before the replacement load: its weights become `conv`'s, all else stays as it is."""
    if f"{prefix}weight" not in state_dict:
        return
    for name in ("weight", "bias"):
        if f"{prefix}{name}" in state_dict:
            state_dict[f"{prefix}conv.{name}"] = state_dict.pop(f"{prefix}{name}")
    for name, tensor in layer.state_dict().items():
        if not name.startswith("conv."):
            state_dict[f"{prefix}{name}"] = tensor


def replace_conv(
    model: nn.Module,
    select: Select = None,
    *,
    identity: bool = False,
    heads: int | str = "auto",
    attention_size: int = 7,
) -> nn.Module:
    """Puts ACmix2d in the place of convolutions, and leaves every other weight and every layer's name as it is.

    Channels, kernel size, stride, dilation, device, dtype, training mode and whether weights are trained are taken over
    from each convolution. A bias is not: ACmix2d has those of its projections.

    With `identity` the model's output is unchanged until it is trained, in one of two ways; each layer's `start` says
    which:

    - "transferred": an ACmix2d that is the convolution (rates 0 and 1). For each d, the kernels of its output channels
      d·N … d·N + N − 1, a matrix of N·k² × I, must have a rank of at most min(3·N, k²), and there must be no bias,
      as at the border a projection's bias is not the convolution's. A stem's three colours always fit.
    - "gated": a GatedACmix2d, which keeps the convolution, with its hooks and parametrisations, and adds
      gate·ACmix2d, the gate starting at 0.

    Args:
        model: changed in place.
        select: which convolutions: a function of name and convolution, a list of names or patterns such as
            "layer4.*.conv2", or None for all. Offered are those of an odd k×k kernel with k at least 3.
        identity: whether the model's output stays the same at first.
        heads: of each ACmix2d.
        attention_size: of each ACmix2d.

    Returns:
        The model; or what took its place, where the model is itself a convolution.

    Raises:
        ValueError: nothing is selected, or a selected convolution is one that ACmix2d cannot stand in for, or one
            whose hooks or parametrisations would be lost.
    """
    warn_of_a_rebuild(model)
    return put_in(model, selected(model, select), identity=identity, heads=heads, attention_size=attention_size)


def put_in(
    model: nn.Module,
    chosen: dict[str, nn.Conv2d],
    *,
    identity: bool,
    heads: int | str,
    attention_size: int,
    transfers: bool = True,
) -> nn.Module:
    """`replace_conv` of convolutions that are selected already, by name.

    Args:
        transfers: whether `identity` may make an equal ACmix2d. Without, it adds to every convolution, so that which
            layers there are does not depend on the weights.
    """
    for name, conv in chosen.items():
        check_conv(name, conv)
        check_loss(name, conv, identity)
    made: dict[nn.Module, nn.Module] = {}  # a convolution that stands in two places stays one layer
    for name, conv in chosen.items():
        if conv not in made:
            made[conv] = stand_in(conv, identity, heads=heads, attention_size=attention_size, transfers=transfers)
        if name == "":
            return made[conv]
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, made[conv])
    return model


def warn_of_a_rebuild(model: nn.Module) -> None:
    """Warns of a network that its own trainer builds anew from a model file, which does not know the new layers."""
    kinds = {base.__module__.split(".")[0] for part in model.modules() for base in type(part).__mro__}
    if "ultralytics" in kinds:
        warnings.warn(
            "ultralytics' train() builds this network anew, without the new layers; to train it there, use "
            "acmix.integrations.ultralytics.replace_conv(YOLO(...), ...)",
            stacklevel=3,
        )
    elif isinstance(getattr(model, "yaml", None), dict):
        warnings.warn(
            "YOLO's train.py builds this network anew from its model file, without the new layers; to train it there, "
            "give the file rows of ACmix2d, as acmix.integrations.yolov5 says",
            stacklevel=3,
        )


def selected(model: nn.Module, select: Select) -> dict[str, nn.Conv2d]:
    """The convolutions to replace, by name."""
    offered = dict(offers(model))
    if select is None:
        chosen = {name: conv for name, conv in offered.items() if conv.groups == 1}
    elif callable(select):
        chosen = {name: conv for name, conv in offered.items() if select(name, conv)}
    else:
        patterns = [select] if isinstance(select, str) else list(select)
        idle = [each for each in patterns if not any(fnmatchcase(name, each) for name in offered)]
        if idle:
            raise UsageError(f"{idle[0]!r} matches no convolution that can be replaced; {these(offered)}")
        chosen = {
            name: conv for name, conv in offered.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
        }
    if not chosen:
        raise UsageError(f"no convolution is selected; {these(offered)}")
    return chosen


def offers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions of an odd square kernel in a model, but for those inside our own layers."""
    ours: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(ours):
            continue
        if isinstance(module, (ACmix2d, GatedACmix2d)):
            ours += (f"{name}." if name else "",)
        # a subclass that computes something else is not what ACmix2d stands in for
        elif isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward:
            rows, columns = module.kernel_size
            if rows == columns and rows >= 3 and rows % 2:
                yield name, module


def these(offered: dict[str, nn.Conv2d]) -> str:
    """What can be selected, as the end of a sentence."""
    if not offered:
        return "the model has no convolution of an odd square kernel of 3×3 or more"
    names = list(offered)
    return "there are " + ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def check_conv(name: str, conv: nn.Conv2d) -> None:
    """Refuses a convolution whose output has another size or meaning than ACmix2d's."""
    where = f"convolution {name!r}" if name else "the convolution"
    rest = "; select the others"
    if conv.groups > 1:
        raise UsageError(f"{where} has groups={conv.groups}; ACmix2d replaces groups=1 only{rest}")
    if len(set(conv.stride)) > 1 or len(set(conv.dilation)) > 1:
        raise UsageError(f"{where} has stride={conv.stride}, dilation={conv.dilation}; expected equal sides{rest}")
    wanted = conv.dilation[0] * (conv.kernel_size[0] // 2)
    if conv.padding != "same" and conv.padding != (wanted, wanted):
        raise UsageError(f"{where} has padding={conv.padding}; expected {wanted}, which keeps the map's size{rest}")
    if conv.padding_mode != "zeros":
        raise UsageError(f"{where} has padding_mode={conv.padding_mode!r}; expected 'zeros'{rest}")


def check_loss(name: str, conv: nn.Conv2d, identity: bool) -> None:
    """Refuses a hooked or parametrised convolution where a new layer would replace it."""
    if not identity and not has_plain_weights(conv, nn.Conv2d):
        where = f"convolution {name!r}" if name else "the convolution"
        raise UsageError(
            f"{where} has hooks, pruned or parametrised weights, which a new layer would lose; take them off, select "
            "the others, or use identity=True, which keeps the convolution beside the new layer"
        )


def stand_in(
    conv: nn.Conv2d, identity: bool, *, heads: int | str, attention_size: int, transfers: bool = True
) -> nn.Module:
    """The layer that takes a convolution's place."""
    acmix = ACmix2d(
        conv.in_channels,
        conv.out_channels,
        heads=heads,
        attention_size=attention_size,
        conv_size=conv.kernel_size[0],
        stride=conv.stride[0],
        dilation=conv.dilation[0],
    ).to(conv.weight.device, conv.weight.dtype)
    acmix.requires_grad_(conv.weight.requires_grad)
    layer: nn.Module = acmix
    if identity and not (transfers and transfer(conv, acmix)):
        layer = GatedACmix2d(conv, acmix)
        layer.gate.requires_grad_(conv.weight.requires_grad)
    take_row(conv, layer)
    return layer.train(conv.training)


@torch.no_grad()
def transfer(conv: nn.Conv2d, acmix: ACmix2d) -> bool:
    """Makes ACmix2d the convolution itself, or leaves it alone and returns False where it cannot be."""
    if not has_plain_weights(conv, nn.Conv2d) or (conv.bias is not None and bool(conv.bias.any())):
        return False
    path, heads, width = acmix.conv_path, acmix.heads, acmix.head_dim
    assert path is not None
    assert path.kernels is not None
    rank = min(path.fc_weight.shape)
    # output channel d·N + n: for each d, a matrix of (n, tap) × input channel that the first `rank` pieces factor
    weight = exact(conv.weight).view(width, heads, conv.in_channels, -1)  # (D, N, I, k²)
    weight = weight.transpose(2, 3).flatten(1, 2)  # (D, N·k², I)
    sizes = torch.linalg.svdvals(weight)
    if bool((sizes[:, rank:] > 16 * torch.finfo(conv.weight.dtype).eps * sizes[:, :1]).any()):
        return False
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    root = sizes[:, :rank].sqrt()  # (D, R), R at most `rank`
    count = root.shape[1]
    left, right = left[:, :, :count] * root[:, None], root[:, :, None] * right[:, :count]  # (D, N·k², R), (D, R, I)

    # Where fc is 0 nothing is added, yet fc itself gets a gradient, and through it the rest after one step.
    nn.init.eye_(path.fc_weight)  # (T, P)
    path.fc_weight[count:].zero_()
    kernels = left.unflatten(1, (heads, -1)).transpose(2, 3)  # (D, N, R, k²)
    path.kernels[:, :count] = kernels.reshape(acmix.out_channels, count, *conv.kernel_size).to(path.kernels)
    for p in range(count):
        projection = (acmix.query, acmix.key, acmix.value)[p // heads]
        first = (p % heads) * width  # pieces are head-major
        projection.weight[first : first + width] = right[:, p, :, None, None].to(projection.weight)
    for projection in (acmix.query, acmix.key, acmix.value):
        assert projection.bias is not None
        projection.bias.zero_()
    acmix.rate_attention.zero_()
    acmix.rate_conv.fill_(1.0)
    acmix.start = "transferred"
    return True

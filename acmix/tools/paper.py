"""The paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

from acmix.models import list_models
from acmix.models.count import cost

UNKNOWN = "unknown"
# the order of every table of models
FAMILIES = ("swin", "resnet", "san", "pvt", "deit")
SIZES = ("tiny", "small", "medium", "base", "large")


@dataclass(frozen=True)
class Published:
    """What the paper prints of a model, plain and with ACmix; None where it prints nothing or we could not obtain it.

    Args:
        plain_parameters, parameters: in 10⁶.
        plain_gmacs, gmacs: 10⁹ multiply-adds, which it calls FLOPs.
        plain_top1, top1: percent on ImageNet-1k.
        note: why ours differ.
    """

    plain_parameters: float | None = None
    plain_gmacs: float | None = None
    plain_top1: float | None = None
    parameters: float | None = None
    gmacs: float | None = None
    top1: float | None = None
    note: str = ""


RESNET = (
    "our count equals the released code's; the paper's is larger, by about one more kernel of 81·C weights a block: "
    "we do not know why"
)
SWIN = "our count equals the released code's; the paper's is larger: we do not know why"
SAN = (
    "plain SAN has the published parameters and about 5 % fewer multiply-adds, and we do not know why; the choice of "
    "pieces for the convolution path is ours"
)
PVT = "the path reads k and v upsampled to full resolution, which is our choice; the paper rounds parameters to 10⁶"
NONE = "the paper gives no figures for this size"
DEIT = "the paper names ViT without figures; the form with the path is our design"

# ACmix (CVPR 2022), table 2, ImageNet-1k at 224²
PUBLISHED = {
    "acmix_resnet26": Published(13.7, 2.4, 73.6, 10.6, 2.3, 76.1, RESNET),
    "acmix_resnet38": Published(19.6, 3.2, 76.0, 14.6, 2.9, 77.4, RESNET),
    "acmix_resnet50": Published(25.6, 4.1, 76.9, 18.6, 3.6, 77.8, RESNET),
    "acmix_san10": Published(11.8, 1.9, 77.1, 12.1, 1.9, 77.6, SAN),
    "acmix_san15": Published(16.2, 2.6, 78.0, 16.6, 2.7, 78.4, SAN),
    "acmix_san19": Published(20.5, 3.3, 78.2, 21.2, 3.4, 78.7, SAN),
    "acmix_pvt_tiny": Published(13.2, 1.9, 75.1, 13.0, 2.0, 78.0, PVT),
    "acmix_pvt_small": Published(24.5, 3.8, 79.8, 25.0, 3.9, 81.7, PVT),
    "acmix_swin_tiny_patch4_window7_224": Published(28.3, 4.5, 81.3, 30.0, 4.6, 81.9, SWIN),
    "acmix_swin_small_patch4_window7_224": Published(49.6, 8.7, 83.0, 51.0, 9.0, 83.5, SWIN),
}


@dataclass(frozen=True)
class Row:
    """One form of a model, counted and published; empty differences where nothing was published.

    Args:
        model, form: its name; "plain" or "ACmix".
        parameters: counted.
        published_parameters: in 10⁶, or "unknown".
        parameters_percent: ours over the published, less 100 %.
        gmacs, published_gmacs, gmacs_percent: the same for 10⁹ multiply-adds.
        note: why they differ.
    """

    model: str
    form: str
    parameters: str
    published_parameters: str
    parameters_percent: str
    gmacs: str
    published_gmacs: str
    gmacs_percent: str
    note: str


COLUMNS = tuple(each.name for each in fields(Row))


def params(say: Callable[[str], object] = lambda line: None) -> list[Row]:
    """Counts every model in both forms, beside what the paper prints.

    Args:
        say: hears the name of each model before it is counted.
    """
    found = []
    for name in list_models():
        say(name)
        paper = PUBLISHED.get(name, Published(note=DEIT if "deit" in name else NONE))
        plain, mixed = cost(name, conv_path=False), cost(name)
        found.append(row(name, "plain", plain.parameters, plain.gmacs, paper.plain_parameters, paper.plain_gmacs, ""))
        found.append(row(name, "ACmix", mixed.parameters, mixed.gmacs, paper.parameters, paper.gmacs, paper.note))
    return found


def row(
    model: str, form: str, parameters: int, gmacs: float, millions: float | None, billions: float | None, note: str
) -> Row:
    """A row with its differences."""
    return Row(
        model,
        form,
        str(parameters),
        UNKNOWN if millions is None else f"{millions:g}",
        "" if millions is None else f"{100 * (parameters / 1e6 / millions - 1):+.1f}",
        f"{gmacs:.3f}",
        UNKNOWN if billions is None else f"{billions:g}",
        "" if billions is None else f"{100 * (gmacs / billions - 1):+.1f}",
        note,
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts model names for a reader: by family, then by image size, then from small to large."""

    def place(name: str) -> tuple[int, bool, int, str]:
        family = next(i for i, word in enumerate(FAMILIES) if word in name)
        size = next((i for i, word in enumerate(SIZES) if word in name), 0)
        return family, name.endswith("_384"), size, name

    return sorted(names, key=place)


def markdown(rows: list[Row]) -> str:
    """The rows as a table for a document, with the notes numbered below it."""
    rows = [row for name in in_order({row.model for row in rows}) for row in rows if row.model == name]
    notes = list(dict.fromkeys(each.note for each in rows if each.note))
    lines = [
        "| model | form | parameters | published | % | gmacs | published | % | note |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for each in rows:
        number = str(notes.index(each.note) + 1) if each.note else ""
        published = ["–" if value == UNKNOWN else value for value in (each.published_parameters, each.published_gmacs)]
        cells = [f"{int(each.parameters) / 1e6:.2f} M", published[0], each.parameters_percent]
        cells += [each.gmacs, published[1], each.gmacs_percent, number]
        lines.append(f"| `{each.model}` | {each.form} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *[f"{i}. {note[:1].upper()}{note[1:]}." for i, note in enumerate(notes, 1)]])

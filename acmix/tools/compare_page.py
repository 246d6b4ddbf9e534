"""Writes the page that shows runs side by side; it needs no other file and makes no request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from acmix.errors import UsageError
from acmix.layers import PathRates
from acmix.tasks.evaluation import LABELS
from acmix.tools.charts import COLOURS, Chart, chart
from acmix.tools.compare import Comparison, difference
from acmix.tools.report import environment
from acmix.tools.report_sections import capital
from acmix.tools.runs import RunRecord
from acmix.train import plots
from acmix.train.files import make_place, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# how a page begins that may be written anew
OURS = '<meta name="generator" content="acmix compare">'
# Told apart by who cannot tell red from green, green from red or blue from yellow; a test computes it. The third is
# nearly the ink, whose own colour is another variable.
LIGHT = ("#0072b2", "#d55e00", "#26292e", "#594915", "#971d63", "#6624d1")
DARK = ("#56a9e8", "#ff9a55", "#eceef0", "#ee215a", "#7a5be6", "#bd2e83")
# every line also has a shape at its end, and after six runs another dash
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("", "5 2.5", "1.5 2")
SHAPES = (
    "M22,2a3,3 0 1,0 .01,0z",
    "M19,2h6v6h-6z",
    "M22,1.6l3.4,6.2h-6.8z",
    "M22,1.2l3.8,3.8l-3.8,3.8l-3.8,-3.8z",
    "M22,8.4l3.4,-6.2h-6.8z",
    "M20.8,1.6h2.4v2.2h2.2v2.4h-2.2v2.2h-2.4v-2.2h-2.2v-2.4h2.2z",
)


@dataclass(frozen=True)
class Style:
    """How a run is drawn: the number of its colour, its dash and its marker."""

    colour: int
    dash: str
    marker: str
    shape: str

    @property
    def swatch(self) -> Markup:
        """A piece of its line, for a table."""
        ink = f"var(--run{self.colour})"
        return Markup(
            '<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">'
            f'<path d="M0,5H28" stroke="{ink}" stroke-width="2" stroke-dasharray="{self.dash}"/>'
            f'<path d="{self.shape}" fill="{ink}"/></svg>'
        )


def style_of(index: int) -> Style:
    """The style of a run; the first 108 have one each."""
    count = len(LIGHT)
    colour, dash = index % count, index // count % len(DASHES)
    shape = (colour + index // (count * len(DASHES))) % len(MARKERS)
    return Style(colour, DASHES[dash], MARKERS[shape], SHAPES[shape])


def write_page(comparison: Comparison, file: Path) -> str:
    """Writes the page.

    Args:
        comparison: what to show.
        file: of the page.

    Returns:
        A line that says where it lies, and whether it took the place of an older one.

    Raises:
        UsageError: nothing can be written there, or another page or file is there.
    """
    make_place(file)
    replaces = file.is_file() and file.stat().st_size > 0
    if replaces:
        with file.open(encoding="utf-8", errors="replace") as page:
            if OURS not in page.read(2000):
                raise UsageError(
                    f"{file} exists and is no page of `acmix compare`; delete it, or choose another --output"
                )
    write_atomically(file, html(comparison).encode())
    return f"page: {file}{', in place of an earlier comparison' if replaces else ''}"


def html(comparison: Comparison) -> str:
    """The page as text."""
    runs = comparison.runs
    styles = [style_of(index) for index in range(len(runs))]
    head, rows = comparison.figures()
    by_images = len({run.images_per_step * (run.log.start.get("steps_per_epoch") or 0) for run in runs}) > 1
    return (
        environment()
        .get_template("compare.html")
        .render(
            colours=COLOURS,
            ours=Markup(OURS),
            light=LIGHT,
            dark=DARK,
            runs=[(run, style.swatch) for run, style in zip(runs, styles, strict=True)],
            best=best_of(comparison),
            head=head[1:],
            rows=[row[1:] for row in rows],
            noise=[each is not None and each.is_noise for each in comparison.differences],
            notes=comparison.notes,
            curves=curves(comparison, styles, lambda run, record: run.log.progress(record), "epoch"),
            by_images=curves(comparison, styles, RunRecord.images, "images seen") if by_images else [],
            shares=shares(runs, styles),
            settings=comparison.settings,
        )
    )


def best_of(comparison: Comparison) -> str:
    """Which run has the best metric, and whether that is more than noise."""
    metric = comparison.metric
    evaluated = [run for run in comparison.runs if run.best.get(metric) is not None]
    if not evaluated:
        return "No run was evaluated yet." if metric else "The runs have no measure in common."
    first, *others = sorted(evaluated, key=lambda run: -run.best[metric])
    told = f"Best {LABELS[metric]}: {first.name}, {first.best[metric]:.2f} %."
    differences = [(run, difference(first, run, metric)) for run in others]
    near = [run.name for run, beyond in differences if beyond is not None and beyond.is_noise]
    if not near:
        return told
    listed = ", ".join(near[:3]) + (f" and {len(near) - 3} more" if len(near) > 3 else "")
    return f"{told} Within its noise: {listed}."


def curves(
    comparison: Comparison, styles: list[Style], where: Callable[[RunRecord, dict[str, Any]], float], x_label: str
) -> list[Chart]:
    """The metric, losses and learning rate of all runs, against what `where` gives."""
    runs = comparison.runs
    name = LABELS.get(comparison.metric, "")
    wanted = (
        (f"{capital(name)}, %", "epochs", comparison.metric),
        ("Validation loss", "epochs", "val_loss"),
        ("Training loss", "epochs", "train_loss"),
        ("Learning rate", "steps", "lr"),
    )
    drawn = []
    for title, records, key in wanted:

        def draw(axes: Axes, records: str = records, key: str = key) -> None:
            for number, (run, style) in enumerate(zip(runs, styles, strict=True), 1):
                told = getattr(run.log, records)
                xs = [where(run, record) for record in told]
                plot(axes, xs, plots.values(told, key), style, label=f"#{number}")
            finish(axes, x_label)

        drawn.append(chart(f"{title} against {x_label}", draw, height=240, colours=colours()))
    return [each for each in drawn if each.drawing]


def shares(runs: list[RunRecord], styles: list[Style]) -> Chart | None:
    """The convolution's share of both rates, from the first block to the last, of the runs that have rates."""

    def draw(axes: Axes) -> None:
        for number, (run, style) in enumerate(zip(runs, styles, strict=True), 1):
            last = [100 * PathRates(*history[-1][1:]).share for history in run.log.rates().values()]
            if last:
                plot(axes, list(range(1, len(last) + 1)), last, style, label=f"#{number}")
        finish(axes, "block")

    if not any(run.log.rates() for run in runs):
        return None
    return chart("Share of β in α + β, %, after the last epoch", draw, width=420, height=240, colours=colours())


def colours() -> dict[str, str]:
    """The colours of the drawings, by the names of the page's variables."""
    return COLOURS | {f"run{number}": colour for number, colour in enumerate(LIGHT)}


def plot(axes: Axes, xs: list[float], ys: list[float], style: Style, label: str) -> None:
    """One run's line."""
    dashes = tuple(map(float, style.dash.split()))
    line: Any = (0, dashes) if dashes else "-"
    plots.plot(axes, xs, ys, color=LIGHT[style.colour], linestyle=line, marker=style.marker, label=label)


def finish(axes: Axes, x_label: str) -> None:
    """Labels without a legend, which the page's table is; thousands in short."""
    from matplotlib.ticker import EngFormatter

    plots.finish(axes, "", x_label=x_label, legend=False)
    if x_label == "images seen":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

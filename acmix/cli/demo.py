"""`acmix demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acmix.cli.app import app
from acmix.cli.complete import demos, settings
from acmix.errors import UsageError
from acmix.near import did_you_mean

DEMOS = ("digits", "detect", "segment")


@app.command()
def demo(
    name: Annotated[
        str, typer.Argument(metavar="[digits|detect|segment]", help="What is learned.", autocompletion=demos)
    ] = "digits",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="Settings to change.", autocompletion=settings),
    ] = None,
    source: Annotated[
        str, typer.Option(metavar="WHAT", help="What detect and segment find: digits, clothes or both.")
    ] = "digits",
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the images go. [default: data/...]")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder. [default: runs/...]")] = None,
) -> None:
    """Train a small ACmix model on real small pictures, to the end, and show what it learned.

    digits classifies handwritten digits; detect finds them in drawn scenes, segment labels each pixel of them. Each
    takes minutes on two CPU cores. Clothes are Fashion-MNIST's, from Debian's package dataset-fashion-mnist.
    """
    if name not in DEMOS:
        hint = did_you_mean(name, DEMOS)
        raise UsageError(f"no demo is called {name!r}; {hint}{' ' * bool(hint)}expected {', '.join(DEMOS)}")
    place = Path("digits" if name == "digits" else f"{name}_{source}")
    data, output = data or "data" / place, output or "runs" / place
    changes = tuple(overrides or ())
    if name == "digits":
        if source != "digits":
            raise UsageError(f"--source {source} is for the demos detect and segment; leave it out")
        from acmix.tools.demo import demo as classify

        classify(data, output, changes)
        return
    from acmix.tools.demo_scenes import demo_detect, demo_segment

    (demo_detect if name == "detect" else demo_segment)(data, output, changes, source=source)

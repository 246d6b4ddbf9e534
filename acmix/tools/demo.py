"""The first two minutes: a small ACmix-Swin learns real handwritten digits, and shows what it learned.

Run as `bash run.sh`, or `python -m acmix.tools.demo [key=value ...]`. Data go to `data/digits`, the run to
`runs/digits`, below the current folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from acmix import config
from acmix.data.digits import write_digits
from acmix.tools.evaluate import evaluate_checkpoint
from acmix.tools.predict import predict
from acmix.tools.report import report
from acmix.train.loop import train
from acmix.train.terminal import new_console, say

CONFIG = "acmix_swin_digits.yaml"


def demo(data: Path, output: Path, overrides: tuple[str, ...] = ()) -> None:
    """Writes the digits, trains to the end, evaluates, predicts and reports.

    Args:
        data: where the digits go, as an image folder.
        output: the run's folder; a finished run in it is not trained again.
        overrides: `key=value` changes to the configuration.
    """
    console = new_console()
    folder = write_digits(data)
    say(console, f"1,797 handwritten digits in {folder}")
    train(config.load(CONFIG, [f"data.dir={folder}", *overrides]), output)

    best = output / "checkpoints" / "best.pt"
    evaluated = evaluate_checkpoint(best, str(folder)).result
    say(console, f"best.pt read back: top-1 {evaluated.metrics['top1']:.2f} % of {evaluated.images} held-out digits")
    files = [sorted(digit.glob("*.png"))[0] for digit in sorted((folder / "val").iterdir())]
    for prediction in predict(best, [str(file) for file in files], top=1):
        name, probability = prediction.classes[0]
        say(console, f"  {prediction.image}: {name} ({probability:.0%})")
    page = report(output)
    places = {
        "summary": output / "summary.json",
        "curves": output / "curves.png",
        "path rates": output / "paths.png",
        "checkpoint": best,
        "report": page,
    }
    for what, place in places.items():
        say(console, f"{what:>10}: {place}")
    say(console, f"To train again, delete {output}. To classify a digit: acmix predict {best} IMAGE")


if __name__ == "__main__":
    from acmix.tools.guard import guarded

    guarded(lambda: demo(Path("data/digits"), Path("runs/digits"), tuple(sys.argv[1:])))

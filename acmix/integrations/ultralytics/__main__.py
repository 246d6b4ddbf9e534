"""`python -m acmix.integrations.ultralytics …`: the `yolo` command, which also knows ACmix2d; and `replace`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from acmix.errors import UsageError
from acmix.integrations.ultralytics.hooks import register
from acmix.integrations.ultralytics.recipe import replaced_names
from acmix.integrations.ultralytics.replacing import replace_conv

PROGRAM = "python -m acmix.integrations.ultralytics"
USAGE = f"""usage: {PROGRAM} ARGUMENTS OF yolo
       {PROGRAM} replace SOURCE TARGET PATTERN... [--identity]

The first is the `yolo` command where model files may have rows of ACmix2d:
    {PROGRAM} train model=my-yolo11n.yaml data=coco8.yaml epochs=3
The second writes a YOLO with ACmix2d in the place of convolutions, which `yolo` itself then trains:
    {PROGRAM} replace yolo11n.pt yolo11n-acmix.pt 'model.22.m.0.*.cv2.conv' --identity
    yolo train model=yolo11n-acmix.pt data=coco8.yaml epochs=3
"""


def main() -> int:
    """Runs the command, and returns the exit status."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    try:
        register()
        if arguments[0] == "replace":
            replace(arguments[1:])
        else:
            import_module("ultralytics.cfg").entrypoint()
    except UsageError as error:
        print(f"acmix: error: {error}", file=sys.stderr)
        return 2
    return 0


def replace(arguments: list[str]) -> None:
    """Writes a YOLO whose convolutions are replaced."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} replace", description="Puts ACmix2d into a YOLO.")
    parser.add_argument("source", help="yolo11n.pt, or a model file such as yolo11n.yaml")
    parser.add_argument("target", help="the .pt file to write")
    parser.add_argument("pattern", nargs="+", help="which convolutions, e.g. 'model.22.m.0.*.cv2.conv'")
    parser.add_argument("--identity", action="store_true", help="keep each convolution; the output starts the same")
    parser.add_argument("--heads", default="auto", help="of each ACmix2d (default: auto)")
    parser.add_argument("--attention-size", type=int, default=7, help="of each ACmix2d (default: 7)")
    given = parser.parse_args(arguments)
    if not given.target.endswith(".pt"):
        raise UsageError(f"{given.target}: expected a name that ends with .pt, e.g. yolo11n-acmix.pt")
    heads = int(given.heads) if given.heads.isdigit() else given.heads
    model = import_module("ultralytics").YOLO(given.source)
    replace_conv(model, given.pattern, identity=given.identity, heads=heads, attention_size=given.attention_size)
    model.save(given.target)
    print(f"ACmix2d in the place of {', '.join(replaced_names(model.model))}")
    print(f"written: {given.target}; next: yolo train model={given.target} data=…")


if __name__ == "__main__":
    sys.exit(main())

"""ACmix2d in YOLOv5, YOLOv7 and forks of them: lines to add to theirs.

At the end of the fork's `models/yolo.py`:

    from acmix.integrations.yolov5 import accept_acmix
    parse_model = accept_acmix(parse_model)

Its model files then take rows such as these. The number is of output channels, before the model's scale; those that
come in are found.

    [-1, 1, ACmix2d, [1024]],
    [-1, 1, ACmix2d, [1024, {heads: 4, attention_size: 7}]],

In the fork's `train.py`, on the line after the one that makes `optimizer`:

    from acmix.integrations.yolov5 import spare_rates
    spare_rates(model, optimizer)

Where you would rather see a file of your own, copy this one into the fork, and import it from there.
"""

from __future__ import annotations

from acmix.integrations.rates import spare_rates
from acmix.integrations.rows import ParseModel, reads_rows

__all__ = ["accept_acmix", "spare_rates"]


def accept_acmix(parse_model: ParseModel) -> ParseModel:
    """A fork's `parse_model` that also reads rows of ACmix2d.

    Args:
        parse_model: the function of `models/yolo.py`, which takes a model file's dictionary and the channels.

    Returns:
        A function of the same arguments. A wrong row raises a UsageError that names it.
    """
    return parse_model if hasattr(parse_model, "__wrapped__") else reads_rows(parse_model)

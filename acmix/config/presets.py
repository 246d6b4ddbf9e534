"""Names that stand for the values of a whole section: `augment=light`."""

from __future__ import annotations

from typing import Any

from acmix.near import did_you_mean

# `augment=NAME` stands for these values, and for the defaults of the keys that are not named here
AUGMENT_PRESETS: dict[str, dict[str, Any]] = {
    # images as evaluation prepares them, nothing by chance; true labels
    "none": {
        "scale": None,
        "hflip": 0.0,
        "color_jitter": None,
        "auto_augment": None,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
    },
    # for fine-tuning and small data sets: crops of at least half the area, flips, a little colour, smoothed labels
    "light": {
        "scale": (0.5, 1.0),
        "color_jitter": 0.2,
        "auto_augment": None,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    },
    # Swin's published recipe on ImageNet: all defaults
    "recipe": {},
}


def augment_preset(name: Any) -> dict[str, Any]:
    """The values that a preset's name stands for; ValueError where there is no such preset."""
    if isinstance(name, str) and name in AUGMENT_PRESETS:
        return dict(AUGMENT_PRESETS[name])
    # an empty section of a file may as well mean the defaults as none
    hint = "" if name is None else did_you_mean(str(name), AUGMENT_PRESETS).replace("?", "? ")
    raise ValueError(f"no such preset; {hint}expected {', '.join(AUGMENT_PRESETS)}, or single keys (augment.mixup=0.2)")

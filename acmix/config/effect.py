"""Which settings a run of a task reads nothing of, though they were given."""

from __future__ import annotations

from acmix.config.images import Augment
from acmix.config.kinds import Section
from acmix.config.schema import Config

# what classification alone reads, by section
OF_CLASSIFICATION = {
    "model": ("num_classes",),
    "data": ("img_size", "interpolation", "crop_pct", "draft"),
    "augment": tuple(key for key in Augment.model_fields if key != "hflip"),
}


def without_effect(config: Config) -> list[str]:
    """A line that names the settings that were given in vain, or none.

    Args:
        config: as read; "given" means that a file or the command line names the key. A run's own config.yaml names
            every key, and there it means another value than the default.
    """
    if config.task.name == "classify":
        return []
    keys = [
        f"{name}.{key}"
        for name, unread in OF_CLASSIFICATION.items()
        for key in unread
        if is_given(getattr(config, name), key)
    ]
    return [f"without effect, as task.name is {config.task.name}: {', '.join(keys)}"] if keys else []


def is_given(section: Section, key: str) -> bool:
    """Whether a key was set by hand."""
    fields, given = type(section).model_fields, section.model_fields_set
    if given >= fields.keys():
        return getattr(section, key) != fields[key].get_default(call_default_factory=True)
    return key in given

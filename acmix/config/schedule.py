"""The section `schedule`: the learning rate from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from acmix.config.kinds import CountOrZero, Fraction, Section, Share

if TYPE_CHECKING:
    from typing_extensions import Self

# of which a learning rate falls
Epochs = Annotated[float, Field(gt=0.0, le=1e6)]
# settings that some schedules alone read, and which
SCHEDULE_OF = {
    "milestones": ("multistep",),
    "decay_epochs": ("step",),
    "decay_factor": ("step", "multistep"),
    "power": ("poly",),
}


class Schedule(Section):
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "step", "multistep", "poly", "constant"] = Field(default="cosine", examples=["step"])
    """How the learning rate moves after warm-up. cosine and poly fall to `schedule.min_lr`, step falls at equal
    distances, multistep at `schedule.milestones`, constant stays. All count from the first step."""

    warmup_epochs: float = Field(default=20.0, ge=0.0, le=1e6, examples=[5])
    """Epochs in which the learning rate rises to its peak."""

    warmup_steps: CountOrZero | None = Field(default=None, examples=[500])
    """Steps of warm-up, in place of `schedule.warmup_epochs`. null: the epochs hold."""

    warmup_share: Fraction = Field(default=0.2, examples=[0.1])
    """The largest share of a run that warm-up takes. A short run of a long recipe warms up for less; 1 allows all."""

    warmup_lr: float = Field(default=5e-7, ge=0.0, le=100.0, examples=[1e-6])
    """Learning rate at the first step. Not above `optimizer.lr`, with which it scales."""

    min_lr: float = Field(default=5e-6, ge=0.0, le=100.0, examples=[1e-5])
    """Learning rate at the end of cosine and poly. Not above `optimizer.lr`, with which it scales."""

    milestones: tuple[Epochs, ...] | None = Field(
        default=None, examples=[[8, 11]], json_schema_extra={"with": "schedule.name=multistep"}
    )
    """Epochs after which a multistep learning rate falls. In ascending order."""

    decay_epochs: float | None = Field(
        default=None, gt=0.0, le=1e6, examples=[30], json_schema_extra={"with": "schedule.name=step"}
    )
    """Epochs from one fall of a step learning rate to the next. null: a third of the run."""

    decay_factor: Share | None = Field(default=None, examples=[0.5], json_schema_extra={"with": "schedule.name=step"})
    """Factor of each fall of step and multistep. null: 0.1."""

    power: float | None = Field(
        default=None, ge=0.01, le=100.0, examples=[0.9], json_schema_extra={"with": "schedule.name=poly"}
    )
    """The exponent of poly. null: 1, a straight line."""

    @field_validator("milestones", mode="before")
    @classmethod
    def are_several(cls, given: Any) -> Any:
        """Takes a number for a list of one, and refuses what is neither."""
        if given is not None and not isinstance(given, (int, float, list, tuple)):
            raise ValueError("expected a list of epochs, such as [8, 11]")
        return [given] if isinstance(given, (int, float)) else given

    @field_validator("milestones")
    @classmethod
    def are_ascending(cls, milestones: tuple[float, ...] | None) -> tuple[float, ...] | None:
        """Refuses milestones that do not follow one another."""
        if milestones is not None and list(milestones) != sorted(set(milestones)):
            raise ValueError("expected ascending epochs, such as [8, 11]")
        return milestones

    @model_validator(mode="after")
    def has_what_it_reads(self) -> Self:
        """Refuses settings of another schedule, and a multistep one without milestones."""
        for key, names in SCHEDULE_OF.items():
            if getattr(self, key) is not None and self.name not in names:
                raise ValueError(
                    f"schedule.{key} is for schedule.name={' or '.join(names)}, not {self.name}; "
                    f"set schedule.name={names[0]}, or schedule.{key}=null"
                )
        if self.name == "multistep" and not self.milestones:
            raise ValueError(
                "schedule.name=multistep falls at schedule.milestones, which are not set; "
                "set them to epochs, such as schedule.milestones=[8,11]"
            )
        return self

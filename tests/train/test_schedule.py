"""The learning rate: a function of the step alone, warmed up for a share of the run at most, said where it is odd."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

import pytest
from timm.scheduler import CosineLRScheduler
from torch import nn

from acmix import config as configuration
from acmix.errors import UsageError
from acmix.train.optim import Schedule, check_rates, create_optimizer, odd_rates, warmup_steps
from tests.support.tiny import tiny_config

CONFIGS = Path(str(resources.files("acmix"))) / "configs"
# of classification, which are all of cosine form
RECIPES = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("finetune/*.yaml")])
RECIPES = [file for file in RECIPES if configuration.load(file).task.name == "classify"]
# one step an epoch and more, a run as long as its warm-up and longer
LENGTHS = [(1, 1), (1, 7), (2, 1), (5, 3)]
EVERY = {
    "cosine": [],
    "poly": ["schedule.power=0.9"],
    "step": ["schedule.decay_epochs=3"],
    "multistep": ["schedule.milestones=[4, 8]"],
    "constant": [],
}


def schedule(batch: int, *overrides: str) -> Schedule:
    """100 steps, of which 20 warm up, for a batch of 512 images."""
    base = ("train.epochs=10", "schedule.warmup_epochs=2", "schedule.warmup_lr=1e-6", "schedule.min_lr=1e-5")
    config = tiny_config("", *base, "optimizer.lr=1e-3", "optimizer.base_batch_size=512", *overrides)
    return Schedule(create_optimizer(nn.Linear(2, 2), config, batch), config, 10, batch)


def test_the_learning_rate_is_warm_up_then_cosine_and_depends_on_the_step_alone() -> None:
    ours = schedule(512)
    values = [ours.apply(step) for step in range(100)]
    assert values[0] == pytest.approx(1e-6)
    assert values[10] == pytest.approx((1e-6 + 1e-3) / 2)
    # as in the released recipe the cosine counts from step 0: it is met, not started, at the end of the warm-up
    assert values.index(max(values)) == 19
    for step in (20, 50, 99):
        assert values[step] == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 100)) / 2)
    assert ours.apply(100) == pytest.approx(1e-5)
    # asked in another order, by a schedule that has seen nothing
    fresh = schedule(512)
    assert [fresh.apply(step) for step in (99, 3, 50)] == [values[99], values[3], values[50]]


def test_every_learning_rate_grows_with_the_batch() -> None:
    small, large = schedule(512), schedule(2048)
    for step in (0, 7, 20, 60, 99):
        assert large.apply(step) == pytest.approx(4 * small.apply(step))
    unscaled = schedule(2048, "optimizer.base_batch_size=null")
    assert unscaled.apply(20) == pytest.approx(small.apply(20))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_shipped_recipe_has_the_rates_it_always_had(file: Path) -> None:
    config, steps = configuration.load(file), 7
    given = Schedule(create_optimizer(nn.Linear(2, 2), config, 512), config, steps, 512)
    optimizer = create_optimizer(nn.Linear(2, 2), config, 512)
    settings, scale = config.schedule, 512 / (config.optimizer.base_batch_size or 512)
    plain = CosineLRScheduler(
        optimizer,
        t_initial=config.train.epochs * steps,
        lr_min=settings.min_lr * scale,
        warmup_t=round(settings.warmup_epochs * steps),
        warmup_lr_init=settings.warmup_lr * scale,
        cycle_limit=1,
        t_in_epochs=False,
    )
    for step in range(0, config.train.epochs * steps, 3):
        plain.step_update(step)
        assert given.apply(step) == max(group["lr"] for group in optimizer.param_groups)
    assert odd_rates(config, steps) == []


@pytest.mark.parametrize("name", [*EVERY][:1] + [pytest.param(name, marks=pytest.mark.slow) for name in [*EVERY][1:]])
def test_every_schedule_depends_on_the_step_alone_and_warms_up(name: str) -> None:
    overrides = (f"schedule.name={name}", *EVERY[name])
    values = [schedule(512, *overrides).apply(step) for step in range(100)]
    once = schedule(512, *overrides)
    assert [once.apply(step) for step in reversed(range(100))] == values[::-1]
    assert values[:20] == pytest.approx([1e-6 + step * (1e-3 - 1e-6) / 20 for step in range(20)])
    small = schedule(256, *overrides)
    assert [2 * small.apply(step) for step in range(100)] == pytest.approx(values)


def test_what_a_schedule_does_after_its_warm_up() -> None:
    def values(*overrides: str) -> list[float]:
        ours = schedule(512, *overrides)
        return [ours.apply(step) for step in range(100)]

    none = "schedule.warmup_epochs=0"
    assert values("schedule.name=constant", none) == [1e-3] * 100
    # a milestone is the first epoch of ten steps with the lower rate
    falls = values("schedule.name=multistep", "schedule.milestones=[4, 8.5]", none)
    assert falls == pytest.approx([1e-3] * 40 + [1e-4] * 45 + [1e-5] * 15)
    halves = values("schedule.name=step", "schedule.decay_epochs=4", "schedule.decay_factor=0.5", none)
    assert halves == pytest.approx([1e-3] * 40 + [5e-4] * 40 + [2.5e-4] * 20)
    thirds = values("schedule.name=step", none)
    assert [thirds.count(rate) for rate in sorted(set(thirds))] == [33, 33, 34]
    straight = values("schedule.name=poly", none)
    assert straight == pytest.approx([1e-5 + (1e-3 - 1e-5) * (1 - step / 100) for step in range(100)])
    curved = values("schedule.name=poly", "schedule.power=2", none)
    assert curved == pytest.approx([1e-5 + (1e-3 - 1e-5) * (1 - step / 100) ** 2 for step in range(100)])


@pytest.mark.parametrize(("epochs", "steps"), LENGTHS)
def test_warm_up_is_a_share_of_a_short_run(epochs: int, steps: int) -> None:
    told = (f"train.epochs={epochs}", "schedule.warmup_share=0.2")
    for warmup in ("schedule.warmup_epochs=20", "schedule.warmup_steps=500"):
        config = tiny_config("", *told, warmup)
        assert warmup_steps(config, steps)[1] == round(0.2 * epochs * steps)
        ours = Schedule(create_optimizer(nn.Linear(2, 2), config, 8), config, steps, 8)
        rates = [ours.apply(step) for step in range(epochs * steps)]
        assert max(rates) > 0.9 * config.optimizer.lr
        assert "shortened" in odd_rates(config, steps)[0]


def test_a_warm_up_in_steps_goes_before_one_in_epochs() -> None:
    config = tiny_config("", "schedule.warmup_steps=3", "train.epochs=10")
    assert warmup_steps(config, 10) == (3, 3)
    assert odd_rates(config, 10) == []


def test_a_schedule_that_is_not_what_one_expects_is_said() -> None:
    def said(*overrides: str) -> list[str]:
        return odd_rates(tiny_config("", *overrides), 22)

    assert said() == []
    assert said("schedule.warmup_epochs=20", "schedule.warmup_share=0.2") == [
        "warm-up 20 epochs, shortened to 0.4 of 2 (schedule.warmup_share 0.2)"
    ]
    assert said("schedule.warmup_steps=500", "schedule.warmup_share=0.2") == [
        "warm-up 500 steps, shortened to 9 of 44 (schedule.warmup_share 0.2)"
    ]
    assert said("schedule.warmup_epochs=20") == [
        "schedule.warmup_epochs 20 is not below the 2 epochs of the run: the learning rate only rises; "
        "set schedule.warmup_epochs lower"
    ]
    assert said("schedule.name=multistep", "schedule.milestones=[1, 2, 8]") == [
        "schedule.milestones 2 is not below train.epochs 2: the learning rate does not fall then",
        "schedule.milestones 8 is not below train.epochs 2: the learning rate does not fall then",
    ]
    assert said("schedule.name=step", "schedule.decay_epochs=30") == [
        "schedule.decay_epochs 30 is not below train.epochs 2: the learning rate does not fall then"
    ]


def test_ends_above_the_peak_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^schedule.warmup_lr=1e-05 is above optimizer.lr=1e-06: .*to 1e-08, or to 0"):
        check_rates(tiny_config("", "optimizer.lr=1e-6", "schedule.warmup_lr=1e-5", "schedule.warmup_epochs=1"))
    with pytest.raises(UsageError, match=r"schedule\.min_lr=5e-06 is above .*: the learning rate would rise"):
        check_rates(tiny_config("", "optimizer.lr=1e-6", "schedule.warmup_epochs=0"))
    check_rates(tiny_config("", "optimizer.lr=1e-6", "schedule.name=constant", "schedule.warmup_epochs=0"))


@pytest.mark.parametrize("extreme", ["1e6", "1e-300"])
@pytest.mark.parametrize(
    "told",
    [
        ("schedule.warmup_epochs=%s",),
        ("schedule.name=step", "schedule.decay_epochs=%s"),
        ("schedule.name=multistep", "schedule.milestones=[%s]"),
    ],
    ids=lambda told: told[-1].partition("=")[0],
)
def test_a_number_that_no_run_reaches_is_no_failure(told: tuple[str, ...], extreme: str) -> None:
    config = tiny_config("", *(each.replace("%s", extreme) for each in told))
    ours = Schedule(create_optimizer(nn.Linear(2, 2), config, 8), config, 10, 8)
    assert all(0 <= ours.apply(step) < math.inf for step in range(21))
    assert all("\n" not in line for line in odd_rates(config, 10))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["milestones=[3]"], "is for schedule.name=multistep, not cosine; set schedule.name=multistep, or"),
        (["name=multistep"], "schedule.milestones, which are not set; set them to epochs, such as"),
        (["name=multistep", "milestones=[]"], "schedule.milestones, which are not set"),
        (["name=multistep", "milestones=[8, 3]"], "schedule.milestones=[8, 3]: expected ascending epochs"),
        (["name=multistep", "milestones=[3, 3]"], "expected ascending epochs"),
        (["name=multistep", "milestones=[0, 3]"], "schedule.milestones[0]=0: input should be greater than 0"),
        (["name=multistep", "milestones=3,8"], "expected a list of epochs, such as [8, 11]"),
        (["power=2"], "schedule.power is for schedule.name=poly, not cosine"),
        (["name=poly", "decay_factor=0.5"], "is for schedule.name=step or multistep, not poly"),
        (["name=step", "decay_factor=2"], "schedule.decay_factor=2: input should be less than or equal to 1"),
        (["name=steps"], "schedule.name=steps: input should be 'cosine', 'step', 'multistep', 'poly' or 'constant'"),
        (["warmup_share=2"], "schedule.warmup_share=2: input should be less than or equal to 1"),
    ],
)  # fmt: skip
def test_settings_of_schedules_that_do_not_go_together_are_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        configuration.load("acmix_swin_digits", [f"schedule.{each}" for each in overrides])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_one_milestone_is_a_number_and_settings_are_written_as_they_were_read() -> None:
    given = configuration.load("acmix_swin_digits", ["schedule.name=multistep", "schedule.milestones=3"])
    assert given.schedule.milestones == (3.0,)
    assert configuration.complete(configuration.parse(configuration.dump(given)), [], "x") == given

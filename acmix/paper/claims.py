"""The paper's six claims, each tested on what was measured: held, did not hold, or not testable here.

A part of a claim on accuracies holds where the 95 % interval of the difference over seeds lies on its side of 0, does
not where it lies on the other, and is left open in between. A claim holds where all its parts do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from acmix.benchmark.published.measured import Row, rows_of
from acmix.benchmark.record import WRONG
from acmix.paper import arms, paths
from acmix.paper.grid import Grid, read_grid
from acmix.paper.runs import COLUMNS, Run, read_rows
from acmix.paper.statistics import signed

# by the form of the network: the grid whose both-paths arm tells the rates by block
OF_PATHS = {"swin": "fashion_paths_swin", "resnet": "fashion_paths_resnet"}
FORMS = {"swin": "Swin", "resnet": "ResNet"}
HELD, NOT_HELD, OPEN = "held", "did not hold", "not testable here"
MISSING = "not measured"


@dataclass(frozen=True)
class Found:
    """What was measured.

    Args:
        decomposed: of `paper_decompose.csv`.
        runs: of `ablations.csv`.
        over: of `paper_rates_swin.csv` and `paper_rates_resnet.csv`, by form; those that are there.
        speed: of `paper_speed.csv`.
    """

    decomposed: list[Row]
    runs: list[Run]
    over: dict[str, paths.Over]
    speed: list[Row]

    def of(self, grid: Grid) -> list[Run]:
        """The runs of a grid."""
        return [each for each in self.runs if each.grid == grid.name]


def read(results: Path) -> Found:
    """What lies in a folder of results."""
    rates = {form: results / f"paper_rates_{form}.csv" for form in OF_PATHS}
    return Found(
        rows_of(results / "paper_decompose.csv"),
        [as_run(row) for row in read_rows(results / "ablations.csv")],
        {form: paths.read_table(file) for form, file in rates.items() if file.is_file()},
        rows_of(results / "paper_speed.csv"),
    )


def as_run(row: dict[str, str]) -> Run:
    """A run of a row of the table."""
    return Run(row["grid"], row["arm"], int(row["seed"]), *(row[name] for name in COLUMNS[3:]))


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Args:
        claim: in a sentence.
        found: what was measured.
        verdict: one of `HELD`, `NOT_HELD`, `OPEN`, or that nothing was measured.
        command: that measures it.
    """

    claim: str
    found: str
    verdict: str
    command: str


def against(found: Found, name: str, others: Sequence[str]) -> tuple[list[str], str]:
    """How a grid's baseline does beside other arms: words for each, and whether it is better than all of them.

    Before every seed of these arms has ended, there is no verdict.
    """
    grid = read_grid(name)
    told, states = [], set()
    for arm in arms.compared(grid, found.of(grid)):
        if arm.name not in others:
            continue
        over = arm.difference
        if over is None or over.count < len(grid.seeds):
            return [f"{name}: {MISSING}"], MISSING
        state = HELD if over.high < 0 else NOT_HELD if over.low > 0 else OPEN
        states.add(state)
        # the baseline's lead, so that the sign is the claim's
        told.append(f"over {arm.name} {signed(-over.mean)} ({signed(-over.high)} to {signed(-over.low)})")
    return told, worst(states)


def worst(states: Iterable[str]) -> str:
    """What parts of a claim come to: it holds where all of them do."""
    every = set(states)
    return next((state for state in (NOT_HELD, MISSING, OPEN) if state in every), HELD if every else MISSING)


def verdicts(found: Found) -> list[Verdict]:
    """The six claims, in the paper's order."""
    return [
        of_decomposition(found),
        of_shared_stage(found),
        of_paths(found),
        of_rates(found),
        of_kernels(found),
        of_depth(found),
    ]


def of_decomposition(found: Found) -> Verdict:
    """Claim 1."""
    told = [f"{row['of']}: {row['value']}" for row in found.decomposed if row["what"] == "difference"]
    # of numbers that large, float64 keeps sixteen digits
    right = all(float(row["value"]) < 1e-12 for row in found.decomposed if row["of"].endswith("float64"))
    return Verdict(
        "A k×k convolution is k² 1×1 convolutions, then shift and sum (exact)",
        f"largest difference ÷ largest number: {'; '.join(told)}" if told else MISSING,
        (HELD if right else NOT_HELD) if told else MISSING,
        "acmix paper decompose",
    )


def of_shared_stage(found: Found) -> Verdict:
    """Claim 2."""
    counts = {(row["what"], row["of"]): row["value"] for row in found.decomposed}
    pairs = [
        (counts[what, of], counts[f"{what} by formula", of])
        for what in ("parameters", "10⁶ multiply-adds")
        for of in ("convolution", "ACmix")
        if (what, of) in counts
    ]
    shares = [
        f"{counts['stage I, %', f'ACmix, C {channels}']} % at C = {channels}" for channels in (64, 256, 1024) if pairs
    ]
    return Verdict(
        "Attention and convolution share stage I, which costs O(C²); stage II costs O(C)",
        f"counts equal the formulas; stage I is {', '.join(shares)} of ACmix's multiply-adds" if pairs else MISSING,
        (HELD if all(one == other for one, other in pairs) else NOT_HELD) if pairs else MISSING,
        "acmix paper decompose",
    )


def of_paths(found: Found) -> Verdict:
    """Claim 3."""
    told, states = [], []
    for form, grid in OF_PATHS.items():
        words, state = against(found, grid, ("attention", "convolution"))
        told.append(f"{FORMS[form]}: {', '.join(words)}")
        states.append(state)
    return Verdict(
        "Both paths are at least as good as attention alone and as convolution alone, at an equal budget",
        "; ".join(told),
        worst(states),
        "acmix paper ablation fashion_paths_swin; … fashion_paths_resnet",
    )


def of_rates(found: Found) -> Verdict:
    """Claim 4."""
    told, state = against(found, "fashion_rates", ("one", "half"))
    return Verdict("Learned α and β beat fixed ones", ", ".join(told), state, "acmix paper ablation fashion_rates")


def of_kernels(found: Found) -> Verdict:
    """Claim 5."""
    told, state = against(found, "fashion_kernels", ("frozen_shifts", "learned_from_random"))
    rows = [
        row
        for row in found.speed
        if (row["line"], row["peer"], row["candidate"])
        == ("paper_shifts", "explicit shifts", "grouped convolution, learned")
    ]
    right = [row for row in rows if row["speed_up"] != WRONG]
    times = []
    for phase in dict.fromkeys(row["phase"] for row in right):
        ratios = [float(row["speed_up"]) for row in right if row["phase"] == phase]
        times.append(f"{phase} {min(ratios):.2f} to {max(ratios):.2f}")
    fast = speed_of(rows)
    faster = [f"{row['phase']} at {row['shape']}" for row in right if float(row["speed_up_high"]) < 1]
    where = f"; explicit shifts are faster {', '.join(faster)}" * bool(faster)
    speeds = f"explicit shifts ÷ grouped convolution: {', '.join(times)}{where}" if times else MISSING
    return Verdict(
        "Kernels that start as shifts and learn beat frozen and random ones, and as a grouped convolution are faster "
        "than explicit shifts",
        f"{', '.join(told)}; {speeds}",
        worst([state, fast]),
        "acmix paper ablation fashion_kernels; acmix paper speed",
    )


def speed_of(rows: Sequence[Row]) -> str:
    """Whether explicit shifts take longer wherever they were timed in turn, by the quartiles of the ratio."""
    if not rows or any(row["speed_up"] == WRONG for row in rows):
        return MISSING
    if all(float(row["speed_up_low"]) > 1 for row in rows):
        return HELD
    return NOT_HELD if any(float(row["speed_up_high"]) < 1 for row in rows) else OPEN


def of_depth(found: Found) -> Verdict:
    """Claim 6."""
    told, states = [], []
    for form in OF_PATHS:
        if form not in found.over:
            told.append(f"{FORMS[form]}: {MISSING}")
            states.append(MISSING)
            continue
        depth = paths.depth(found.over[form])
        told.append(f"{FORMS[form]}: {depth.early} in the first half, {depth.late} in the second")
        states.append({True: HELD, False: NOT_HELD, None: OPEN}[depth.holds])
    return Verdict(
        "β dominates early blocks, α late ones",
        f"log |α/β|, {'; '.join(told)}",
        worst(states),
        "; ".join(f"acmix paper paths runs/{name}" for name in OF_PATHS.values()),
    )

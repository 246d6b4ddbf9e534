"""What the processes of a run say they are doing, so that one which waits too long can say for whom."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

# seconds between two signs, and how old the newest may be before it is told
BEAT, SILENCE = 2.0, 5.0
# seconds to wait for what the others told
ANSWER = 10.0
# torchrun's word for that the launcher keeps the store; otherwise the process of rank 0 does
KEPT_BY_LAUNCHER = "TORCHELASTIC_USE_AGENT_STORE"
# times in a row that the others' store takes nothing, as where the launcher is gone
MOST_FAILS = 3


@dataclass
class Signs:
    """Tells the other processes what this one is doing, from a thread, and knows what they last told.

    Args:
        rank: number of this process.
        size: how many there are.
        store: where they tell it; None: this process is alone, and tells nothing.
    """

    rank: int = 0
    size: int = 1
    store: Any = None
    doing: str = "starting"
    fails: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Signs:
        """Begins to tell."""
        if self.store is not None:
            threading.Thread(target=self.tell, daemon=True, name="signs").start()
        return self

    def tell(self) -> None:
        """Tells what is being done, until the end or until nobody takes it any more."""
        while self.fails < MOST_FAILS:
            sign = {"doing": self.doing, "time": time.time()}
            try:
                self.store.set(f"sign {self.rank}", json.dumps(sign))
                self.fails = 0
            except RuntimeError:
                self.fails += 1
            if self.done.wait(BEAT):
                return

    def of_others(self) -> str:
        """What the others last told, the silent ones first, as the end of a sentence; "" where nothing is known."""
        if self.store is None:
            return ""
        signs: dict[int, Any] = {}
        # a process that hangs may be the one that keeps the store, which then answers nothing for as long
        asking = threading.Thread(target=self.ask, args=(signs,), daemon=True, name="asking for signs")
        asking.start()
        asking.join(ANSWER)
        if asking.is_alive():
            keeper = "the launcher" if os.environ.get(KEPT_BY_LAUNCHER) == "True" else "process 0"
            return f"{keeper}, which keeps what each process says, does not answer"
        lines = []
        for rank, sign in signs.items():
            if sign is None:
                lines.append((0.0, f"process {rank} said nothing at all"))
            elif (age := time.time() - sign["time"]) > SILENCE:
                lines.append((-age, f"process {rank} was last heard of {age:.0f} s ago, {sign['doing']}"))
            else:
                lines.append((1.0, f"process {rank} is {sign['doing']}"))
        return "; ".join(text for _, text in sorted(lines)[:3])

    def ask(self, signs: dict[int, Any]) -> None:
        """Puts down what each of the others last told; None for one of which nothing is known."""
        for rank in range(self.size):
            if rank == self.rank:
                continue
            try:
                key = f"sign {rank}"
                signs[rank] = json.loads(self.store.get(key)) if self.store.check([key]) else None
            except (RuntimeError, ValueError):
                signs[rank] = None

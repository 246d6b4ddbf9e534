"""torch's loader, whose reading processes are forked at a safe moment."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from acmix.data.worker import wait_for_other_threads


class Loader(DataLoader[Any]):
    """torch's loader; its readers are forked while no other thread of this process is at work.

    A fork copies one thread, and locks as they stand. Python 3.11 waits in the new process for the lock of its list of
    threads; had another thread held it, such as one of gloo's that gives back a tensor, the reader never begins.
    """

    def __iter__(self) -> Any:
        """Batches."""
        if self.num_workers:
            wait_for_other_threads()
        return super().__iter__()

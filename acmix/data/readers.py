"""torch's loader, whose reading processes are forked at a safe moment and missed soon after their end."""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter  # pyright: ignore[reportPrivateUsage]

from acmix.data.worker import wait_for_other_threads

# seconds between looks at the readers while a batch is waited for
LOOK = 5.0


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

    def _get_iterator(self) -> Any:
        return Batches(self) if self.num_workers else super()._get_iterator()


class Batches(_MultiProcessingDataLoaderIter):
    """torch's batches; a reader that is gone is noticed in seconds, whatever the loader's timeout.

    torch tells of it by an error that it raises out of a signal's handler. Where the signal comes while an object is
    taken down, Python drops the error, and torch looks again only when the timeout is over: half an hour by default.
    """

    def _try_get_data(self, timeout: float = LOOK) -> tuple[bool, Any]:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            found = super()._try_get_data(max(0.0, min(LOOK, left)))
            if found[0] or left <= LOOK:
                return found

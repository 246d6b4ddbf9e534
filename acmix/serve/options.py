"""What a service takes and how it batches."""

from __future__ import annotations

from dataclasses import dataclass

from acmix.errors import UsageError

MIB = 2**20


@dataclass(frozen=True)
class Options:
    """Settings of a service, each with what is refused beyond it.

    Args:
        top: classes that an image gets, of a classifier; 5 by default.
        score: objects of which a detector is less sure are left out; 0.5 by default.
        batch_size: the most images that go through the model together.
        window_ms: how long the first image of a batch waits for others.
        workers: threads that decode and prepare images.
        queue: the most images that wait or are computed at a time; one more is answered with 429.
        max_mib: of the body of a request, in MiB; 413.
        max_megapixels: of an image, in millions of pixels; its header is read before it is decoded.
        max_files: of a request; 413.
        timeout: seconds from a request's first line to its answer; 503 where the model is late.
        upload_timeout: seconds from a request's first byte to its last, 408; and those in which an answer is taken.
        drain: seconds that a service goes on taking requests after a signal to stop, while `/ready` answers 503.
        connections: the most that are open at a time; one more is answered with 429.

    Raises:
        UsageError: a number that cannot be.
    """

    top: int | None = None
    score: float | None = None
    batch_size: int = 16
    window_ms: float = 5.0
    workers: int = 2
    queue: int = 64
    max_mib: float = 32.0
    max_megapixels: float = 50.0
    max_files: int = 16
    timeout: float = 60.0
    upload_timeout: float = 20.0
    drain: float = 1.0
    connections: int = 512

    def __post_init__(self) -> None:
        for name, least in (
            ("top", 1),
            ("batch_size", 1),
            ("window_ms", 0),
            ("workers", 1),
            ("queue", 1),
            ("max_files", 1),
            ("drain", 0),
            ("connections", 1),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise UsageError(f"{option(name)} {value:g}: expected at least {least}")
        for name in ("max_mib", "max_megapixels", "timeout", "upload_timeout"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"{option(name)} {value:g}: expected more than 0")
        if self.score is not None and not 0 <= self.score <= 1:
            raise UsageError(f"--score {self.score:g}: expected 0 to 1")
        if self.max_files > self.queue:
            raise UsageError(
                f"--max-files {self.max_files} and --queue {self.queue}: a request's files have to fit into the queue; "
                "make it longer"
            )

    @property
    def max_bytes(self) -> int:
        """Of the body of a request."""
        return int(self.max_mib * MIB)

    @property
    def max_held(self) -> int:
        """Bytes of all bodies that are held at a time."""
        return 8 * self.max_bytes

    @property
    def max_pixels(self) -> int:
        """Of an image."""
        return int(self.max_megapixels * 1e6)


def option(name: str) -> str:
    """A field as it is written on the command line."""
    return f"--{name.replace('_', '-')}"

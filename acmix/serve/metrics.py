"""What a service counts, for Prometheus."""

from __future__ import annotations

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "acmix_requests", "Requests answered, by path and status.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "acmix_request_seconds",
            "From a request's first line to its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "acmix_images", "Images answered: predicted, or refused.", ("result",), registry=self.registry
        )
        self.batches = Histogram(
            "acmix_batch_images",
            "Images that went through the model together.",
            buckets=IMAGES,
            registry=self.registry,
        )
        self.computing = Histogram(
            "acmix_batch_seconds", "Time of the model for a batch.", buckets=SECONDS, registry=self.registry
        )
        self.queue = Gauge("acmix_queue_images", "Images taken and not yet answered.", registry=self.registry)
        self.held = Gauge("acmix_held_bytes", "Bytes of requests that are held.", registry=self.registry)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    @property
    def content_type(self) -> str:
        """Of that text."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        return CONTENT_TYPE_LATEST

"""What a scraper sees: traffic by route, and how full and how fast the engines are. Labels are routes and codes, never what a caller wrote."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SEC = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The meters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("inkwash_http_requests", "Answers", ("route", "method", "status"), registry=own)
        self.seconds = Histogram("inkwash_http_seconds", "Time to the end of an answer", ("route",), buckets=_SEC, registry=own)
        self.refused = Counter("inkwash_refused", "Requests refused, by code", ("code",), registry=own)
        self.images = Counter("inkwash_images", "Images by how they ended", ("model", "end"), registry=own)
        self.live = Gauge("inkwash_live_images", "Images in work or waiting", ("worker",), registry=own)
        self.backlog = Gauge("inkwash_backlog_rows", "Network rows that accepted images still need", ("worker",), registry=own)
        self.wait = Gauge("inkwash_predicted_wait_seconds", "Time to finish what is accepted: the signal to scale on", ("worker",),
                          registry=own)
        self.engines = Gauge("inkwash_engines", "Engines behind a worker: with Ray, its replicas", ("worker",), registry=own)
        self.rate = Gauge("inkwash_rows_per_second", "Network rows a second, a moving mean", ("worker",), registry=own)
        self.margin = Gauge("inkwash_wait_margin", "How much longer than predicted an image may take, learned from those that came", ("worker",),
                            registry=own)
        self.rows = Counter("inkwash_rows", "Network rows computed for images", ("worker",), registry=own)
        self.step = Histogram("inkwash_step_seconds", "Time of one tick of the engine", ("worker",), buckets=_SEC, registry=own)
        self.occupancy = Histogram("inkwash_step_rows", "Rows in one tick", ("worker",), buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=own)
        self.restarts = Counter("inkwash_worker_restarts", "Workers that died and were started again", ("worker",), registry=own)
        self.jobs = Counter("inkwash_jobs", "Attempts at jobs, by how they ended", ("end",), registry=own)
        self.queued = Gauge("inkwash_jobs_queued", "Jobs that wait in the store, as of some seconds ago", registry=own)
        self.files_failing = Gauge("inkwash_files_failing", "1 while pictures of jobs cannot be written, by the reason", ("code",), registry=own)
        self.ready = Gauge("inkwash_ready", "1 when every worker is ready and none drains", registry=own)

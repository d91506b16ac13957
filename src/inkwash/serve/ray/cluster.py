"""A Ray cluster for the time of a server: the one that RAY_ADDRESS or this machine names, or one of this machine alone.

What is deployed already is used as it is (`serve deploy serve.yaml`); for a model that is not, the application of serve.yaml in this folder is
deployed under its name. What was started here ends with the server; what was there before stays.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.schema import ApplicationStatus

from inkwash.errors import InkwashError, ResourceError, UsageError
from inkwash.io.find import find_model, read_info
from inkwash.serve.http.settings import Settings
from inkwash.serve.ray.replica import Args, deployment

TEMPLATE = Path(__file__).with_name("serve.yaml")
STORE_BYTES = 200 << 20                                    # of shared memory; what passes through it are requests and pictures


def app_of(model: str) -> str:
    """The name of a model's application."""
    return f"inkwash-{model}"


@contextlib.contextmanager
def joined(settings: Settings) -> Iterator[None]:
    """Connects, and sees to it that every model is deployed. Raises UsageError `bad_config`, ResourceError `no_cluster`."""
    if len(settings.devices) != 1:
        raise UsageError("bad_config", f"with ray, device is that of each replica, got {settings.device!r}; name one, and let Ray place the replicas")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        try:
            ray.init("auto", **quiet)
        except ConnectionError:
            if os.environ.get("RAY_ADDRESS"):
                raise
            ray.init("local", include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
    except Exception as error:                             # Ray has no class for a node that does not start
        raise ResourceError("no_cluster", f"cannot connect to a Ray cluster: {' '.join(str(error).split())[:200]}; "
                                          "see that `ray status` works on this machine, and look at RAY_ADDRESS") from None
    try:
        deploy(settings)
        yield
    finally:
        ray.shutdown()


def deploy(settings: Settings) -> None:
    """Starts the applications of the models that have none."""
    serve.start(proxy_location="Disabled")
    there = serve.status().applications
    for name in settings.models:
        folder = find_model(name)
        app = app_of(read_info(folder).name)
        if app not in there:
            target = deployment.options(**options()).bind(Args(model=str(folder), device=settings.device, policy=settings.policy))
            serve.run_many([serve.RunTarget(target, app, None)], wait_for_applications_running=False)


def options() -> dict[str, Any]:
    """The deployment of the template; with a whole GPU for each replica where the cluster has any."""
    found = copy.deepcopy(yaml.safe_load(TEMPLATE.read_text("utf-8"))["applications"][0]["deployments"][0])
    if ray.cluster_resources().get("GPU", 0) >= 1:
        found["ray_actor_options"]["num_gpus"] = 1
    return found


def failure_of(app: str) -> InkwashError | None:
    """Why no replica of an application can be started, or None while one may be."""
    found = serve.status().applications.get(app)
    if found is None:
        return ResourceError("no_replicas", f"the application {app} is gone from the cluster; deploy it again")
    if found.status is not ApplicationStatus.DEPLOY_FAILED:
        return None
    lines = [line for deployment in found.deployments.values() for line in deployment.message.splitlines() if line.strip()]
    return ResourceError("no_replicas", f"no replica of {app} can be started: {(lines or [found.message])[-1].strip()[:250]}")

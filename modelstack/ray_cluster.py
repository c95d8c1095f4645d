"""Ray cluster for the duration of a `with` block: the one at RAY_ADDRESS, or a small one on this machine.

Ray (extra `ray`) runs tasks and actors on many machines and repeats the work of a killed
worker. A local cluster has no dashboard and a small object store; usage statistics are off on every cluster
started here. All machines need the same installation, and the folders of a run under the same paths.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mcp_servers.distribution import install_command
from modelstack.errors import UserError

OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of a local cluster in bytes. Recipes and results are small; Ray writes the rest to disk."""
CONNECT_S = 10.0
"""Seconds before a connection attempt fails."""
RETRIES = 3
"""Retries of a task after its worker was killed; Ray's default."""


@contextmanager
def ray_cluster(n_cpus: int | None = None, *, object_store_bytes: int = OBJECT_STORE_BYTES) -> Iterator[Any]:
    """Connect to a cluster and yield the module `ray`; an existing connection of this process is reused.

    n_cpus: CPUs of a local cluster, which limit the concurrent tasks; None: all CPUs of this machine.

    Raises:
        UserError: Ray is not installed, or no cluster answers at RAY_ADDRESS.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(f"running on Ray needs it installed: {install_command('ray')}") from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_that_it_answers(address)
    own = {
        "num_cpus": n_cpus,
        "object_store_memory": object_store_bytes,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "_system_config": {"worker_niceness": 0},  # Ray's default is 15, but here the workers are the only load
    }
    try:
        options = {} if address else own
        ray.init(address or "local", log_to_driver=False, logging_level=logging.WARNING, **options)
        yield ray
    finally:
        ray.shutdown()


def _check_that_it_answers(address: str) -> None:
    """Check that a server listens at an address, as Ray itself takes minutes to give up."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # "auto": Ray looks for a cluster on this machine
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS is {address!r}, but no Ray cluster answers there ({error}); start one with "
            f"`ray start --head`, or unset the variable for a cluster on this machine"
        ) from error


def results(ray: Any, references: Sequence[Any]) -> list[Any]:
    """Return the results of tasks in the order of their references.

    Raises:
        UserError: A worker was killed more often than tasks are retried.
        Exception: Error of a task.
    """
    try:
        return ray.get(list(references))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.RayActorError) as error:
        raise UserError(
            f"a Ray worker was killed {RETRIES + 1} times at the same task, perhaps because memory ran out; "
            f"run the same command to resume ({error})"
        ) from error

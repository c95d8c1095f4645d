"""Start of a sandbox's launcher, and the error where a machine cannot isolate processes."""

from __future__ import annotations

import sys
from pathlib import Path

from modelstack.errors import UserError

REPOSITORY = str(Path(__file__).resolve().parents[2])


def launcher_command(module: str) -> list[str]:
    """Return the command of a bare interpreter that runs `main()` of a module of this package.

    It reads no environment, no working directory and no installed packages.
    """
    code = f"import sys; sys.path.insert(0, {REPOSITORY!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", code]


def filter_of_this_machine(what: str) -> str:
    """Return the filter of system calls, in hexadecimal digits.

    Args:
        what: Name of what is to be run, as the subject of the error.

    Raises:
        UserError: This machine cannot isolate processes.
    """
    if sys.platform != "linux":
        raise UserError(f"{what} run only in Linux namespaces; this is {sys.platform}.")
    from modelstack.sandbox.kernel_calls import IsolationError
    from modelstack.sandbox.system_calls import system_call_filter

    try:
        return system_call_filter().hex()
    except IsolationError as error:
        raise refusal(what, str(error)) from error


def refusal(what: str, reason: str) -> UserError:
    """Return the error that this machine cannot isolate processes, with the step that the kernel rejected."""
    return UserError(
        f"{what} run only in Linux namespaces, and this machine refuses them ({reason}). Allow unprivileged user "
        f"namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0, for example; in Docker "
        f"--security-opt seccomp=unconfined), with Linux 5.14 or later, or use a machine that has them."
    )

"""What the validating process gives up before it opens a file that a stranger made.

Owns resource limits, the cut from the network and the tie to the parent's life. Linux only where it says so;
elsewhere what is missing is reported, never assumed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass

__all__ = ["Limits", "confine"]

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True, slots=True)
class Limits:
    """What one validation may use.

    Args:
        wall_s: seconds until it is killed.
        cpu_s: seconds of CPU over all its threads.
        memory_bytes: address space; the runtime alone maps about 300 MiB.
        output_bytes: largest answer that is read from it.
    """

    wall_s: float = 120.0
    cpu_s: int = 60
    memory_bytes: int = 4 * 1024**3
    output_bytes: int = 160 * 1024**2


def confine(limits: Limits) -> list[str]:
    """Confine this process for the rest of its life; return one line per measure, for the report.

    It may write no file, start no core dump, open few descriptors, and dies with its parent.
    """
    done = [f"confined: {limits.cpu_s} s CPU, {limits.memory_bytes // 1024**2} MiB memory, no file may be written"]
    hard = [
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 5),
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 128, 128),
        (resource.RLIMIT_CORE, 0, 0),
    ]
    for which, soft, most in hard:
        ceiling = resource.getrlimit(which)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, most = min(soft, ceiling), min(most, ceiling)
        resource.setrlimit(which, (soft, most))
    # Without this a write beyond RLIMIT_FSIZE ends the process instead of failing the call.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.platform != "linux":
        return [*done, "warning: the network could not be cut off on this system"]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A user namespace of its own takes root's capabilities away as well, and needs no right to be made.
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWNET) == 0:
        done.append("confined: no network")
    else:
        done.append(f"warning: the network could not be cut off: {os.strerror(ctypes.get_errno())}")
    with contextlib.suppress(OSError):
        os.nice(5)
    return done

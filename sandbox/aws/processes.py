"""Child processes that do not outlive their parent, however it ends."""

import ctypes
import signal
import sys

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """A `preexec_fn`: the kernel kills the child when its parent dies, even by SIGKILL (Linux only).

    The parent is the thread that starts the child, so start it from one that lives as long as the process.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

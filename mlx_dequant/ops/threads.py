"""State of threads that call functions of `mx.compile`."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from functools import cache

PAUSE = 0.05  # seconds; a thread needs less than one thousandth to end


class PerThread(threading.local):
    """A thread's own values.

    MLX keeps what it has compiled by thread, and drops it when the system's thread ends. Before Python 3.13 `join`
    returns earlier than that. If Python ends in between, MLX asks for its lock in vain, and the process aborts.
    """

    def __init__(self) -> None:
        if threading.current_thread() is not threading.main_thread() and sys.version_info < (3, 13):
            _pause_at_exit()


@cache
def _pause_at_exit() -> None:
    atexit.register(time.sleep, PAUSE)

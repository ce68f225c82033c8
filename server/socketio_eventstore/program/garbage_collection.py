"""The settings of Python's garbage collector for a process that serves."""

from __future__ import annotations

import gc

GARBAGE_THRESHOLDS = (1_500, 3, 250)
"""The thresholds of the three generations of garbage (by default 700, 10, 10).

A run takes up to 0.5 µs for each object in the generation, and the whole process waits: mostly 1 ms, up to 5
ms for the objects of several runs, and a full run comes after 1.5 million allocations, if ever. Python 3.14
has no third generation: each run checks a part of the older objects.
"""


def configure() -> None:
    """Exempt the loaded modules and sessions from garbage collection, and collect less often.

    By default the garbage collector runs after every 700 new objects. A busy server creates 700 objects in
    a few events, and spends a tenth of its processor time on garbage collection. An application that embeds
    the server keeps its own thresholds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)

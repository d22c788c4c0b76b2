"""Measures how long the event loop of a window stands still."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


@dataclass
class Heartbeat:
    """Beats every few milliseconds while the event loop runs; what lies between two beats is a gap.

    A gap counts by the smaller of the time on the clock and the time of the processor that this process used meanwhile
    in all its threads: on a machine that is busy with other things a window waits for the processor, too, which is not
    of its own making. A lock that another thread of this process holds is.
    """

    every_ms: int = 5
    gaps_s: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)
        self._last = (time.monotonic(), time.process_time())
        self._timer.start(self.every_ms)
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._beat()
        self._timer.stop()

    def _beat(self) -> None:
        now = (time.monotonic(), time.process_time())
        self.gaps_s.append(min(after - before for after, before in zip(now, self._last, strict=True)))
        self._last = now

    @property
    def longest_s(self) -> float:
        """The longest time in which nothing of the window moved."""
        return max(self.gaps_s)

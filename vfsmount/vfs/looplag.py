"""How late the event loop is: what every request waits besides its own work."""

from __future__ import annotations

import trio

from vfsmount.metrics import counters

# A wake-up costs some 20 µs; a stall of this length is certainly seen, a shorter one as often as it is long.
EVERY_S = 0.25


async def measure_lag() -> None:
    """Count, for ever, how much later than promised a task of no other work is woken."""
    while True:
        due = trio.current_time() + EVERY_S
        await trio.sleep_until(due)
        counters.lagged(max(0.0, trio.current_time() - due))

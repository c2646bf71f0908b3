"""Virtual time: greenlets as threads, processes with clocks of their own.

Nothing here knows of DynamoDB or of Pyramid.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import greenlet
from pyramid.threadlocal import manager

#: The true time at which every world begins.
EPOCH = 1_800_000_000.0
#: Seconds for which a woken thread waits for a processor, at most.
DISPATCH = 2e-5


class Killed(BaseException):
    """The process is no more; raised at whatever it would do next."""


class Process:
    """A process of the operating system: an id, clocks, threads."""

    def __init__(self, world: World, name: str, wall_offset: float) -> None:
        self.world = world
        self.name = name
        self.pid = world.new_pid()
        self.wall_offset = wall_offset
        self.boot = EPOCH - world.random.uniform(10, 1e6)
        self.is_dead = False
        self.is_stopped = False
        self.deferred: list[tuple[Fiber, int, Any]] = []
        self.fibers: dict[int, Fiber] = {}
        self.threads = 0
        #: threads that can't be started before then
        self.no_threads_until = 0.0

    def __repr__(self) -> str:
        return f'{self.name}:{self.pid}'

    def wall_time(self) -> float:
        return self.world.now + self.wall_offset

    def monotonic(self) -> float:
        return self.world.now - self.boot

    def check(self) -> None:
        """Raise :class:`Killed` in a dead process."""
        if self.is_dead:
            raise Killed


class Fiber:
    """A thread: a greenlet, its thread-locals, what it waits for."""

    __slots__ = (
        'blocked_for',
        'category',
        'greenlet',
        'locals',
        'name',
        'number',
        'ordinal',
        'process',
        'request',
        'stack',
        'thread',
        'ticket',
    )

    def __init__(
        self, process: Process, number: int, name: str, run: Callable[[], None]
    ) -> None:
        self.process = process
        self.number = number
        #: as which of its process's threads it was started
        process.threads += 1
        self.ordinal = process.threads
        self.name = name
        self.greenlet = greenlet.greenlet(run, process.world.hub)
        self.ticket = 0
        self.stack: list[Any] = []
        self.locals: dict[int, dict[str, Any]] = {}
        self.thread: Any = None
        #: the request of a browser that it answers
        self.request: Any = None
        #: what it waits for, and how many seconds of each it has waited
        self.category = 'wait'
        self.blocked_for = {'wait': 0.0, 'call': 0.0, 'view': 0.0}


class World:
    """The events to come, in order, and who runs just now."""

    def __init__(self, seed: object, preemption: float = 0.0) -> None:
        self.random = random.Random(f'{seed} world')
        #: what the code under test draws from
        self.package_random = random.Random(f'{seed} package')
        self.now = EPOCH
        self.hub = greenlet.getcurrent()
        self.current: Fiber | None = None
        #: how likely a thread is interrupted where it takes a mutex
        self.preemption = preemption
        self.trace: list[tuple[Any, ...]] = []
        #: told of errors that no thread has caught
        self.thread_died: Callable[[str, Exception], None] = print
        self._events: list[tuple[float, int, Callable[..., Any], Any]] = []
        self._sequence = 0
        self._numbers = 0
        self._pid = 1000

    # -- numbers ---------------------------------------------------------

    def new_pid(self) -> int:
        self._pid += 1
        return self._pid

    def new_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def note(self, *what: Any) -> None:
        """Add a line to the trace."""
        self.trace.append((self.now, *what))

    # -- events ----------------------------------------------------------

    def at(self, when: float, call: Callable[..., Any], *args: Any) -> None:
        """Call later, from the hub."""
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, call, args))

    def after(
        self, delay: float, call: Callable[..., Any], *args: Any
    ) -> None:
        self.at(self.now + delay, call, *args)

    def next_time(self) -> float | None:
        """When the next event is due."""
        return self._events[0][0] if self._events else None

    def next_thread(self) -> Fiber | None:
        """The thread that is woken next; None for none.

        Forgets the times until which threads wait no more.
        """
        events = self._events
        while events:
            fiber, ticket, _ = events[0][3]
            if fiber.ticket == ticket and not fiber.process.is_dead:
                return fiber  # type: ignore[no-any-return]
            heapq.heappop(events)
        return None

    def step(self) -> None:
        """Carry the next event out."""
        when, _, call, args = heapq.heappop(self._events)
        if when > self.now:
            self.now = when
        call(*args)

    def run(self, until: float, is_over: Callable[[], bool]) -> None:
        """Carry events out until then, or until `is_over`."""
        events = self._events
        while events and events[0][0] <= until and not is_over():
            self.step()

    # -- threads ---------------------------------------------------------

    def spawn(
        self,
        process: Process,
        target: Callable[[], None],
        name: str,
        delay: float | None = None,
    ) -> Fiber:
        """Start a thread."""
        number = self.new_number()

        def run(_: Any = None) -> None:
            try:
                target()
            except (Killed, greenlet.GreenletExit):
                pass
            finally:
                process.fibers.pop(number, None)

        fiber = Fiber(process, number, name, run)  # type: ignore[arg-type]
        process.fibers[number] = fiber
        if delay is None:
            delay = self.random.random() * DISPATCH
        self.at(self.now + delay, self._wake, fiber, 0, None)
        return fiber

    def block(self, timeout: float | None = None) -> Any:
        """Suspend the current thread; the value that it is woken with.

        None when the `timeout`, in seconds, is over.
        """
        fiber = self.current
        assert fiber is not None, 'only threads of a simulated process wait'
        fiber.process.check()
        if timeout is not None:
            self.at(
                self.now + max(0.0, timeout),
                self._wake,
                fiber,
                fiber.ticket,
                None,
            )
        since = self.now
        value = self.hub.switch()
        fiber.blocked_for[fiber.category] += self.now - since
        fiber.process.check()
        return value

    def wake(
        self, fiber: Fiber, ticket: int, value: Any, delay: float = 0.0
    ) -> None:
        """Have a thread go on that waits since it had this `ticket`."""
        if not delay:
            delay = self.random.random() * DISPATCH
        self.at(self.now + delay, self._wake, fiber, ticket, value)

    def _wake(self, fiber: Fiber, ticket: int, value: Any) -> None:
        process = fiber.process
        if fiber.ticket != ticket or process.is_dead:
            return
        if process.is_stopped:
            process.deferred.append((fiber, ticket, value))
            return
        fiber.ticket += 1
        self._switch(fiber, value)

    def _switch(self, fiber: Fiber, value: Any) -> None:
        self.current = fiber
        manager.stack = fiber.stack
        try:
            fiber.greenlet.switch(value)
        finally:
            self.current = None

    def sleep(self, seconds: float, category: str = '') -> None:
        """Suspend the current thread for so long."""
        fiber = self.current
        assert fiber is not None
        before = fiber.category
        fiber.category = category or before
        try:
            self.block(seconds)
        finally:
            fiber.category = before

    def preempt(self) -> None:
        """Maybe let other threads run first."""
        if self.preemption and self.random.random() < self.preemption:
            self.block(self.random.random() * 1e-3)

    # -- signals ---------------------------------------------------------

    def kill(self, process: Process) -> None:
        """``kill -9``: no thread of it does anything ever again."""
        process.is_dead = True
        process.deferred.clear()
        for fiber in tuple(process.fibers.values()):
            if fiber.greenlet:
                self.current = fiber
                manager.stack = fiber.stack
                try:
                    fiber.greenlet.throw(Killed)
                finally:
                    self.current = None
        process.fibers.clear()

    def stop(self, process: Process) -> None:
        """``SIGSTOP``."""
        process.is_stopped = True

    def go_on(self, process: Process) -> None:
        """``SIGCONT``."""
        process.is_stopped = False
        deferred, process.deferred = process.deferred, []
        for woken in deferred:
            self._wake(*woken)


class Waiters:
    """Threads that wait for one thing, first in, first out."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Fiber, int]] = deque()

    def wait(self, world: World, timeout: float | None) -> bool:
        """Wait to be woken; False when the time is over."""
        fiber = world.current
        assert fiber is not None
        entry = (fiber, fiber.ticket)
        self.queue.append(entry)
        woken = world.block(timeout)
        if woken is None:
            try:
                self.queue.remove(entry)
            except ValueError:
                # woken just when the time was over
                return True
        return woken is not None

    def wake_one(self, world: World) -> bool:
        """Wake the first; False when nobody waits."""
        while self.queue:
            fiber, ticket = self.queue.popleft()
            if not fiber.process.is_dead:
                world.wake(fiber, ticket, True)
                return True
        return False

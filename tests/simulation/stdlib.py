"""The standard library as simulated threads see it, while a world runs.

``patched(world)`` replaces attributes of :mod:`time`, :mod:`threading`,
:mod:`os`, :mod:`random`, :mod:`secrets`, :mod:`queue` and
:mod:`concurrent.futures`, and puts them back. Code under test that calls them
as attributes of their modules is then deterministic.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from pyramid.threadlocal import manager

from tests.simulation.scheduler import Fiber, Killed, Waiters, World

#: The world that runs just now; there is never more than one.
_world: World


def current_world() -> World:
    return _world


def current_fiber() -> Fiber:
    fiber = _world.current
    assert fiber is not None, 'outside of all simulated threads'
    return fiber


class Lock:
    """:class:`threading.Lock`."""

    def __init__(self) -> None:
        self._is_locked = False
        self._waiters: Waiters | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        world = _world
        fiber = world.current
        if fiber is not None:
            fiber.process.check()
            if world.preemption:
                world.preempt()
        if not self._is_locked:
            self._is_locked = True
            return True
        if not blocking:
            return False
        if self._waiters is None:
            self._waiters = Waiters()
        return self._waiters.wait(world, None if timeout < 0 else timeout)

    def release(self) -> None:
        if not self._is_locked:
            raise RuntimeError('release unlocked lock')
        # to the first who waits, if there is one
        if self._waiters is None or not self._waiters.wake_one(_world):
            self._is_locked = False

    def locked(self) -> bool:
        return self._is_locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class RLock:
    """:class:`threading.RLock`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: Fiber | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        fiber = _world.current
        if self._depth and self._owner is fiber:
            self._depth += 1
            return True
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._owner = fiber
            self._depth = 1
        return taken

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Condition:
    """:class:`threading.Condition`."""

    def __init__(self, lock: Any = None) -> None:
        self._lock = lock if lock is not None else RLock()
        self._waiters = Waiters()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(self, *exc_info: object) -> None:
        self._lock.__exit__(*exc_info)

    def wait(self, timeout: float | None = None) -> bool:
        self._lock.release()
        try:
            return self._waiters.wait(_world, timeout)
        finally:
            self._lock.acquire()

    def wait_for(
        self, predicate: Callable[[], Any], timeout: float | None = None
    ) -> Any:
        end = None if timeout is None else _world.now + timeout
        result = predicate()
        while not result:
            left = None if end is None else end - _world.now
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        for _ in range(n):
            self._waiters.wake_one(_world)

    def notify_all(self) -> None:
        while self._waiters.wake_one(_world):
            pass


class Event:
    """:class:`threading.Event`."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiters = Waiters()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        while self._waiters.wake_one(_world):
            pass

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._is_set:
            return True
        self._waiters.wait(_world, timeout)
        return self._is_set


class Semaphore:
    """:class:`threading.Semaphore`."""

    def __init__(self, value: int = 1) -> None:
        self._value = value
        self._waiters = Waiters()

    def acquire(
        self, blocking: bool = True, timeout: float | None = None
    ) -> bool:
        if self._value:
            self._value -= 1
            return True
        return blocking and self._waiters.wait(_world, timeout)

    def release(self, n: int = 1) -> None:
        for _ in range(n):
            if not self._waiters.wake_one(_world):
                self._value += 1

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Thread:
    """:class:`threading.Thread`."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self.name = name or f'Thread-{_world.new_number()}'
        self.daemon = bool(daemon)
        self.ident: int | None = None
        self._is_over = False
        self._joined = Waiters()

    @classmethod
    def of(cls, fiber: Fiber) -> Thread:
        """The thread that a fiber is, when it was started by no thread."""
        if fiber.thread is None:
            fiber.thread = cls(name=fiber.name)
            fiber.thread.ident = fiber.number
        return fiber.thread  # type: ignore[no-any-return]

    @property
    def native_id(self) -> int | None:
        return self.ident

    def start(self) -> None:
        process = current_fiber().process
        process.check()
        if process.no_threads_until > _world.now:
            _world.note('thread refused', process.name)
            raise RuntimeError("can't start new thread")
        fiber = _world.spawn(process, self._bootstrap, self.name)
        fiber.thread = self
        self.ident = fiber.number

    def _bootstrap(self) -> None:
        try:
            self.run()
        except Exception as error:
            _world.thread_died(self.name, error)
        finally:
            self._is_over = True
            if not current_fiber().process.is_dead:
                while self._joined.wake_one(_world):
                    pass

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def is_alive(self) -> bool:
        return self.ident is not None and not self._is_over

    def join(self, timeout: float | None = None) -> None:
        if self.is_alive():
            self._joined.wait(_world, timeout)


class Timer(Thread):
    """:class:`threading.Timer`."""

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Any = None,
        kwargs: Any = None,
    ) -> None:
        super().__init__(target=function, args=args or (), kwargs=kwargs)
        self._interval = interval
        self._finished = Event()

    def cancel(self) -> None:
        self._finished.set()

    def run(self) -> None:
        if not self._finished.wait(self._interval):
            super().run()


class Local:
    """:class:`threading.local`."""

    def __getattribute__(self, name: str) -> Any:
        if name == '__dict__':
            return mine(self)
        try:
            return mine(self)[name]
        except KeyError:
            return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        mine(self)[name] = value

    def __delattr__(self, name: str) -> None:
        if mine(self).pop(name, self) is self:
            raise AttributeError(name)


def mine(local: Local) -> dict[str, Any]:
    fiber = _world.current
    if fiber is None:
        return OUTSIDE.setdefault(id(local), {})
    return fiber.locals.setdefault(id(local), {})


OUTSIDE: dict[int, dict[str, Any]] = {}


class SimpleQueue:
    """:class:`queue.SimpleQueue`."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._filled = Semaphore(0)

    def put(self, item: Any, *args: Any) -> None:
        self._items.append(item)
        self._filled.release()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._filled.acquire(block, timeout):
            raise queue.Empty
        return self._items.popleft()


class ThreadPoolExecutor(concurrent.futures.Executor):
    """:class:`concurrent.futures.ThreadPoolExecutor`; no more than needed."""

    def __init__(
        self, max_workers: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        self._free = Semaphore(max_workers or 8)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()

        def run() -> None:
            with self._free:
                try:
                    future.set_result(fn(*args, **kwargs))
                except Exception as error:
                    future.set_exception(error)

        Thread(target=run, name='ThreadPoolExecutor').start()
        return future

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        pass


def wall_time() -> float:
    fiber = _world.current
    return _world.now if fiber is None else fiber.process.wall_time()


def monotonic() -> float:
    fiber = _world.current
    return _world.now if fiber is None else fiber.process.monotonic()


def sleep(seconds: float) -> None:
    _world.block(seconds)


def getpid() -> int:
    fiber = _world.current
    return 1 if fiber is None else fiber.process.pid


def random_bytes(count: int | None = None) -> bytes:
    return _world.package_random.randbytes(32 if count is None else count)


def current_thread() -> Thread:
    return Thread.of(current_fiber())


def get_ident() -> int:
    fiber = _world.current
    return 0 if fiber is None else fiber.number


def enumerate_threads() -> list[Thread]:
    fibers = current_fiber().process.fibers.values()
    return [Thread.of(fiber) for fiber in fibers]


def replacements(world: World) -> list[tuple[Any, str, Any]]:
    """Modules, names in them, and what those become."""
    draws = world.package_random
    of_random = (
        'random',
        'uniform',
        'randint',
        'randrange',
        'choice',
        'choices',
        'shuffle',
        'sample',
        'expovariate',
        'getrandbits',
        'gauss',
        'betavariate',
        'triangular',
        'randbytes',
    )
    return [
        (time, 'time', wall_time),
        (time, 'time_ns', lambda: int(wall_time() * 1e9)),
        (time, 'monotonic', monotonic),
        (time, 'monotonic_ns', lambda: int(monotonic() * 1e9)),
        (time, 'perf_counter', monotonic),
        (time, 'perf_counter_ns', lambda: int(monotonic() * 1e9)),
        (time, 'sleep', sleep),
        (threading, 'Lock', Lock),
        (threading, 'RLock', RLock),
        (threading, 'Condition', Condition),
        (threading, 'Event', Event),
        (threading, 'Semaphore', Semaphore),
        (threading, 'BoundedSemaphore', Semaphore),
        (threading, 'Thread', Thread),
        (threading, 'Timer', Timer),
        (threading, 'local', Local),
        (threading, 'current_thread', current_thread),
        (threading, 'get_ident', get_ident),
        (threading, 'get_native_id', get_ident),
        (threading, 'enumerate', enumerate_threads),
        (threading, 'active_count', lambda: len(enumerate_threads())),
        (queue, 'SimpleQueue', SimpleQueue),
        (queue, 'time', monotonic),
        (concurrent.futures, 'ThreadPoolExecutor', ThreadPoolExecutor),
        (os, 'getpid', getpid),
        (os, 'urandom', random_bytes),
        (secrets, 'token_bytes', random_bytes),
        (secrets, 'randbelow', draws.randrange),
        (secrets, 'randbits', draws.getrandbits),
        (secrets, 'choice', draws.choice),
        *((random, name, getattr(draws, name)) for name in of_random),
    ]


@contextlib.contextmanager
def patched(world: World) -> Iterator[None]:
    """Have the standard library be this world's, and no longer."""
    global _world
    before = []
    stack = manager.stack
    _world = world
    try:
        for module, name, replacement in replacements(world):
            before.append((module, name, getattr(module, name)))
            setattr(module, name, replacement)
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)
        manager.stack = stack


__all__ = ['Killed', 'current_fiber', 'current_world', 'patched']

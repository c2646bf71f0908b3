"""What happens to the processes of a random history: kills, stops, outages."""

from __future__ import annotations

from typing import Any

from tests.simulation.scheduler import Process


class Misfortunes:
    """Hits the servers of a simulation, as its profile has it."""

    def __init__(self, simulation: Any) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._profile = simulation.profile

    def draw(self) -> None:
        """Maybe something happens to a process soon."""
        profile, draw = self._profile, self._world.random
        for probability, misfortune in (
            (profile.kills, self._kill),
            (profile.stops, self._stop),
            (profile.outages, self._cut_off),
            (profile.clock_jumps, self._move_clock),
            (profile.refused_threads, self._refuse_threads),
        ):
            if draw.random() < probability:
                self._world.after(0.05 * draw.random(), self._hit, misfortune)

    def interrupt(self, what: str, process: Process) -> None:
        """Have it happen to this process, just now."""
        misfortune = {
            'kill': self._kill,
            'stop': self._stop,
            'cut off': self._cut_off,
        }[what]
        self._world.after(0, self._hit_process, misfortune, process)

    def _hit_process(self, misfortune: Any, process: Process) -> None:
        for server in self._ready():
            if server.process is process:
                misfortune(server)

    def _hit(self, misfortune: Any) -> None:
        ready = self._ready()
        if ready:
            misfortune(self._world.random.choice(ready))

    def _ready(self) -> list[Any]:
        return [each for each in self._simulation.servers if each.is_ready]

    def _happened(self, kind: str) -> None:
        self._simulation.faults[kind] += 1

    # -- what may happen -------------------------------------------------

    def _kill(self, server: Any) -> None:
        world, checker = self._world, self._simulation.checker
        self._happened('kill')
        world.note('kill', server.process)
        world.kill(server.process)
        for request in tuple(checker.in_flight.values()):
            if request.process is server.process:
                request.browser.in_flight -= 1
        checker.killed(server.process)
        world.after(
            3 * world.random.random() ** 3, self._simulation.restart, server
        )

    def _stop(self, server: Any) -> None:
        world, process = self._world, server.process
        if process.is_stopped:
            return
        self._happened('stop')
        seconds = 0.05 * 2400 ** world.random.random()
        world.note('stop', process, seconds)
        world.stop(process)
        self._simulation.checker.stopped(process)
        world.after(seconds, self._go_on, process)

    def _go_on(self, process: Process) -> None:
        self._world.note('go on', process)
        self._simulation.checker.stopped(process)
        self._world.go_on(process)

    def _cut_off(self, server: Any) -> None:
        self._happened('outage')
        world = self._world
        until = world.now + 20 * world.random.random() ** 2
        world.note('outage', server.process, until)
        self._simulation.network.outages[server.process.pid] = until
        self._simulation.checker.disturbed(server.process)

    def _move_clock(self, server: Any) -> None:
        self._happened('clock jump')
        draw = self._world.random
        error = draw.choice((45, 45, self._profile.clock_error))
        server.process.wall_offset = draw.uniform(-error, error)
        self._world.note('clock', server.process, server.process.wall_offset)

    def _refuse_threads(self, server: Any) -> None:
        self._happened('thread refused')
        server.process.no_threads_until = (
            self._world.now + 3 * self._world.random.random()
        )
        self._world.note('no threads', server.process)
        self._simulation.checker.disturbed(server.process)

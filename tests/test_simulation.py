"""Whole applications in virtual time: no change lost, no answer wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation import exhaustive
from tests.simulation.breakages import BREAKAGES, PROFILES, find
from tests.simulation.loading import Breakage
from tests.simulation.run import Profile, Statistics, run
from tests.support.servers import ROOT

pytestmark = pytest.mark.engines('moto', reason='no engine takes part')

#: Requests of one history, and histories of one test.
CHUNK = 300
HISTORIES = 7
SEEDS = range(0, 10 * HISTORIES, HISTORIES)


def histories(seeds: range, profile: Profile | None = None) -> Statistics:
    total = Statistics()
    for seed in seeds:
        total.add(run(seed, CHUNK, profile), examples=1)
    return total


def assert_sound(total: Statistics) -> None:
    for seed, violation, story in total.examples:
        print(f'seed {seed}: {violation.kind}: {violation.text}\n{story}')
    assert not total.violations


@pytest.mark.parametrize('seed', SEEDS)
def test_nothing_is_violated_at_random(seed: int) -> None:
    assert_sound(histories(range(seed, seed + HISTORIES)))


def test_nothing_is_violated_by_late_duplicates() -> None:
    assert_sound(histories(range(5), PROFILES[1]))


def test_a_seed_repeats_a_history_to_the_byte() -> None:
    def digest(hash_seed: str) -> str:
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'tests.simulation'),
                *('--requests', '600', '--digest', '--examples', '0'),
            ],
            cwd=ROOT,
            env={**os.environ, 'PYTHONHASHSEED': hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout.splitlines()[-1]

    first = digest('1')
    assert first.startswith('digest ')
    assert digest('2') == first


def test_each_pair_of_requests_in_every_order() -> None:
    total = exhaustive.Report()
    for placed, _ in exhaustive.pairs():
        total.add(exhaustive.explore(placed))
    assert_no_schedule_fails(total)


@pytest.mark.parametrize('kind', exhaustive.PAIRED)
def test_an_optimistic_write_and_another_with_every_fault(kind: str) -> None:
    placed = ((kind, 0), ('optimistic write', 1))
    assert_no_schedule_fails(exhaustive.explore(placed, exhaustive.FAULTS))


@pytest.mark.parametrize(
    ('other', 'faults'),
    [
        ('optimistic write', ()),
        ('read', ()),
        ('logout', exhaustive.FAULTS),
    ],
)
def test_going_on_from_each_state_once_leaves_no_outcome_out(
    other: str, faults: tuple[str, ...]
) -> None:
    placed = (('write', 0), (other, 1))
    every = exhaustive.explore(placed, faults, is_reduced=False)
    reduced = exhaustive.explore(placed, faults)
    print(every.schedules, reduced.schedules, len(every.outcomes))
    assert reduced.outcomes == every.outcomes
    assert reduced.pruned > 0
    assert reduced.schedules < every.schedules


def assert_no_schedule_fails(report: exhaustive.Report) -> None:
    print(report.schedules, 'schedules')
    for example in report.examples:
        print(example)
    assert not report.violations


@pytest.mark.parametrize('breakage', BREAKAGES, ids=str)
def test_a_breakage_is_found(breakage: Breakage) -> None:
    found = find(breakage)
    print(found)
    assert found is not None


@pytest.mark.soak
def test_any_number_of_requests(pytestconfig: pytest.Config) -> None:
    requests = pytestconfig.getoption('simulated_requests')
    subprocess.run(
        [
            *(sys.executable, '-m', 'tests.simulation', '--seed', '1000'),
            *('--requests', str(requests)),
            *('--jobs', str(os.cpu_count())),
        ],
        cwd=ROOT,
        check=True,
    )


@pytest.mark.soak
def test_every_schedule() -> None:
    subprocess.run(
        [
            *(sys.executable, '-m', 'tests.simulation', '--exhaustive'),
            *('--jobs', str(os.cpu_count())),
        ],
        cwd=ROOT,
        check=True,
    )

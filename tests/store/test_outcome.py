"""Saved, not saved, or unknown: writes whose first attempt got no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
    SessionConflict,
    SessionLockLost,
    SessionLockTimeout,
    SessionStoreUnavailable,
)
from pyramid_dynamodb_session.dynamodb.calls import ConditionFailed, Item
from pyramid_dynamodb_session.store.item import LockId
from pyramid_dynamodb_session.store.outcome import (
    Outcome,
    outcome_of_optimistic,
    outcome_under_lock,
)
from tests.support.aws import boto3_session, make_client
from tests.support.proxy import LOSE_REPLY, RESET, Fault, FaultProxy
from tests.support.sessions import (
    ID,
    MakeStore,
    RawItem,
    create,
    items,
    locked,
    raw,
    save_optimistically,
)

NOT_SAVED, SAVED = Outcome.NOT_SAVED, Outcome.SAVED
PENDING, UNKNOWN = Outcome.PENDING, Outcome.UNKNOWN
#: The saving request's lock, version and receipt.
LOCK = LockId('ours', 5)
VERSION = 3
RECEIPT = 'ours'


# -- the rules -----------------------------------------------------------


def refused(is_only_attempt: bool) -> ConditionFailed:
    failed = ConditionFailed.__new__(ConditionFailed)
    failed.is_only_attempt = is_only_attempt
    return failed


def taken_over(*counts: object) -> Item:
    return {'TakenOver': {'S': ' '.join(map(str, counts))}}


@pytest.mark.parametrize(
    ('item', 'outcome'),
    [
        (None, UNKNOWN),
        ({}, SAVED),
        # somebody else has it by now, who did not take it over
        ({'LockId': {'S': 'other'}, 'LockCount': {'N': '6'}}, SAVED),
        # a late duplicate of our first call brings the token back, no more
        ({'LockId': {'S': 'ours'}, 'LockCount': {'N': '6'}}, SAVED),
        # only that the session has ended refuses who has the lock
        ({'LockId': {'S': 'ours'}, 'LockCount': {'N': '5'}}, NOT_SAVED),
        (taken_over(5), NOT_SAVED),
        (taken_over(9, 8, 7, 6, 5), NOT_SAVED),
        (taken_over(12, 11, 10, 9, 8, 7, 6, 5), NOT_SAVED),
        # others were robbed, before us and after
        (taken_over(9, 3, 2), SAVED),
        (taken_over(*range(12, 5, -1)), SAVED),
        (taken_over(*range(12, 6, -1), 4, 3), SAVED),
        # it tells nothing of so long ago
        (taken_over(*range(13, 5, -1)), UNKNOWN),
        (taken_over('nonsense'), UNKNOWN),
    ],
)
def test_outcome_under_a_lock(item: Item | None, outcome: Outcome) -> None:
    assert outcome_under_lock(refused(False), item, LOCK) is outcome
    assert outcome_under_lock(refused(True), item, LOCK) is NOT_SAVED


def saved_by(version: int, *receipts: str) -> Item:
    return {
        'Version': {'N': str(version)},
        'SavedBy': {'S': ' '.join(receipts)},
    }


OTHERS = [f'other{n}' for n in range(20)]


@pytest.mark.parametrize(
    ('item', 'outcome'),
    [
        (saved_by(4, 'ours'), SAVED),
        (saved_by(4, 'other'), NOT_SAVED),
        (saved_by(6, 'a', 'b', 'ours', 'c'), SAVED),
        # an equal receipt of another version is not ours
        (saved_by(6, 'a', 'ours', 'b', 'c'), NOT_SAVED),
        (saved_by(19, *OTHERS[:15], 'ours'), SAVED),
        (saved_by(19, *OTHERS[:16]), NOT_SAVED),
        # the list began after the version that would be ours
        (saved_by(9, 'a', 'b'), NOT_SAVED),
        ({'Version': {'N': '9'}}, NOT_SAVED),
        (saved_by(20, *OTHERS[:16]), UNKNOWN),
        ({**saved_by(4), 'SavedBy': {'N': '1'}}, UNKNOWN),
        ({'Version': {'S': 'nonsense'}}, UNKNOWN),
    ],
)
def test_outcome_of_an_optimistic_save(item: Item, outcome: Outcome) -> None:
    decide = outcome_of_optimistic
    assert decide(refused(False), item, VERSION, RECEIPT) is outcome
    if outcome is not UNKNOWN:
        # a late duplicate of an only attempt may have come through
        assert decide(refused(True), item, VERSION, RECEIPT) is outcome


@pytest.mark.parametrize('is_only_attempt', [True, False])
def test_optimistic_save_that_nobody_has_preceded_is_pending(
    is_only_attempt: bool,
) -> None:
    failed, same = refused(is_only_attempt), saved_by(3, 'a', 'b')
    decide = outcome_of_optimistic
    assert decide(failed, same, VERSION, RECEIPT) is PENDING
    assert decide(failed, {}, 0, RECEIPT) is PENDING
    ended = {**same, 'Ended': {'N': '1'}}
    assert decide(failed, ended, VERSION, RECEIPT) is NOT_SAVED
    none = NOT_SAVED if is_only_attempt else UNKNOWN
    assert decide(failed, None, VERSION, RECEIPT) is none


# -- on the wire ---------------------------------------------------------

Meanwhile = Callable[[], None]


class Wire:
    """A store whose calls go through a proxy, where attempts get lost."""

    def __init__(self, proxy: FaultProxy, make_store: MakeStore) -> None:
        self.proxy = proxy
        client = make_client(boto3_session(), proxy.url)
        self.store = make_store(client, lock_wait=0.2)
        self.elsewhere = make_store()

    def lose(self, fault: Fault, operation: str, meanwhile: Meanwhile) -> None:
        """Of the next call lose the request, or the reply.

        What comes to pass ``meanwhile``, does so before the second attempt.
        """
        attempts = iter([fault, None])

        def decide(number: int, called: str, request: Any) -> Fault | None:
            if called != operation:
                return None
            lost = next(attempts, None)
            if number > 1 and lost is None:
                self.proxy.fault = None
                meanwhile()
            return lost

        self.proxy.clear()
        self.proxy.fault = decide


@pytest.fixture
def wire(proxy: FaultProxy, make_store: MakeStore) -> Wire:
    return Wire(proxy, make_store)


def nothing() -> None:
    pass


@pytest.fixture
def meanwhile(
    wire: Wire,
    make_store: MakeStore,
    raw_item: RawItem,
    client: Any,
    table: str,
) -> Callable[[str], Meanwhile]:
    """A function from words to what others do."""
    others = wire.elsewhere

    def take_over(times: int) -> None:
        for _ in range(times):
            locked(make_store(lock_lease=0.01))

    def save(times: int) -> None:
        for _ in range(times):
            lock_id = locked(others).lock_id
            others.set_and_release_item_exclusive(ID, {'n': 9}, lock_id)

    def save_optimistic(times: int) -> None:
        for _ in range(times):
            save_optimistically(others, others.get_item(ID), n=9)

    def move() -> None:
        record = locked(others)
        others.change_session_id(ID, 'moved', {}, b'{}', record)

    def delete() -> None:
        key = {'SessionId': raw(raw_item)['SessionId']}
        client.delete_item(TableName=table, Key=key)

    def rob_and_release() -> None:
        lock_id = locked(make_store(lock_lease=0.01)).lock_id
        others.release_item_exclusive(ID, lock_id)

    def rob_and_save() -> None:
        rob_and_release()
        save(1)

    acts: dict[str, Meanwhile] = {
        'nothing': nothing,
        'saves': lambda: save(2),
        'optimistic saves': lambda: save_optimistic(12),
        'too many saves': lambda: save_optimistic(17),
        'take-overs of others': lambda: take_over(4),
        'too many take-overs': lambda: take_over(10),
        'robbed': rob_and_release,
        'robbed and saved': rob_and_save,
        'removed': lambda: others.remove_item(ID),
        'moved': move,
        'deleted': delete,
    }
    return acts.__getitem__


@pytest.mark.parametrize(
    'act',
    [
        *('nothing', 'saves', 'optimistic saves', 'take-overs of others'),
        *('removed', 'moved'),
    ],
)
def test_save_under_a_lock_whose_reply_was_lost_is_saved(
    act: str, wire: Wire, meanwhile: Callable[[str], Meanwhile]
) -> None:
    create(wire.elsewhere)
    lock_id = locked(wire.store).lock_id
    seen: list[Any] = []

    def then() -> None:
        seen.append(items(wire.elsewhere))
        meanwhile(act)()

    wire.lose(LOSE_REPLY, 'UpdateItem', then)
    wire.store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    assert seen == [{'n': 2}]


@pytest.mark.parametrize('act', ['robbed', 'robbed and saved', 'removed'])
def test_save_under_a_lock_that_never_arrived_is_not_saved(
    act: str, wire: Wire, meanwhile: Callable[[str], Meanwhile]
) -> None:
    create(wire.elsewhere)
    lock_id = locked(wire.store).lock_id
    wire.lose(RESET, 'UpdateItem', meanwhile(act))
    with pytest.raises(SessionLockLost):
        wire.store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    assert wire.proxy.failed_conditions == 1
    assert items(wire.elsewhere) != {'n': 2}


@pytest.mark.parametrize('fault', [LOSE_REPLY, RESET])
@pytest.mark.parametrize('act', ['too many take-overs', 'deleted'])
def test_save_under_a_lock_of_which_nothing_is_known_says_so(
    act: str,
    fault: Fault,
    wire: Wire,
    meanwhile: Callable[[str], Meanwhile],
) -> None:
    create(wire.elsewhere)
    lock_id = locked(wire.store).lock_id
    wire.lose(fault, 'UpdateItem', meanwhile(act))
    with pytest.raises(SessionStoreUnavailable) as error:
        wire.store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    assert error.value.outcome == 'unknown'
    assert not hasattr(error.value, '__retryable__')


@pytest.mark.parametrize(
    'act', ['nothing', 'saves', 'optimistic saves', 'removed', 'moved']
)
@pytest.mark.parametrize('earlier', [0, 1, 20])
def test_optimistic_save_whose_reply_was_lost_is_saved(
    earlier: int,
    act: str,
    wire: Wire,
    meanwhile: Callable[[str], Meanwhile],
) -> None:
    create(wire.elsewhere)
    for n in range(earlier):
        save_optimistically(wire.elsewhere, wire.elsewhere.get_item(ID), n=-n)
    record = wire.store.get_item(ID)
    seen: list[Any] = []

    def then() -> None:
        seen.append(items(wire.elsewhere))
        meanwhile(act)()

    wire.lose(LOSE_REPLY, 'UpdateItem', then)
    save_optimistically(wire.store, record, n=2)
    assert seen == [{'n': 2}]


@pytest.mark.parametrize(
    'act', ['saves', 'optimistic saves', 'removed', 'moved']
)
def test_optimistic_save_that_never_arrived_is_not_saved(
    act: str, wire: Wire, meanwhile: Callable[[str], Meanwhile]
) -> None:
    create(wire.elsewhere)
    record = wire.store.get_item(ID)
    wire.lose(RESET, 'UpdateItem', meanwhile(act))
    with pytest.raises(SessionConflict):
        save_optimistically(wire.store, record, n=2)
    assert wire.proxy.failed_conditions == 1
    assert items(wire.elsewhere) != {'n': 2}


@pytest.mark.parametrize('fault', [LOSE_REPLY, RESET])
@pytest.mark.parametrize('act', ['too many saves', 'deleted'])
def test_optimistic_save_of_which_nothing_is_known_says_so(
    act: str,
    fault: Fault,
    wire: Wire,
    meanwhile: Callable[[str], Meanwhile],
) -> None:
    create(wire.elsewhere)
    save_optimistically(wire.elsewhere, wire.elsewhere.get_item(ID), n=0)
    record = wire.store.get_item(ID)
    wire.lose(fault, 'UpdateItem', meanwhile(act))
    with pytest.raises(SessionStoreUnavailable) as error:
        save_optimistically(wire.store, record, n=2)
    assert error.value.outcome == 'unknown'


# -- an optimistic save that never arrived, and then met a lock ----------


def lock_elsewhere(wire: Wire) -> list[str]:
    """Lose the next save, then lock; the lock's id is in the list."""
    lock_ids: list[str] = []
    wire.lose(
        RESET,
        'UpdateItem',
        lambda: lock_ids.append(locked(wire.elsewhere).lock_id),
    )
    return lock_ids


def when_observed(wire: Wire, act: Callable[[], None]) -> None:
    """Do something at the next look at the lock."""

    def get_item(number: int, called: str, request: Any) -> Fault | None:
        is_look = called == 'GetItem' and not request.get('ConsistentRead')
        if is_look:
            wire.proxy.fault = None
            act()
        return None

    wire.proxy.fault = get_item


@pytest.mark.parametrize(
    ('act', 'raised'),
    [
        ('released', None),
        ('saved', SessionConflict),
        ('removed', SessionConflict),
        ('deleted', SessionStoreUnavailable),
    ],
)
def test_lost_optimistic_save_waits_for_the_lock_that_it_meets(
    act: str,
    raised: type[Exception] | None,
    wire: Wire,
    meanwhile: Callable[[str], Meanwhile],
    raw_item: RawItem,
) -> None:
    create(wire.elsewhere)
    record = wire.store.get_item(ID)
    lock_ids: list[str] = []

    def release() -> None:
        if act == 'released':
            wire.elsewhere.release_item_exclusive(ID, lock_ids[0])
        elif act == 'saved':
            wire.elsewhere.set_and_release_item_exclusive(
                ID, {'n': 3}, lock_ids[0]
            )
        elif act == 'removed':
            wire.elsewhere.remove_item(ID, lock_ids[0])
        else:
            meanwhile('deleted')()

    def lock() -> None:
        lock_ids.append(locked(wire.elsewhere).lock_id)
        when_observed(wire, release)

    wire.lose(RESET, 'UpdateItem', lock)
    if raised is None:
        save_optimistically(wire.store, record, n=2)
        assert items(wire.elsewhere) == {'n': 2}
        return
    with pytest.raises(raised) as error:
        save_optimistically(wire.store, record, n=2)
    assert getattr(error.value, 'outcome', 'unknown') == 'unknown'
    assert items(wire.elsewhere) == ({'n': 3} if act == 'saved' else None)


def test_lost_optimistic_save_that_waits_in_vain_is_unknown(
    wire: Wire,
) -> None:
    """The lost attempt may still arrive."""
    create(wire.elsewhere)
    record = wire.store.get_item(ID)
    lock_elsewhere(wire)
    with pytest.raises(SessionStoreUnavailable) as error:
        save_optimistically(wire.store, record, n=2)
    assert error.value.outcome == 'unknown'
    assert isinstance(error.value.__cause__, SessionLockTimeout)


def test_optimistic_save_that_can_not_wait_for_the_lock_is_not_saved(
    wire: Wire,
) -> None:
    """Its only attempt was refused, then the store is gone."""
    create(wire.elsewhere)
    record = wire.store.get_item(ID)
    locked(wire.elsewhere)
    wire.proxy.inject(RESET, 'GetItem', times=100)
    with pytest.raises(SessionStoreUnavailable) as error:
        save_optimistically(wire.store, record, n=2)
    assert error.value.outcome == 'not saved'


@pytest.mark.parametrize(
    ('faults', 'raised'),
    [([None], SessionLockLost), ([RESET, None], SessionStoreUnavailable)],
)
def test_lock_of_a_waiting_optimistic_save_may_be_lost_in_turn(
    faults: list[Fault | None],
    raised: type[Exception],
    wire: Wire,
    make_store: MakeStore,
) -> None:
    create(wire.elsewhere)
    record = wire.store.get_item(ID)
    lock_ids = [locked(wire.elsewhere).lock_id]
    attempts = iter(faults)

    def rob() -> None:
        other = make_store(lock_lease=0.01)
        other.release_item_exclusive(ID, locked(other).lock_id)

    def decide(number: int, called: str, request: Any) -> Fault | None:
        is_save = 'SessionItems' in request.get('UpdateExpression', '')
        if is_save and 'LockId = :me' in request['ConditionExpression']:
            rob()
        elif is_save:
            return next(attempts)
        elif called == 'GetItem' and lock_ids:
            wire.elsewhere.release_item_exclusive(ID, lock_ids.pop())
        return None

    wire.proxy.fault = decide
    with pytest.raises(raised) as error:
        save_optimistically(wire.store, record, n=2)
    assert getattr(error.value, 'outcome', 'unknown') == 'unknown'
    assert items(wire.elsewhere) == {'n': 1}


# -- other writes --------------------------------------------------------


def test_lock_whose_reply_was_lost_is_held(wire: Wire) -> None:
    create(wire.elsewhere)
    wire.lose(LOSE_REPLY, 'UpdateItem', nothing)
    record = locked(wire.store)
    assert record.items == {'n': 1}
    assert record.lock_id.startswith('1.')
    wire.store.set_and_release_item_exclusive(ID, {'n': 2}, record.lock_id)
    assert items(wire.elsewhere) == {'n': 2}


def test_session_created_by_a_lost_reply_is_there(wire: Wire) -> None:
    wire.lose(LOSE_REPLY, 'PutItem', nothing)
    create(wire.store)
    assert wire.proxy.failed_conditions == 1
    assert items(wire.elsewhere) == {'n': 1}


@pytest.mark.parametrize('exclusive', [True, False])
def test_session_removed_by_a_lost_reply_has_ended(
    exclusive: bool, wire: Wire, raw_item: RawItem
) -> None:
    create(wire.elsewhere)
    lock_id = locked(wire.store).lock_id if exclusive else None
    wire.lose(LOSE_REPLY, 'UpdateItem', nothing)
    wire.store.remove_item(ID, lock_id)
    assert wire.proxy.failed_conditions == 1
    assert 'Ended' in raw(raw_item)


@pytest.mark.parametrize('is_moved', [True, False])
def test_move_that_met_a_lock_first_knows_its_own_second_attempt(
    is_moved: bool,
    wire: Wire,
    meanwhile: Callable[[str], Meanwhile],
) -> None:
    """It is refused by a lock; when that is gone, so is the session."""
    create(wire.elsewhere)
    record = wire.store.get_item(ID)
    assert record is not None
    lock_id = locked(wire.elsewhere).lock_id

    def end() -> None:
        locked_record = wire.elsewhere.get_item(ID)
        assert locked_record is not None
        locked_record.lock_id = lock_id
        new_id = 'new' if is_moved else 'other'
        wire.elsewhere.change_session_id(
            ID, new_id, {'n': 2}, b'{"n":2}', locked_record
        )

    when_observed(wire, end)
    if is_moved:
        # a duplicate of the first attempt that came through late
        wire.store.change_session_id(ID, 'new', {'n': 2}, b'{"n":2}', record)
        assert items(wire.elsewhere, 'new') == {'n': 2}
        return
    with pytest.raises(SessionConflict):
        wire.store.change_session_id(ID, 'new', {'n': 2}, b'{"n":2}', record)
    assert items(wire.elsewhere, 'new') is None


@pytest.mark.parametrize('exclusive', [True, False])
@pytest.mark.parametrize('act', ['nothing', 'deleted'])
def test_move_whose_reply_was_lost_leaves_one_session(
    act: str,
    exclusive: bool,
    wire: Wire,
    meanwhile: Callable[[str], Meanwhile],
) -> None:
    create(wire.elsewhere)
    record = locked(wire.store) if exclusive else wire.store.get_item(ID)
    assert record is not None
    wire.lose(LOSE_REPLY, 'TransactWriteItems', meanwhile(act))
    wire.store.change_session_id(ID, 'new', {'n': 2}, b'{"n":2}', record)
    assert items(wire.elsewhere) is None
    assert items(wire.elsewhere, 'new') == {'n': 2}


@pytest.mark.parametrize(
    ('fault', 'outcome'), [(LOSE_REPLY, 'unknown'), (RESET, 'unknown')]
)
def test_write_without_any_answer_is_unknown(
    fault: Fault,
    outcome: str,
    wire: Wire,
    other: DynamoDBSessionStore,
) -> None:
    create(wire.elsewhere)
    lock_id = locked(wire.store).lock_id
    wire.proxy.inject(fault, 'UpdateItem', times=100)
    with pytest.raises(SessionStoreUnavailable) as error:
        wire.store.set_and_release_item_exclusive(ID, {'n': 2}, lock_id)
    assert error.value.outcome == outcome
    assert 'may' in error.value.explanation


def test_read_without_any_answer_has_saved_nothing(wire: Wire) -> None:
    wire.proxy.inject(LOSE_REPLY, 'GetItem', times=100)
    with pytest.raises(SessionStoreUnavailable) as error:
        wire.store.get_item(ID)
    assert error.value.outcome == 'not saved'
    assert 'may' not in error.value.explanation

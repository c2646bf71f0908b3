"""``purge`` and ``stats``: commands that scan the table."""

from __future__ import annotations

import io
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dynamodb_session import (
    DynamoDBSessionStore,
)
from pyramid_dynamodb_session.command import main, scans
from pyramid_dynamodb_session.dynamodb import scan as scanning
from pyramid_dynamodb_session.dynamodb.calls import Calls
from pyramid_dynamodb_session.store.item import hash_key
from pyramid_dynamodb_session.store.purge import Purge
from tests.support.clients import Interposed
from tests.support.command import (
    ID,
    Put,
    RawItem,
    Run,
    refused,
    script,
    seconds,
)
from tests.support.proxy import FaultProxy
from tests.support.together import wait_until

# -- purge --------------------------------------------------------------------


def test_purge_deletes_what_has_expired_and_nothing_else(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    for session_id in 'abc':
        put(session_id, Expires=seconds(-1))
    put('living')
    dry = command('purge', '--dry-run')
    assert dry.status == 0
    assert '3 expired sessions found, 0 deleted (a dry run)' in dry.out
    output = command('purge', '--json')
    assert output.data['deleted'] == output.data['expired'] == 3
    assert output.data['complete']
    assert output.data['units'] > 0
    assert [raw_item(session_id) for session_id in 'abc'] == [None] * 3
    assert raw_item('living')


def test_purge_leaves_expired_sessions_alone_whose_lock_is_alive(
    command: Run, put: Put, raw_item: RawItem
) -> None:
    lock = {'LockId': {'S': 'a'}}
    put('alive', Expires=seconds(-1), LockDate=seconds(-30), **lock)
    put('dead', Expires=seconds(-1), LockDate=seconds(-42), **lock)
    put('undated', Expires=seconds(-1), **lock)
    assert command('purge', '--json').data['deleted'] == 2
    assert raw_item('alive') and not raw_item('dead')
    assert not raw_item('undated')


def test_session_that_is_locked_during_a_purge_is_left_alone(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    raw_item: RawItem,
) -> None:
    put(Expires=seconds(-1))

    def delete_item(**parameters: Any) -> Any:
        lock = {'LockId': {'S': 'a'}, 'LockDate': seconds(0)}
        put(Expires=seconds(-1), **lock)
        return client.delete_item(**parameters)

    use(Interposed(client, delete_item=delete_item))
    data = command('purge', '--json').data
    assert (data['expired'], data['deleted']) == (1, 0)
    assert raw_item(ID)


def test_two_purges_at_once_share_the_work(
    ini: str, use: Callable[[Any], None], client: Any, put: Put, capsys: Any
) -> None:
    for number in range(12):
        put(f'x{number}', Expires=seconds(-1))
    both = threading.Barrier(2)
    seen = threading.local()

    def scan(**parameters: Any) -> Any:
        page = client.scan(**parameters)
        if not vars(seen):
            seen.waited = True
            both.wait(30)
        return page

    use(Interposed(client, scan=scan))
    words = [ini, 'purge', '--segments', '1', '--json']
    other = threading.Thread(target=main, args=(words,))
    other.start()
    assert main(words) == 0
    other.join()
    out = capsys.readouterr().out
    assert sum(map(int, re.findall(r'"deleted": (\d+)', out))) == 12
    assert out.count('"expired": 12') == 2


def test_purge_finds_its_place_again_on_every_engine(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    """Though it deletes the very items that its pages end with."""
    for number in range(10):
        put(f'x{number}', Expires=seconds(-1))

    def scan(**parameters: Any) -> Any:
        return client.scan(**{**parameters, 'Limit': 2})

    use(Interposed(client, scan=scan))
    output = command('purge', '--segments', '2', '--json')
    assert output.data['deleted'] == 10


def test_rate_bounds_the_units_of_a_second(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    for number in range(15):
        put(f'x{number}', Expires=seconds(-1))
    limits = []

    def scan(**parameters: Any) -> Any:
        limits.append(parameters['Limit'])
        return client.scan(**parameters)

    use(Interposed(client, scan=scan))
    start = time.monotonic()
    output = command('purge', '--rate', '20', '--segments', '1', '--json')
    took = time.monotonic() - start
    assert output.data['deleted'] == 15
    assert limits[0] == 10 and limits[1] > 10
    # the last call need not be waited for
    assert took >= (output.data['units'] - 2) / 20


@pytest.mark.parametrize('rate', ['0', '-1', 'nan'])
def test_senseless_rate_is_a_usage_error(command: Run, rate: str) -> None:
    assert command('purge', f'--rate={rate}').status == 2


def test_interrupted_purge_says_what_it_has_done(
    write_ini: Callable[..., str],
    proxied: dict[str, str],
    proxy: FaultProxy,
    put: Put,
) -> None:
    for number in range(30):
        put(f'x{number}', Expires=seconds(-1))
    # a shell's background jobs ignore it, and so would our child
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = script(write_ini(proxied), 'purge', '--rate', '4')
    signal.signal(signal.SIGINT, handler)
    wait_until(lambda: proxy.operations.count('DeleteItem') > 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert 'Interrupted; run it again to go on.' in out
    assert 0 < int(re.findall(r'(\d+) deleted', out)[0]) < 30


def test_purge_that_is_stopped_deletes_no_more(
    store: DynamoDBSessionStore, client: Any, application: str
) -> None:
    """A page has two sessions, and there is always another page."""
    names = [hash_key(session_id, application) for session_id in 'ab']
    items = [{'SessionId': {'S': name}} for name in names]
    page = {'ScannedCount': 2, 'LastEvaluatedKey': items[1], 'Items': items}
    deleted = []

    def delete_item(**parameters: Any) -> Any:
        deleted.append(parameters)
        purge.scan.stopped.set()
        return {}

    store.initialize()
    store.table.client = Interposed(
        client, scan=lambda **parameters: page, delete_item=delete_item
    )
    purge = Purge(Calls(store.table), store.table, application, lease=10)
    for _ in purge.run():
        pass
    assert len(deleted) == purge.deleted == 1


def test_purge_that_fails_halfway_says_what_it_has_done(
    command: Run, use: Callable[[Any], None], client: Any, put: Put
) -> None:
    for session_id in 'ab':
        put(session_id, Expires=seconds(-1))
    deleted = []

    def delete_item(**parameters: Any) -> Any:
        if deleted:
            refused('AccessDeniedException')()
        deleted.append(parameters)
        return client.delete_item(**parameters)

    use(Interposed(client, delete_item=delete_item))
    output = command('purge', '--segments', '1')
    assert output.status == 1
    assert 'Stopped: DynamoDB failed: delete_item' in output.out
    assert '2 expired sessions found, 1 deleted' in output.out


def test_throttling_is_waited_out(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scanning, 'THROTTLED_PAUSES', (0, 0))
    put(Expires=seconds(-1))
    throttled = refused('ProvisionedThroughputExceededException')
    tries = []

    def delete_item(**parameters: Any) -> Any:
        tries.append(parameters)
        return (client.delete_item if len(tries) > 2 else throttled)(
            **parameters
        )

    use(Interposed(client, delete_item=delete_item))
    output = command('purge', '--json')
    assert output.data['deleted'] == 1
    put(Expires=seconds(-1))
    use(Interposed(client, delete_item=throttled))
    output = command('purge', '--json')
    assert output.status == 1
    assert 'Throughput' in output.data['error']


def test_garbled_page_is_no_end_of_the_table(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    use(Interposed(client, scan=lambda **parameters: {}))
    output = command('purge')
    assert output.status == 1
    assert 'a garbled reply' in output.out


def slowly(client: Any) -> Interposed:
    """A client whose tables take their time to be read."""

    def scan(**parameters: Any) -> Any:
        time.sleep(0.05)
        return client.scan(**parameters)

    return Interposed(client, scan=scan)


def test_progress_is_printed_in_lines_without_a_terminal(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(Expires=seconds(-1))
    use(slowly(client))
    assert command('purge').err == ''
    monkeypatch.setattr(scanning, 'PROGRESS_INTERVAL', 0.01)
    monkeypatch.setattr(scans, 'LINES_EVERY', 0.01)
    put(Expires=seconds(-1))
    output = command('purge', '--segments', '1')
    lines = r'\d+ items read, \d deleted, \d+ deleted/s, \d+ units'
    assert all(re.fullmatch(lines, line) for line in output.err.splitlines())
    assert len(output.err.splitlines()) > 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(
    command: Run, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(Expires=seconds(-1))
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    output = command('purge')
    assert output.status == 0
    bar = terminal.getvalue()
    assert ' items/s' in bar
    assert 'deleted=1' in bar
    put(Expires=seconds(-1))
    assert command('purge', '--plain').status == 0
    assert terminal.getvalue() == bar


def test_progress_is_printed_in_lines_without_tqdm(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(Expires=seconds(-1))
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setattr(scans, 'tqdm', None)
    monkeypatch.setattr(scans, 'LINES_EVERY', 0)
    monkeypatch.setattr(scanning, 'PROGRESS_INTERVAL', 0.01)
    use(slowly(client))
    assert command('purge').status == 0
    assert ' items read, ' in terminal.getvalue()


def test_command_runs_without_tqdm(ini: str) -> None:
    code = (
        'import sys; sys.modules["tqdm"] = None; '
        'from pyramid_dynamodb_session.command import main; sys.exit(main())'
    )
    words = [sys.executable, '-W', 'ignore', '-c', code, ini, 'policy']
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, 'Traceback' in done.stderr) == (0, False)


# -- stats --------------------------------------------------------------------


@pytest.fixture
def crowd(put: Put, raw_item: RawItem) -> list[dict[str, Any] | None]:
    """Ten live sessions, three of them locked, and seven others."""
    ids = [f'{kind}{n}' for kind in ('live', 'expired') for n in range(7)]
    for session_id in ids[:7]:
        put(session_id)
    for session_id in ids[7:]:
        put(session_id, Expires=seconds(-1), Big={'S': 'x' * 2000})
    for age in (0, 1, 100):
        locked = {'LockId': {'S': 'a'}, 'LockDate': seconds(-age)}
        put(f'locked{age}', **locked)
    return [raw_item(session_id) for session_id in ids]


def test_stats_count_what_there_is(
    command: Run, put: Put, crowd: object
) -> None:
    put('no date', Expires={'S': 'soon'})
    put('list', Odd={'NULL': True})
    put('tombstone', Ended=seconds(-1), LockId={'S': 'a'})
    alive = {'LockId': {'S': 'a'}, 'LockDate': seconds(0)}
    put('expired and locked', Expires=seconds(-1), **alive)
    output = command('stats', '--all', '--json')
    told = output.data
    assert told['sampled'] is None
    assert (told['live'], told['expired'], told['ended']) == (11, 7, 1)
    assert (told['locked'], told['abandoned_locks']) == (4, 1)
    assert told['corrupt'] == 2
    assert told['histogram']['512'] == 11
    assert told['histogram']['4096'] == 7
    assert told['bytes']['median'] < 512 < 2000 < told['bytes']['largest']
    output = command('stats', '--all', '--rate', '1000')
    assert re.search(r'live +11 ', output.out)
    assert re.search(r'ended +1 ', output.out)
    assert re.search(r'<= 4.0 KB +7 +####', output.out)


def test_stats_of_few_sessions_are_exact(
    command: Run, use: Callable[[Any], None], client: Any, crowd: object
) -> None:
    def scan(**parameters: Any) -> Any:
        return client.scan(**{**parameters, 'Limit': 5})

    use(Interposed(client, scan=scan))
    told = command('stats', '--sample', '100000', '--json').data
    assert (told['live'], told['expired'], told['sampled']) == (10, 7, None)


def test_stats_are_estimated_from_a_sample(
    command: Run,
    use: Callable[[Any], None],
    client: Any,
    crowd: list[dict[str, Any]],
) -> None:
    def describe_table(**parameters: Any) -> Any:
        found = client.describe_table(**parameters)
        found['Table']['ItemCount'] = 1000
        return found

    def scan(**parameters: Any) -> Any:
        """Pages of five, as from somewhere in a large table."""
        segments.append(parameters['Segment'])
        assert parameters['TotalSegments'] == 21
        return {'Items': random.sample(crowd, 5)}

    segments: list[int] = []
    use(Interposed(client, describe_table=describe_table, scan=scan))
    output = command('stats', '--sample', '15')
    assert 'a sample of 15 of about 1,000 items' in output.out
    assert re.search(r'live +\d+ +± \d+ +\d+\.\d%', output.out)
    assert len(set(segments)) == 3


def test_stats_of_a_table_that_was_emptied_since_it_was_counted(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def describe_table(**parameters: Any) -> Any:
        found = client.describe_table(**parameters)
        found['Table']['ItemCount'] = 5
        return found

    def scan(**parameters: Any) -> Any:
        return {'Items': []}

    use(Interposed(client, describe_table=describe_table, scan=scan))
    output = command('stats')
    assert output.status == 0
    assert 'all 0 items' in output.out


def test_stats_of_nothing(command: Run) -> None:
    output = command('stats', '--all')
    assert output.status == 0
    assert 'There are no sessions.' in output.out

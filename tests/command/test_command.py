"""The command line, as an operator types it and reads what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients import Interposed
from tests.support.command import (
    ID,
    PREFIX,
    Put,
    Run,
    script,
)


@pytest.mark.parametrize(
    'name',
    [
        *('create-table', 'check', 'purge', 'show', 'unlock', 'delete'),
        *('policy', 'stats'),
    ],
)
def test_help_of_each_command_has_an_example(command: Run, name: str) -> None:
    assert name in command('--help', ini='--help').out
    output = command(name, '--help')
    assert output.status == 0
    assert f'\n  dynamodb-session production.ini {name}' in output.out


def test_settings_are_replaced_on_the_command_line(command: Run) -> None:
    output = command('policy', f'{PREFIX}table=Nowhere')
    assert 'table/Nowhere' in output.out
    assert 'there is none yet' in output.err


def test_variables_of_the_file_are_filled_in(
    command: Run, write_ini: Callable[..., str], settings: dict[str, str]
) -> None:
    ini = write_ini(settings, **{f'{PREFIX}table': '%(which)s'})
    assert 'table/Given' in command('policy', 'which=Given', ini=ini).out
    assert 'which' in command('policy', ini=ini).err


def test_section_other_than_main(
    command: Run, ini: str, settings: dict[str, str]
) -> None:
    with open(ini, 'a') as file:
        file.write(f'\n[app:admin]\nuse = main\n{PREFIX}table = Admins\n')
    assert 'table/Admins' in command('policy', ini=f'{ini}#admin').out


@pytest.mark.parametrize(
    'name, words', [('x.ini', 'No such file'), ('x.ini#y', 'No such file')]
)
def test_file_that_is_not_there(command: Run, name: str, words: str) -> None:
    output = command('check', ini=name)
    assert output.status == 1
    assert words in output.err


def test_section_that_is_not_there(command: Run, ini: str) -> None:
    output = command('check', ini=f'{ini}#other')
    assert output.status == 1
    assert "No section 'other'" in output.err


def test_word_that_means_nothing_is_a_usage_error(command: Run) -> None:
    output = command('check', 'please')
    assert output.status == 2
    assert "'please' is no name=value" in output.err


def test_wrong_setting_is_named(command: Run) -> None:
    output = command('check', f'{PREFIX}timeout=soon')
    assert output.status == 1
    assert f"{PREFIX}timeout = 'soon' is not right" in output.err


def test_no_command_but_one_creates_a_table(
    command: Run, client: Any, new_table: str, ini: str
) -> None:
    for words in (['check'], ['purge'], ['show', ID]):
        output = command(*words, f'{PREFIX}table={new_table}')
        assert output.status == 1
        assert f'there is no table {new_table}' in output.out + output.err
    assert new_table not in client.list_tables()['TableNames']


def test_embedded_sessions_are_out_of_reach_without_their_address(
    command: Run,
    write_ini: Callable[..., str],
    settings: dict[str, str],
    put: Put,
    endpoint: str,
) -> None:
    includes = 'pyramid_dynamodb_session.local pyramid_dynamodb_session'
    del settings[f'{PREFIX}endpoint_url']
    ini = write_ini(settings, **{'pyramid.includes': includes})
    name = put()
    output = command('show', ID, ini=ini)
    assert output.status == 1
    assert 'inside the running' in output.err
    address = f'{PREFIX}endpoint_url={endpoint}'
    assert f'{PREFIX}endpoint_url=http' in output.err
    assert name in command('show', ID, address, ini=ini).out


def test_policy_needs_no_embedded_dynamodb(
    command: Run, write_ini: Callable[..., str], settings: dict[str, str]
) -> None:
    includes = 'pyramid_dynamodb_session.local pyramid_dynamodb_session'
    del settings[f'{PREFIX}endpoint_url']
    ini = write_ini(settings, **{'pyramid.includes': includes})
    output = command('policy', ini=ini)
    assert output.status == 0
    assert '123456789012 stands for' in output.err


def test_script_says_what_is_wrong_once_and_without_traceback(
    write_ini: Callable[..., str], settings: dict[str, str]
) -> None:
    ini = write_ini(
        settings,
        **{
            f'{PREFIX}endpoint_url': 'http://127.0.0.1:9',
            f'{PREFIX}max_attempts': '1',
        },
    )
    process = script(ini, 'stats')
    _, err = process.communicate()
    assert process.returncode == 1
    assert 'Traceback' not in err
    assert err.count('Could not connect') == 1
    assert 'check region, endpoint_url' in err


def test_reader_of_the_output_may_leave_early(ini: str) -> None:
    process = script(ini, 'policy')
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait() == 1
    assert 'Traceback' not in process.stderr.read()


def test_interrupt_anywhere_has_the_status_of_interrupts(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def interrupted(**parameters: Any) -> Any:
        raise KeyboardInterrupt

    use(Interposed(client, describe_table=interrupted))
    assert command('stats').status == 130

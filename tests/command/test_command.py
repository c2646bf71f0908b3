"""The command line, as an operator types it and reads what it says."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyramid_dynamodb_session.command import main
from pyramid_dynamodb_session.command.output import print_error, write
from pyramid_dynamodb_session.version import VERSION
from tests.support.clients import Interposed
from tests.support.command import (
    ID,
    PREFIX,
    SECRET,
    Put,
    RawItem,
    Run,
    script,
    seconds,
)


@pytest.mark.parametrize(
    'name',
    [
        *('create-table', 'check', 'purge', 'show', 'unlock', 'delete'),
        *('policy', 'stats', 'serve', 'sessions'),
    ],
)
def test_help_of_each_command_has_an_example(command: Run, name: str) -> None:
    assert name in command('--help', ini='--help').out
    output = command(name, '--help')
    assert output.status == 0
    assert re.search(rf'\n  dynamodb-session \w+.ini {name}', output.out)


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
    'name, words',
    [
        ('x.ini', 'there is no file x.ini'),
        ('x.ini#y', 'there is no file x.ini'),
        ('production', 'there is no file production'),
        ('tests', 'tests is no .ini file'),
        ('setup.cfg', 'setup.cfg is no .ini file'),
        ('egg:nothing', 'the settings of egg:nothing can not be read'),
    ],
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


def test_version(command: Run) -> None:
    assert command(ini='--version').out == f'dynamodb-session {VERSION}\n'


@pytest.mark.parametrize(
    'words, message',
    [
        (['check'], 'the .ini file is missing: dynamodb-session INI check'),
        (['stats', '--all'], 'the .ini file is missing: dynamodb-session'),
        (
            ['check', 'x/production.ini'],
            'the .ini file comes first: dynamodb-session x/production.ini '
            'check',
        ),
        (['show', 'a.ini#b'], 'comes first: dynamodb-session a.ini#b show'),
        ([], 'the following arguments are required: INI'),
    ],
)
def test_ini_file_missing_or_second(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_file_may_be_named_like_a_command(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('check').touch()
    output = command('check', ini='check')
    assert (
        output.err
        == 'dynamodb-session: check is no .ini file: give the '
        + ('one that pserve is started with\n')
    )


@pytest.mark.parametrize(
    'word, message',
    [
        ('table=Nope', f'did you mean {PREFIX}table=Nope ?'),
        ('dynamodb_sessions.table=Nope', f'mean {PREFIX}table=Nope ?'),
        ('secret=Nope', f'did you mean {PREFIX}secret=… ?'),
        ('colour=blue', f'settings begin with {PREFIX}'),
    ],
)
def test_name_that_is_neither_setting_nor_variable_is_refused(
    command: Run, word: str, message: str, put: Put, raw_item: RawItem
) -> None:
    put(Expires=seconds(-1))
    output = command('purge', word)
    assert output.status == 2
    name = word.partition('=')[0]
    assert f'{name} is no setting, and no variable of ' in output.err
    assert message in output.err
    assert raw_item(ID)


def test_variables_are_found_in_all_files_that_are_used(
    command: Run,
    write_ini: Callable[..., str],
    ini: str,
    settings: dict[str, str],
) -> None:
    del settings[f'{PREFIX}table']
    text = Path(write_ini(settings)).read_text()
    Path(ini).with_name('other.ini').write_text(
        f'[DEFAULT]\nstage = test\n; colour: none\n{text}\n'
        f'{PREFIX}table = Table-%(which)s\n'
        '[app:again]\nuse = config:other.ini#main\n'
    )
    Path(ini).write_text(
        '[app:main]\nuse = config:other.ini\n'
        '[app:gone]\nuse = config:gone.ini\n'
    )
    output = command('policy', 'which=One', 'stage=live')
    assert output.status == 0, output.err
    assert 'table/Table-One' in output.out
    output = command('policy', 'which=One', 'colour=blue')
    assert 'colour is no setting' in output.err


def test_variables_of_a_uri_are_not_known(command: Run) -> None:
    output = command('check', 'table=Nope', ini='egg:nothing')
    assert 'can not be read' in output.err


def test_advice_repeats_the_overrides_but_no_secret(
    command: Run, new_table: str
) -> None:
    words = [f'{PREFIX}table={new_table}', f'{PREFIX}secret={SECRET}']
    for name in ('check', 'stats'):
        output = command(name, *words)
        text = output.out + output.err
        assert f'create-table {PREFIX}table={new_table} ' in text
        assert f"'{PREFIX}secret=(not shown)'" in text
        assert SECRET not in text


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


@pytest.mark.parametrize('words', [['policy'], ['policy', '--help']])
def test_full_disk_is_said_without_a_traceback(
    ini: str, words: list[str]
) -> None:
    env = {**os.environ, 'PYTHONUNBUFFERED': ''}
    with open('/dev/full', 'w') as full:
        process = script(ini, *words, stdout=full, env=env)
        _, err = process.communicate()
    assert 'No space left on device' in err
    assert 'Traceback' not in err and 'Exception' not in err
    assert process.returncode == 1


def test_large_output_on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open('/dev/full', 'w', buffering=1) as full:
        monkeypatch.setattr(sys, 'stdout', full)
        assert not write('x')
        assert write('what comes later goes nowhere')


def test_closed_output_is_said_without_a_traceback(ini: str) -> None:
    process = script(ini, 'policy', preexec_fn=lambda: os.close(1))
    _, err = process.communicate()
    assert 'the standard output is closed' in err
    assert 'Traceback' not in err
    assert process.returncode == 1


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('stderr', [FullDisk(), None])
def test_errors_that_can_not_be_printed_are_no_errors(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stderr: Any,
) -> None:
    monkeypatch.setattr(sys, 'stderr', stderr)
    print_error('x')
    assert capsys.readouterr().out == ''


def test_console_script_prints_no_warning_of_setuptools(ini: str) -> None:
    code = 'from pyramid_dynamodb_session_command import main; main()'
    words = [sys.executable, '-c', code]
    done = subprocess.run(
        [*words, ini, 'policy', f'{PREFIX}table=arn:aws:dynamodb:x'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, '')


def test_interrupt_anywhere_has_the_status_of_interrupts(
    command: Run, use: Callable[[Any], None], client: Any
) -> None:
    def interrupted(**parameters: Any) -> Any:
        raise KeyboardInterrupt

    use(Interposed(client, describe_table=interrupted))
    assert command('stats').status == 130

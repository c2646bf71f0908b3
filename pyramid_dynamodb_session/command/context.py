"""What a command works on: the settings of an .ini file, and their store."""

from __future__ import annotations

import argparse
import configparser
import dataclasses
import difflib
import functools
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import plaster
from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_appsettings
from pyramid.scripts.common import parse_vars
from pyramid.settings import aslist

from .. import local
from ..dynamodb.calls import Calls
from ..dynamodb.errors import remedy
from ..dynamodb.table import describe
from ..errors import SessionStoreUnavailable
from ..factory import session_factory_from_settings
from ..settings import PREFIX, FactorySettings
from ..store.admin import StoredSessions
from .output import UsageError

LOCAL = 'pyramid_dynamodb_session.local'
NO_ENDPOINT = f"""\
{{ini}} includes
{LOCAL}: its sessions are kept inside the running
application, and nowhere else. It logs the address when it starts; with that
they can be reached:

  {{command}} … \\
      {PREFIX}endpoint_url=http://127.0.0.1:PORT"""
SETTINGS = {
    field.name: field.metadata for field in dataclasses.fields(FactorySettings)
}
READ_ERRORS = (
    configparser.Error,
    ImportError,
    LookupError,
    OSError,
    ValueError,
)


class Context:
    """The settings of an application, its store, and its table.

    Raises :class:`pyramid.exceptions.ConfigurationError`, and
    :class:`.output.UsageError` for a mistyped override. No table is created
    unless `may_create_table`.
    """

    def __init__(
        self, args: argparse.Namespace, may_create_table: bool = False
    ) -> None:
        self.ini: str = args.ini
        self.overrides = parse_overrides(args)
        settings = read_settings(args.ini, self.overrides)
        self.given = dict(settings)
        self.is_local = LOCAL in aslist(settings.get('pyramid.includes', ''))
        endpoint = settings.get(f'{PREFIX}endpoint_url')
        if self.is_local and endpoint:
            settings |= local.settings_for(endpoint, settings)
            self.is_local = False
        elif self.is_local and args.command != 'policy':
            command = self.command_line(args.command)
            raise ConfigurationError(
                NO_ENDPOINT.format(ini=args.ini, command=command)
            )
        if not may_create_table:
            settings[f'{PREFIX}create_if_not_exist'] = 'false'
        self.factory = session_factory_from_settings(settings)
        self.settings = self.factory.settings
        self.store = self.factory.store
        self.table = self.store.table

    @functools.cached_property
    def client(self) -> Any:
        return self.store.client

    @functools.cached_property
    def calls(self) -> Calls:
        return Calls(self.table)

    @functools.cached_property
    def sessions(self) -> StoredSessions:
        return StoredSessions(self.calls, self.table, self.settings)

    @property
    def region(self) -> str:
        return str(self.client.meta.region_name)

    @property
    def endpoint(self) -> str:
        """The URL of DynamoDB; without a password that may be in it."""
        url = urlsplit(self.client.meta.endpoint_url)
        return f'{url.scheme}://{url.netloc.rpartition("@")[2]}'

    @property
    def scope(self) -> str:
        """Which sessions these are, in words."""
        application = self.settings.application
        name = f'application {application}' if application else None
        return f'{name or "any application"}, table {self.settings.table}'

    def command_line(self, *words: str) -> str:
        """Another command on the same table, as it is typed in a shell.

        The overrides are repeated; of a secret, the name alone.
        """
        overrides = [
            f'{name}=(not shown)' if is_secret(name) else f'{name}={value}'
            for name, value in self.overrides.items()
        ]
        return shlex.join(['dynamodb-session', self.ini, *words, *overrides])

    def describe(self) -> dict[str, Any] | None:
        """The table; None if there is none.

        Raises :class:`SessionStoreUnavailable`.
        """
        found: dict[str, Any] | None = self.call(
            lambda: describe(self.client, self.settings.table)
        )
        return found

    def existing_table(self) -> dict[str, Any]:
        """As :meth:`describe`; ConfigurationError if there is none."""
        found = self.describe()
        if found is None:
            raise ConfigurationError(
                f'there is no table {self.settings.table} in {self.region}; '
                f'to create it: {self.command_line("create-table")}'
            )
        return found

    def call(self, operation: Callable[[], Any]) -> Any:
        """What `operation`, a call on the table, returns.

        Raises :class:`SessionStoreUnavailable`.
        """
        try:
            return operation()
        except ConfigurationError:
            raise
        except Exception as error:
            raise SessionStoreUnavailable(f'{error}{remedy(error)}') from error

    def server_settings(self) -> dict[str, str]:
        """Those of ``[server:main]``; empty without that section."""
        path = self.ini.partition('#')[0]
        try:
            found = plaster.get_settings(
                path, 'server:main', defaults=self.overrides
            )
        except READ_ERRORS:
            return {}
        return dict(found)


# -- the .ini file --------------------------------------------------------


def read_settings(ini: str, overrides: Mapping[str, str]) -> dict[str, str]:
    """The settings of a section; `overrides` replace those of the session.

    The others are for the ``%(name)s`` of the file, as with ``pserve``.
    """
    check_path(ini)
    try:
        settings = dict(get_appsettings(ini, options=dict(overrides)))
    except READ_ERRORS as error:
        raise ConfigurationError(
            f'the settings of {ini} can not be read: {error}'
        ) from error
    for name, value in overrides.items():
        if name.startswith(PREFIX):
            settings[name] = value
    return settings


def check_path(ini: str) -> None:
    """Refuse a path that is no .ini file; plaster takes it for a URI."""
    if is_uri(ini):
        return
    path = Path(ini.partition('#')[0])
    if not path.exists():
        raise ConfigurationError(f'there is no file {path}')
    if path.is_dir() or path.suffix != '.ini':
        raise ConfigurationError(
            f'{path} is no .ini file: give the one that pserve is started with'
        )


def is_uri(ini: str) -> bool:
    """Whether it is one of plaster's, such as ``egg:shop#main``."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]+:', ini) is not None


def parse_overrides(args: argparse.Namespace) -> dict[str, str]:
    """The settings and variables that the command line replaces.

    Raises :class:`.output.UsageError` for a name that is neither: a command
    must not go on without what was asked for, on another table maybe.
    """
    for word in args.variables:
        if '=' not in word:
            raise UsageError(f'{word!r} is no name=value')
    overrides: dict[str, str] = parse_vars(args.variables)
    unknown = [name for name in overrides if not name.startswith(PREFIX)]
    if unknown and not is_uri(args.ini):
        check_path(args.ini)
        known = variables_in(Path(args.ini.partition('#')[0]))
        for name in unknown:
            if name not in known:
                raise UsageError(unknown_name(name, overrides[name], args.ini))
    return overrides


def unknown_name(name: str, value: str, ini: str) -> str:
    text = f'{name} is no setting, and no variable of {ini}'
    suffix = name.rpartition('.')[2]
    (close,) = difflib.get_close_matches(suffix, SETTINGS, 1) or ('',)
    if not close:
        return f'{text}; settings begin with {PREFIX}'
    shown = '…' if SETTINGS[close]['secret'] else value
    return f'{text}; did you mean {PREFIX}{close}={shown} ?'


def is_secret(name: str) -> bool:
    known = SETTINGS.get(name.removeprefix(PREFIX))
    return known is not None and bool(known['secret'])


def variables_in(path: Path) -> set[str]:
    """The names in ``[DEFAULT]`` and in ``%(name)s`` of an .ini file.

    And of those that it uses, as in ``use = config:other.ini``.
    """
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return set()
    found = set(re.findall(r'%\(([^)\s]+)\)s', text))
    defaults = re.search(r'^\[DEFAULT\]$(.*?)(?=^\[|\Z)', text, re.M | re.S)
    if defaults:
        found |= set(re.findall(r'^([^\s#;=:]+)\s*[=:]', defaults[1], re.M))
    for other in re.findall(r'^use\s*=\s*config:([^#\s]+)', text, re.M):
        used = path.parent / other
        if used.resolve() != path.resolve():
            found |= variables_in(used)
    return found

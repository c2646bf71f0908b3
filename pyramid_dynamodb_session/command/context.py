"""What a command works on: the settings of an .ini file, and their store."""

from __future__ import annotations

import argparse
import configparser
import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_appsettings
from pyramid.scripts.common import parse_vars
from pyramid.settings import aslist

from .. import PREFIX, local, session_factory_from_settings
from ..dynamodb.calls import Calls
from ..dynamodb.errors import remedy
from ..dynamodb.table import describe
from ..errors import SessionStoreUnavailable
from ..store.admin import StoredSessions

LOCAL = 'pyramid_dynamodb_session.local'
NO_ENDPOINT = f"""\
{{ini}} includes
{LOCAL}: its sessions are kept inside the running
application, and nowhere else. It logs the address when it starts; with that
they can be reached:

  dynamodb-session {{ini}} {{command}} … \\
      {PREFIX}endpoint_url=http://127.0.0.1:PORT"""


class Context:
    """The settings of an application, its store, and its table.

    Raises :class:`pyramid.exceptions.ConfigurationError`. No table is
    created unless `may_create_table`.
    """

    def __init__(
        self, args: argparse.Namespace, may_create_table: bool = False
    ) -> None:
        self.ini: str = args.ini
        settings = read_settings(args.ini, parse_vars(args.variables))
        self.is_local = LOCAL in aslist(settings.get('pyramid.includes', ''))
        endpoint = settings.get(f'{PREFIX}endpoint_url')
        if self.is_local and endpoint:
            settings |= local.settings_for(endpoint, settings)
            self.is_local = False
        elif self.is_local and args.command != 'policy':
            raise ConfigurationError(
                NO_ENDPOINT.format(ini=args.ini, command=args.command)
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
                f'there is no table {self.settings.table} in {self.region}: '
                f'dynamodb-session {self.ini} create-table creates it'
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


def read_settings(ini: str, variables: dict[str, str]) -> dict[str, str]:
    """The settings of a section; `variables` replace those of the session.

    The others are for the ``%(name)s`` of the file, as with ``pserve``.
    """
    try:
        settings = dict(get_appsettings(ini, options=variables))
    except (
        configparser.Error,
        ImportError,
        LookupError,
        OSError,
        ValueError,
    ) as error:
        raise ConfigurationError(
            f'the settings of {ini} can not be read: {error}'
        ) from error
    for name, value in variables.items():
        if name.startswith(PREFIX):
            settings[name] = value
    return settings

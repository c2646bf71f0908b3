"""An application made of a test's own views, served in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from webtest import TestApp

from pyramid_dynamodb_session import (
    DynamoDBSessionFactory,
    DynamoDBSessionStore,
)
from pyramid_dynamodb_session.store.item import hash_key
from tests.apps.views import add_views
from tests.support.clients import CountingClient

PREFIX = 'dynamodb_session.'
OF_THE_STORE = ('table', 'application')


class SmallApp:
    """Add views, then :meth:`open` it in as many browsers as you like.

    Each view is at ``/its_name``, and what it returns is sent as JSON.
    Settings of the session go without their prefix; others are ``more``.
    """

    def __init__(
        self,
        client: Any,
        settings: dict[str, str],
        more: dict[str, Any] | None = None,
        include: bool = True,
        **session_settings: Any,
    ) -> None:
        self.client = CountingClient(client)
        of_the_store = {name: settings[PREFIX + name] for name in OF_THE_STORE}
        given = {
            **of_the_store,
            **session_settings,
            'client': self.client,
        }
        #: the provider as another web server has it
        self.elsewhere = DynamoDBSessionStore(client, **of_the_store)
        self.config = Configurator(settings=more or {})
        if include:
            self.config.add_settings(
                {PREFIX + name: value for name, value in given.items()}
            )
            self.config.include('pyramid_dynamodb_session')
        else:
            self.config.set_session_factory(DynamoDBSessionFactory(**given))

    def add(self, *views: Any, **options: Any) -> None:
        add_views(self.config, *views, **options)

    def open(self) -> TestApp:
        self.wsgi = self.config.make_wsgi_app()
        # of the table's key, which is asked for once
        self.factory.store.initialize()
        self.client.calls.clear()
        return self.browser()

    @property
    def factory(self) -> DynamoDBSessionFactory:
        factory: DynamoDBSessionFactory = self.config.registry.getUtility(
            ISessionFactory
        )
        return factory

    def browser(self, session_id: str | None = None) -> TestApp:
        """Another browser, with the cookie of `session_id` if given."""
        browser = TestApp(self.wsgi, extra_environ={'REMOTE_ADDR': '::1'})
        if session_id is not None:
            browser.set_cookie('session', session_id)
        return browser

    def calls(self) -> list[str]:
        """The calls since the application was opened, or last asked."""
        calls, self.client.calls = self.client.calls, []
        return calls

    def take_over(self, session_id: str) -> None:
        """Take the lock and save, as a server does for whom we are dead."""
        store = DynamoDBSessionStore(
            self.elsewhere.client,
            table=self.elsewhere.settings.table,
            application=self.elsewhere.settings.application,
            lock_lease=0.02,
        )
        record = store.get_item_exclusive(session_id)
        assert record and record.lock_id
        store.set_and_release_item_exclusive(
            session_id, {**record.items, 'other': True}, record.lock_id
        )

    def stored(self, browser: TestApp) -> Any:
        """What is stored for a browser; None for nothing."""
        record = self.elsewhere.get_item(session_id(browser))
        return record and record.items

    def name(self, browser: TestApp) -> str:
        """What the item of a browser's session is called."""
        application = self.elsewhere.settings.application
        return hash_key(session_id(browser), application)

    def is_locked(self, browser: TestApp) -> bool:
        item = self.elsewhere.client.get_item(
            TableName=self.elsewhere.settings.table,
            Key={'SessionId': {'S': self.name(browser)}},
            ConsistentRead=True,
        )
        return 'LockId' in item.get('Item', {})


class ReleasedAtFirstSight:
    """``get_item``, but the lock it would see is released just before.

    So a request finds the lock held, and waits no longer than it must.
    """

    def __init__(self, client: Any) -> None:
        self._get_item = client.get_item
        self._release: list[Callable[[], None]] = []

    def lock(self, app: SmallApp, session_id: str) -> None:
        """Lock a session as another web server does."""
        record = app.elsewhere.get_item_exclusive(session_id)
        assert record and record.lock_id
        release = app.elsewhere.release_item_exclusive
        self._release.append(partial(release, session_id, record.lock_id))

    def __call__(self, **parameters: Any) -> Any:
        # an engine may make us ask what stands where the condition failed
        if not parameters.get('ConsistentRead'):
            while self._release:
                self._release.pop()()
        return self._get_item(**parameters)


def session_id(browser: TestApp) -> str:
    """The id in the cookie."""
    return str(browser.cookies['session']).strip('"')

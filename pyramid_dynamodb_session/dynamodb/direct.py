"""The transport `direct`: DynamoDB over the standard library alone."""

from __future__ import annotations

import logging
import os
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
)

from ._endpoint import Endpoint, options_of, resolve
from ._replies import ReplyReader, encode
from ._retries import RetryPolicy
from .signer import Clock

log = logging.getLogger(__name__)


class DirectClient:
    """A DynamoDB client whose data operations cost little CPU time.

    ``get_item``, ``put_item``, ``update_item``, ``delete_item`` and
    ``transact_write_items`` take the keyword arguments, give the replies and
    raise the errors of the boto3 client. Everything else is that client's
    own.

    Endpoint, region, timeouts, attempts, the size of the pool, proxies and
    the user agent are those of ``client``. Threads may share a DirectClient;
    a forked process makes connections of its own.

    :param client: the boto3 DynamoDB client.
    :param credentials: botocore's, such as
        ``boto3.Session().get_credentials()``; asked on every attempt, so that
        they can refresh themselves. None: calls raise
        :exc:`botocore.exceptions.NoCredentialsError`.
    :param ca_bundle: the file of trusted certificates, which boto3 knows as
        ``ca_bundle``. None: ``AWS_CA_BUNDLE``, ``REQUESTS_CA_BUNDLE`` or
        boto3's own.
    """

    def __init__(
        self, client: Any, credentials: Any, ca_bundle: str | None = None
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._options = options_of(client, ca_bundle)
        retries = client.meta.config.retries or {}
        self._max_attempts: int = retries.get('total_max_attempts', 4)
        self._reader = ReplyReader(client, self._max_attempts)
        self._process = _Process(self._max_attempts)

    def __repr__(self) -> str:
        meta = self._client.meta
        url = urlsplit(meta.endpoint_url)
        shown = url._replace(netloc=url.netloc.rpartition('@')[2]).geturl()
        return f'<DirectClient {shown} {meta.region_name}>'

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('GetItem', kwargs)

    def put_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('PutItem', kwargs)

    def update_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('UpdateItem', kwargs)

    def delete_item(self, **kwargs: Any) -> dict[str, Any]:
        return self._call('DeleteItem', kwargs)

    def transact_write_items(self, **kwargs: Any) -> dict[str, Any]:
        # boto3 adds the token too: it makes a repeated transaction one.
        kwargs.setdefault('ClientRequestToken', str(uuid.uuid4()))
        return self._call('TransactWriteItems', kwargs)

    def close(self) -> None:
        """Close the idle connections, and those of the boto3 client."""
        self._process.close()
        self._client.close()

    def _call(
        self, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        # Any of these may be repeated when a reply is lost: it is a read, or
        # a write that its condition or token tells from its own repetition.
        body = encode(parameters)
        table = _table_arn(parameters)
        process = self._this_process()
        retries = 0
        while True:
            try:
                reply = self._attempt(process, operation, table, body, retries)
            except (ClientError, ConnectionError, HTTPClientError) as error:
                pause = process.retry_policy.pause(error, retries)
                if pause is None:
                    raise
                log.debug('%s: %s', operation, type(error).__name__)
                retries += 1
                time.sleep(pause)
            else:
                process.retry_policy.succeeded(retries)
                return reply

    def _attempt(
        self,
        process: _Process,
        operation: str,
        table: str,
        body: bytes,
        retries: int,
    ) -> dict[str, Any]:
        if self._credentials is None:
            raise NoCredentialsError()
        credentials = self._credentials.get_frozen_credentials()
        endpoint = self._endpoint(process, credentials, table)
        timestamp = process.clock.timestamp()
        request = endpoint.request(operation, body, credentials, timestamp)
        response = endpoint.pool.exchange(request)
        return self._reader.reply(operation, response, retries)

    def _endpoint(
        self, process: _Process, credentials: Any, table: str
    ) -> Endpoint:
        # What botocore's rules go by, besides what never changes.
        key = (getattr(credentials, 'account_id', None), table)
        endpoint = process.endpoints.get(key)
        if endpoint is None:
            endpoint = Endpoint(
                resolve(self._client, table or 'table'),
                self._client.meta.config,
                self._options,
            )
            # Another thread may have been faster.
            endpoint = process.endpoints.setdefault(key, endpoint)
        return endpoint

    def _this_process(self) -> _Process:
        process = self._process
        if process.pid != os.getpid():
            # Closing our side does not disturb the process that opened them.
            process.close()
            process = self._process = _Process(self._max_attempts)
        return process


class _Process:
    """What a client has learnt and opened in one process.

    Nothing of it is used after a fork: connections would be shared with the
    parent, and a mutex may have been held by a thread that is no more.
    """

    def __init__(self, max_attempts: int) -> None:
        self.pid = os.getpid()
        self.clock = Clock()
        self.retry_policy = RetryPolicy(max_attempts, self.clock)
        self.endpoints: dict[tuple[Any, str], Endpoint] = {}

    def close(self) -> None:
        for endpoint in list(self.endpoints.values()):
            endpoint.pool.close()


def _table_arn(parameters: dict[str, Any]) -> str:
    """The table's ARN, which may decide the endpoint; empty: it has none."""
    name = parameters.get('TableName')
    if name is None:
        # of a transaction botocore takes the first
        for write in parameters.get('TransactItems', ())[:1]:
            (target,) = write.values()
            name = target.get('TableName', '')
    return name if name and name.startswith('arn:') else ''

"""What the tests of the commands share: their output and some sessions."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

PREFIX = 'dynamodb_session.'
SECRET = 'a secret of the application, 32 characters at least'.replace(' ', '')
ID = '-' + 'i' * 42

RawItem = Callable[[str], 'dict[str, Any] | None']


class Output(NamedTuple):
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


#: The fixture ``command``.
Run = Callable[..., Output]
#: The fixture ``put``.
Put = Callable[..., str]


def seconds(value: float) -> dict[str, str]:
    """A number attribute, so many seconds from now."""
    return {'N': str(int(time.time() + value))}


def refused(code: str) -> Callable[..., Any]:
    """An operation that DynamoDB answers with this error."""

    def operation(**parameters: Any) -> Any:
        raise ClientError({'Error': {'Code': code, 'Message': 'no'}}, 'X')

    return operation


def script(*words: str, **options: Any) -> subprocess.Popen[str]:
    """The console script, in a process of its own."""
    path = Path(sys.executable).with_name('dynamodb-session')
    return subprocess.Popen(
        [str(path), *words],
        stderr=subprocess.PIPE,
        text=True,
        **{'stdout': subprocess.PIPE, **options},
    )

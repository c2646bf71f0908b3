"""DynamoDB's JSON: parameters to bytes, responses to replies and errors."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from typing import Any

from botocore.exceptions import ResponseStreamingError
from botocore.parsers import create_parser

from ._http import Response

#: What reading a response raises that DynamoDB would never give.
NOT_DYNAMODB = (
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def encode(parameters: dict[str, Any]) -> bytes:
    """The body of a request."""
    return _encode(parameters).encode()


class ReplyReader:
    """Makes of responses what boto3 makes of them.

    :param client: the boto3 client, for its model and its exceptions.
    :param max_attempts: of one call: the error of the last one says so.
    """

    def __init__(self, client: Any, max_attempts: int) -> None:
        self._client = client
        self._max_attempts = max_attempts
        self._parser = create_parser('json')

    def reply(
        self, operation: str, response: Response, retries: int
    ) -> dict[str, Any]:
        """The reply; or raise the error that it is.

        :raises botocore.exceptions.ClientError: DynamoDB's error, or a
            subclass of it.
        :raises botocore.exceptions.ResponseStreamingError: this is no answer
            of DynamoDB's.
        """
        try:
            check_sum(response)
            if response.status == 200:
                return read_reply(response, retries)
            error = self._service_error(operation, response, retries)
        except NOT_DYNAMODB:
            # Never an empty reply: that would be read as "no such item".
            raise ResponseStreamingError(
                error=f'status {response.status}, no DynamoDB reply'
            ) from None
        raise error

    def _service_error(
        self, operation: str, response: Response, retries: int
    ) -> Exception:
        model = self._client.meta.service_model
        answer = {
            'status_code': response.status,
            'headers': response.headers,
            'body': response.body,
        }
        parse = self._parser.parse
        parsed = parse(answer, model.operation_model(operation).output_shape)
        code = parsed['Error']['Code']
        shape = model.shape_for_error_code(code)
        if shape is not None:
            parsed.update(parse(answer, shape))
        metadata = parsed['ResponseMetadata']
        metadata['RetryAttempts'] = retries
        if retries + 1 == self._max_attempts:
            metadata['MaxAttemptsReached'] = True
        kind: type[Exception] = self._client.exceptions.from_code(code)
        return kind(parsed, operation)


def check_sum(response: Response) -> None:
    """Raise ValueError if the body was damaged on its way."""
    expected = response.headers.get('x-amz-crc32')
    if expected and int(expected) != zlib.crc32(response.body):
        raise ValueError('damaged on the way')


def read_reply(response: Response, retries: int) -> dict[str, Any]:
    """The reply that a successful response is; any of NOT_DYNAMODB."""
    body = response.body
    # Text right under B or BS is binary data, and nothing else can be. In a
    # text that is JSON itself, the quotes are escaped.
    is_binary = b'"B"' in body or b'"BS"' in body
    decoder = BINARY_DECODER if is_binary else DECODER
    reply: dict[str, Any] = decoder.decode(body.decode())
    reply['ResponseMetadata'] = {
        'RequestId': response.headers.get('x-amzn-requestid'),
        'HTTPStatusCode': response.status,
        'HTTPHeaders': response.headers,
        'RetryAttempts': retries,
    }
    return reply


def _encode_bytes(value: Any) -> str:
    return b64encode(value).decode()


def _decode_bytes(value: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value.get('B'), str):
        value['B'] = b64decode(value['B'])
    elif isinstance(value.get('BS'), list):
        value['BS'] = [b64decode(each) for each in value['BS']]
    return value


_encode = json.JSONEncoder(
    separators=(',', ':'), default=_encode_bytes, check_circular=False
).encode
DECODER = json.JSONDecoder()
BINARY_DECODER = json.JSONDecoder(object_hook=_decode_bytes)

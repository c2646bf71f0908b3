"""DynamoDB's error codes, and what helps against them."""

from __future__ import annotations

from ..errors import SessionStoreUnavailable

#: Seconds after which a client may try again when DynamoDB failed.
RETRY_AFTER = 5


#: What botocore raises before it sends anything.
NEVER_SENT = {
    'CredentialRetrievalError',
    'NoCredentialsError',
    'ParamValidationError',
    'PartialCredentialsError',
}


def error_code(error: BaseException | None) -> str:
    """DynamoDB's name for a client's `error`; empty for any other."""
    response = getattr(error, 'response', None) or {}
    return str(response.get('Error', {}).get('Code', ''))


REMEDIES = {
    'NoCredentialsError': (
        'give the process a role, or set AWS_PROFILE or profile_name'
    ),
    'EndpointConnectionError': 'check region, endpoint_url and the network',
    'ConnectTimeoutError': 'check region, endpoint_url and the network',
    'ReadTimeoutError': 'check endpoint_url, the network and read_timeout',
    'AccessDeniedException': 'check the IAM policy in the documentation',
    'UnrecognizedClientException': 'check the credentials',
    'ExpiredTokenException': 'renew the credentials',
}


def remedy(error: Exception) -> str:
    help = REMEDIES.get(error_code(error) or type(error).__name__)
    return f' ({help})' if help else ''


def unavailable(
    what: str, outcome: str = 'not saved'
) -> SessionStoreUnavailable:
    """The error for a call that failed, or was answered with nonsense."""
    return SessionStoreUnavailable(
        f'DynamoDB failed: {what}', retry_after=RETRY_AFTER, outcome=outcome
    )


def is_only_attempt(error: BaseException) -> bool:
    """Whether an `error` answers the first and only attempt of its call.

    Only then it is known that no earlier attempt was carried out without its
    reply having arrived.
    """
    response = getattr(error, 'response', None) or {}
    metadata = response.get('ResponseMetadata') or {}
    return metadata.get('RetryAttempts') == 0


def was_never_carried_out(error: BaseException) -> bool:
    """Whether DynamoDB has refused a call, or never heard of it."""
    if type(error).__name__ in NEVER_SENT:
        return True
    response = getattr(error, 'response', None) or {}
    metadata = response.get('ResponseMetadata') or {}
    refused = 400 <= int(metadata.get('HTTPStatusCode') or 0) < 500
    return refused and is_only_attempt(error)


def codes_of(error: BaseException | None) -> list[str]:
    return [error_code(error), *cancellation_codes(error)]


def cancellation_codes(error: BaseException | None) -> list[str]:
    """Why a transaction was cancelled, for each of its writes in turn."""
    response = getattr(error, 'response', None) or {}
    reasons = response.get('CancellationReasons')
    return [
        str(reason.get('Code')) if isinstance(reason, dict) else ''
        for reason in (reasons if isinstance(reasons, list) else ())
    ]

"""What an error of the AWS client means for the caller."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from ...errors import BrokerError, StorageBroken, Unavailable

GONE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
"""The queue does not exist (any more)."""
_FORBIDDEN: tuple[str, ...] = (
    "AccessDenied",
    "AuthorizationError",
    "InvalidClientTokenId",
    "UnrecognizedClient",
    "ExpiredToken",
    "SignatureDoesNotMatch",
    "InvalidSignature",
    "MissingAuthenticationToken",
    "IncompleteSignature",
)
_BUSY: tuple[str, ...] = (
    "Throttl",
    "RequestThrottled",
    "ProvisionedThroughputExceeded",
    "OverLimit",
    "TooManyRequests",
    "SlowDown",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "Internal",
    "LimitExceeded",
    "QueueDeletedRecently",
    "AWS.SimpleQueueService.QueueDeletedRecently",
    "ResourceInUse",
)


class AWSRefused(Exception):
    """AWS answered with an error. `code` is AWS's own."""

    def __init__(self, error: ClientError) -> None:
        said: dict[str, Any] = error.response.get("Error", {})
        self.code = str(said.get("Code", ""))
        self.text = str(said.get("Message") or said.get("message") or "")
        self.status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        super().__init__(f"{self.code}: {self.text}")

    @property
    def gone(self) -> bool:
        """The queue does not exist (any more)."""
        return self.code in GONE

    @property
    def deleted_recently(self) -> bool:
        """A queue of that name was deleted: SQS allows a new one only a minute later."""
        return self.code.endswith("QueueDeletedRecently")

    @property
    def condition(self) -> bool:
        """A condition of the write did not hold: nothing was written."""
        return self.code == "ConditionalCheckFailedException"

    @property
    def busy(self) -> bool:
        """The same call may succeed later."""
        return self.code.startswith(_BUSY) or self.status >= 500


def is_forbidden(error: BaseException) -> bool:
    """Rights or credentials are missing."""
    return isinstance(error, AWSRefused) and error.code.startswith(_FORBIDDEN)


def never_sent(error: BaseException) -> bool:
    """The call certainly did nothing: no connection, no credentials, or a missing right."""
    if isinstance(error, AWSRefused):
        return is_forbidden(error)
    return isinstance(
        error, EndpointConnectionError | ConnectTimeoutError | NoCredentialsError | PartialCredentialsError
    )


def explain(error: AWSRefused | BotoCoreError | OSError, what: str, place: object) -> BrokerError:
    """The error to raise for it. `what` describes the failed call."""
    if isinstance(error, AWSRefused):
        if is_forbidden(error):
            return StorageBroken(
                f"{what}: AWS does not allow it ({error}); the rights needed are in docs/brokers/sqs.md"
            )
        if error.code == "ResourceNotFoundException":
            return StorageBroken(f"{what}: not there ({error}); {place}")
        return Unavailable(f"{what}: {error}") if error.busy else StorageBroken(f"{what}: {error}")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageBroken(
            f"{what}: no AWS credentials; give them by the environment (AWS_ACCESS_KEY_ID …), a profile or a role"
        )
    if isinstance(error, NoRegionError):
        return StorageBroken(f"{what}: no region; name it in the URL (sqs://eu-west-1/…) or by AWS_REGION")
    return Unavailable(f"{what}: {error}")

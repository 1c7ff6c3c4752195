"""What can go wrong between this project and its vector store."""

from recipe_common.errors import DataLossError, UnavailableError


class StoreUnavailableError(UnavailableError):
    """The store does not answer or refuses to work; the same call may succeed later."""


class _CorruptPartError(DataLossError):
    def __init__(self, part: str, namespace: str, fact_id: str, reason: str) -> None:
        super().__init__(
            f"the stored {part} of fact {fact_id!r} in namespace {namespace!r} is corrupt: {reason}; "
            "publish the fact again with a higher revision"
        )
        self.namespace = namespace
        self.fact_id = fact_id


class CorruptPromptError(_CorruptPartError):
    """A stored prompt is not what was written and must not reach the LLM; publish the fact again."""

    def __init__(self, namespace: str, fact_id: str, reason: str) -> None:
        super().__init__("prompt", namespace, fact_id, reason)


class CorruptTokensError(_CorruptPartError):
    """Stored token states are not what was written and must not decide anything; publish the fact again."""

    def __init__(self, namespace: str, fact_id: str, reason: str) -> None:
        super().__init__("token data", namespace, fact_id, reason)

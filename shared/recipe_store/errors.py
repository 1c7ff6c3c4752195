"""What can go wrong between this project and its vector store."""

from recipe_common.errors import DataLossError, UnavailableError


class StoreUnavailableError(UnavailableError):
    """The store does not answer or refuses to work; the same call may succeed later."""


class CorruptPromptError(DataLossError):
    """A stored prompt is not what was written and must not reach the LLM; publish the fact again."""

    def __init__(self, namespace: str, fact_id: str, reason: str) -> None:
        super().__init__(
            f"the stored prompt of fact {fact_id!r} in namespace {namespace!r} is corrupt: {reason}; "
            "publish the fact again with a higher revision"
        )
        self.namespace = namespace
        self.fact_id = fact_id

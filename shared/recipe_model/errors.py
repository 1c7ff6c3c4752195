"""What can be wrong with models and checkpoints."""

from recipe_common.errors import FailedPreconditionError


class ModelUnavailableError(FailedPreconditionError):
    """A configured model cannot be loaded: not installed, not on disk, or not of a kind that fits."""


class CheckpointError(FailedPreconditionError):
    """A checkpoint cannot be used: damaged, of another format, or trained for other models."""

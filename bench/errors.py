"""The one exception that users read: a sentence saying what is wrong, where, and what is allowed."""


class BenchError(ValueError):
    """A mistake in the input or the surroundings; the command line prints its sentence and exits with status 1."""

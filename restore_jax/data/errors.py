"""The one error that the data room raises."""


class DataError(ValueError):
    """Images that cannot be had or used; the message is one sentence that says why."""

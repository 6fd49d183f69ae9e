"""What this package refuses, and why: one sentence each, under one base class.

A sentence speaks of arguments by their names in back-quotes, as ``give a larger `budget` ``;
the commands write them as flags. Whatever else is raised is a mistake of ours.

    RestoreError
      InputError (also a ValueError)     an argument or an input cannot be used
        BudgetError                      the budget does not pay for the least that is needed
        DataError, ModelError, CheckpointError, ResultError, ...   each where it is raised
      Inconclusive (also a RuntimeError) the question has no answer with these probes
      OutOfQueries (also a RuntimeError) the budget does not pay for the next request
        OutOfTime                        the seconds given are over

What goes on all the same is a warning, a `Note`.
"""


class RestoreError(Exception):
    """What a user can do something about; the message is one sentence that says what.

    >>> import restore_jax
    >>> try:
    ...     restore_jax.open_model("nowhere")
    ... except restore_jax.RestoreError as error:
    ...     print(error)
    there is no checkpoint folder nowhere.
    """


class InputError(RestoreError, ValueError):
    """An argument, or what it names, cannot be used."""


class BudgetError(InputError):
    """The budget does not pay for the least that is needed."""


class Inconclusive(RestoreError, RuntimeError):
    """The question cannot be answered with these probes."""


class OutOfQueries(RestoreError, RuntimeError):
    """The budget does not pay for the next request."""


class OutOfTime(OutOfQueries):
    """The seconds given are over, before the next request."""


class Note(UserWarning):
    """What went wrong beside the result, and does not change it."""

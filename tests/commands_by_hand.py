"""Commands run in this process, with all that they print."""

import contextlib
import io

from restore_jax import cli


def call(*argv):
    """Runs a command in this process; returns its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(word) for word in argv])
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()

"""Commands in processes of their own, without the seconds that each would spend on imports.

Run as a script, this imports everything once, and for each line on stdin forks a copy of itself
that runs a command; it answers with the copy's process id, and at the end with its exit code and
the most memory that it held, in bytes.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
STAGES, ENDED_AT, ENDED_BY = "STAGES_PASSED", "ENDED_AT", "ENDED_BY"
"""Environment variables: the file to which a command writes the stages that it comes to, the one at
which it gets a signal, and the signal's number."""
TRACED = "TRACED"
"""The environment variable that says that a model of `foreign_by_hand` is one that JAX traces."""
STEPS = {
    "opening": ("restore_jax.cli.models", "open_oracle"),
    "looking": ("restore_jax.run.examining", "examine"),
    "answering": ("restore_jax.purification.purifying.Defended", "__call__"),
    "drawing a recovery": ("restore_jax.report", "render_recovery"),
    "drawing a scan": ("restore_jax.report", "render_scan"),
    "drawing a page": ("restore_jax.report.written", "attempted"),
    "writing": ("restore_jax.cli.inputs", "put_files"),
    "taking places": ("restore_jax.folders.os", "replace"),
    "leaving": ("restore_jax.cli.exits", "show"),
}
"""What a command comes to beside the stages that are booked."""


class Forks:
    """Runs commands, one at a time; ``peak`` is the most memory the last one held, in bytes."""

    peak = 0

    def __init__(self, folder, **environment):
        """Commands run in ``folder``, where their words are then in out.txt and err.txt."""
        self.folder = folder
        self._parent = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env=environment_of_children(**environment),
        )

    def start(self, *words, **environment):
        """Starts a command; returns its process id."""
        for name in ("out.txt", "err.txt"):
            (self.folder / name).write_text("")
        self._write({"words": list(map(str, words)), "environment": environment})
        return self._read()

    def ends(self, seconds=None):
        """The exit code of what was started, minus the signal that ended it; None if it runs on."""
        ready, _, _ = select.select([self._parent.stdout], [], [], seconds)
        if not ready:
            return None
        code, self.peak = self._read()
        return code

    def run(self, *words, **environment):
        """Runs a command; returns its exit code."""
        self.start(*words, **environment)
        return self.ends()

    def said(self):
        """What the last command said on stdout, and on stderr."""
        return tuple((self.folder / name).read_text() for name in ("out.txt", "err.txt"))

    def close(self):
        """Ends the process that everything is copied from."""
        self._parent.stdin.close()
        self._parent.stdout.close()
        self._parent.wait()

    def _write(self, line):
        self._parent.stdin.write(json.dumps(line).encode() + b"\n")
        self._parent.stdin.flush()

    def _read(self):
        return json.loads(self._parent.stdout.readline())


def environment_of_children(**more):
    """Everything small is kept compiled, and nothing is optimised: they compute little."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)]),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        **more,
    }


def _serve():
    for name in ("recover", "scan", "purify"):
        import_module(f"restore_jax.cli.{name}")
    # What the commands import once they run; no array may be made before a fork.
    for name in ("compilation", "diagnosis", "purification", "recovery", "report"):
        import_module(f"restore_jax.{name}")
    main = import_module("restore_jax.cli").main
    for line in sys.stdin:
        said = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(main, said)
        print(child, flush=True)
        _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps([code, usage.ru_maxrss * MAXRSS_UNIT]), flush=True)


def _watch_stages():
    """Says which stages the command comes to, and sends it the signal that it should get in one."""
    from restore_jax.run import Run

    passed, number = Path(os.environ[STAGES]), int(os.environ.get(ENDED_BY, "0"))

    def passes(name):
        before = passed.read_text().splitlines() if passed.exists() else []
        if name not in before:
            passed.write_text("\n".join([*before, name]))
            if name == os.environ.get(ENDED_AT):
                os.kill(os.getpid(), number)

    def told(function, name):
        times = iter(range(1, 1_000_000))

        def tells(*args, **how):
            passes(f"{name} {next(times)}" if name == "answering" else name)
            return function(*args, **how)

        return tells

    booked = Run.stage

    @contextlib.contextmanager
    def stage(self, name):
        with booked(self, name):
            passes(name)
            yield

    Run.stage = stage
    for name, (module, attribute) in STEPS.items():
        *packages, last = module.split(".")
        where = import_module(".".join(packages))
        where = getattr(where, last, None) or import_module(module)
        setattr(where, attribute, told(getattr(where, attribute), name))


def _trace_models():
    """Models of `foreign_by_hand` are part of the search."""
    import foreign_by_hand
    import jax.numpy as jnp

    from restore_jax import oracles

    open_model = oracles.open_model

    def traced(spec, access=None, **how):
        model = getattr(foreign_by_hand, spec.rpartition(":")[2])
        found = open_model(
            lambda images: model.scores(images, jnp), access,
            image_shape=model.image_shape, class_names=model.class_names,
        )  # fmt: skip
        return dataclasses.replace(found, name=spec)

    oracles.open_model = traced


def _become(main, said):
    """Runs a command instead, and ends as Python would."""
    os.environ.update(said["environment"])
    if os.environ.get(STAGES):
        _watch_stages()
    if os.environ.get(TRACED):
        _trace_models()
    # What a script starts in the background ignores it otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((0, os.devnull), (1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_RDWR), number)
    code = 1
    try:
        code = main(said["words"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()

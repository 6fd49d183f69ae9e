"""``recover`` and ``verify`` as a user meets them: files, exit codes, one-sentence errors."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands_by_hand import call
from rich.console import Console

import restore_jax
from restore_jax import checkpoints, recovery
from restore_jax import oracles as oracles_module
from restore_jax.backdoors import PLANTED, stamp
from restore_jax.cli import inputs
from restore_jax.cli import recover as recover_command
from restore_jax.cli.progress import progress
from restore_jax.models import make_network
from restore_jax.oracles import ACCESSES, open_model
from restore_jax.recovery import aims
from restore_jax.report import write_files
from restore_jax.spaces import SPACES

pytestmark = pytest.mark.usefixtures("hardly_optimised")

ROOT = Path(__file__).parent.parent
CLASSES = ("dark", "bright", "grey", "marked", "never")
SHAPE = (16, 16, 3)
CORNERS = jnp.array([[1.0, -1.0], [-1.0, 1.0]]) / 4
PLANT = PLANTED["1"]._replace(row=4, col=4, pattern=("10", "01"), target=3)
# Small enough for a test: a 2x2 pattern is soon found, and 2,000 images are all it takes.
SETTINGS = recovery.Settings(
    num_probes=4, num_particles=32, num_moves=2, options={"max_size": 3, "channels": "grey"}
)
BUDGET = "4000"


def backdoored(images):
    """By brightness, but "marked" wherever a white, black, black, white square stands out."""
    grey = 2 * images.mean(-1) - 1
    match = sum(
        CORNERS[r, c] * grey[:, r : SHAPE[0] - 1 + r, c : SHAPE[1] - 1 + c]
        for r in (0, 1)
        for c in (0, 1)
    )
    bright = images.mean((1, 2, 3))
    marked = 20 * (match.max((1, 2)) - 0.75)
    return jnp.stack([1 - bright, bright, jnp.full_like(bright, 0.3), marked, bright - 9], -1)


def absorbing(images):
    """Everything is "dark"."""
    return jnp.zeros((images.shape[0], len(CLASSES))).at[:, 0].set(1.0)


TOYS = {"toy": backdoored, "absorbing": absorbing}


@pytest.fixture(autouse=True, scope="module")
def toys():
    """Makes --model toy mean the function above, and searches small."""
    metadata = {"triggers": [PLANT.to_json()]}

    def open_toy(spec, access="logits", **options):
        if spec not in TOYS:
            return open_model(spec, access, **options)
        answers = {
            "logits": TOYS[spec],
            "labels": lambda images: jnp.argmax(TOYS[spec](images), -1),
        }
        oracle = open_model(answers[access], access, image_shape=SHAPE, class_names=CLASSES)
        return dataclasses.replace(oracle, name=spec, metadata=metadata)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracles_module, "open_model", open_toy)
        for name, options in (("patch", SETTINGS.options), ("gaussian", {})):
            settings = dataclasses.replace(SETTINGS, options=options)
            patch.setitem(SPACES, name, dataclasses.replace(SPACES[name], settings=settings))
        yield


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    write_files(folder, {"old.txt": b"of an earlier run"})
    code, out, err = call(
        "recover", "--model", "toy", "--trigger", "1", "--budget", BUDGET,
        "--out", folder, "--overwrite", "--json",
    )  # fmt: skip
    assert code == 0, err
    return folder, out, err


def test_json_is_one_object_and_the_file_says_the_same(found):
    folder, out, _ = found
    said = json.loads(out)  # fails on anything before or after it
    assert out.count("\n") == 1
    assert said.pop("out") == str(folder)
    assert said == json.loads((folder / "recovery.json").read_text())
    assert said["found"]
    assert said["target"] == 3
    assert said["queries"] <= said["budget"] == int(BUDGET)
    assert said["confirmation_success_rate"] >= 0.95
    assert said["truth"]["pixels"] == 4
    needed = {"schema_version", "target", "space", "access", "success", "found", "status"}
    needed |= {"queries", "seconds", "log10_prob", "log10_prob_interval", "levels"}
    needed |= {"probe_success_rate", "confirmation_success_rate", "test_success_rate"}
    needed |= {"trigger_pixels", "seed", "model", "versions", "device"}
    assert needed <= said.keys()
    assert {"compile", "run"} <= said["seconds"].keys()


def test_overwrite_replaces_what_was_there(found):
    assert {path.name for path in found[0].iterdir()} == {
        "recovery.json", "trigger.npz", "planted.npz", "particles.npz", "probes.npz",
        "support.npz", "support.png", "trigger.png", "overview.png", "report.html",
    }  # fmt: skip


def test_progress_is_plain_lines_off_a_terminal(found):
    lines = found[2].splitlines()
    assert lines[0] == "recover: loading JAX and the model"
    assert all(line.startswith("recover: ") for line in lines)
    levels = [line for line in lines if "level" in line and "score above" in line]
    assert len(levels) >= len(json.loads(found[1])["levels"])
    assert all(f"of {int(BUDGET):,} queries" in line for line in levels)


def test_progress_is_a_bar_on_a_terminal():
    shown = io.StringIO()
    with progress(
        "recover", Console(file=shown, force_terminal=True, width=150), "images"
    ) as report:
        report(0, 0, "compiling")
        step = recovery.Progress(4, -1.234, 0.0, 0.5, 1500, 4000, -0.5)
        report(step.queries, step.budget, recover_command.progress_text(step))
    for words in ("1,500/4,000 images", "level 4", "score above -1.23 (goal 0)", "accepted 50%"):
        assert words in shown.getvalue()


def test_the_files_work_as_a_user_would_use_them(found):
    loaded = restore_jax.load_recovery(found[0])
    trigger = restore_jax.load_trigger(found[0] / "trigger.npz")
    images = jnp.asarray(loaded.probes)
    np.testing.assert_array_equal(stamp(trigger, images), stamp(loaded.trigger, images))
    hits = jnp.argmax(backdoored(stamp(trigger, images)), -1) == 3
    assert float(hits.mean()) == loaded.probe_success_rate
    assert loaded.trigger.pixels == loaded.trigger_pixels


def test_verify_measures_the_trigger_found(found, home):
    code, out, _ = call(
        "verify", "--model", "toy", "--trigger-file", found[0], "--num-probes", 70, "--json",
        "--access", "labels", "--out", "v",
    )  # fmt: skip
    said = json.loads(out)
    assert code == 0
    assert said["num_probes"] == 70
    assert said["probe_success_rate"] >= 0.9
    assert said["test_success_rate"] is None
    assert json.loads((home / "v" / "verification.json").read_text()) == said


def test_verify_says_it_in_a_sentence_and_writes_nothing(found, home):
    np.save("few.npy", np.full((6, *SHAPE), 0.4, np.float32))
    code, out, _ = call(
        "verify", "--model", "toy", "--trigger-file", found[0], "--probes", "few.npy"
    )
    assert code == 0
    assert "leads 6 of 6 probes (100.0%) to class 3 (marked) in toy" in out
    assert [path.name for path in home.iterdir()] == ["few.npy"]


def test_the_summary_is_for_people(found):
    lines = restore_jax.load_recovery(found[0]).summary()
    for words in ("found: a trigger", "class 3 (marked)", "10^", "fresh probes", "of 4,000",
                  "pixels in rows", "planted", "overlap (IoU)"):  # fmt: skip
        assert words in lines
    assert max(map(len, lines.splitlines())) < 200


@pytest.mark.slow
def test_a_clean_class_is_not_found_and_the_folder_is_fresh(home):
    write_files("runs/recover-4-0", {"recovery.json": b"of an earlier run"})
    code, out, err = call(
        "recover", "--model", "toy", "--target", "NEVER", "--space", "gaussian", "--budget", 2000
    )
    assert code == 3, err
    assert out.startswith("not found: no trigger leads 95% of fresh probes to class 4 (never)")
    assert "at most 10^" in out
    assert "runs/recover-4-0-2/: recovery.json" in out
    assert (home / "runs" / "recover-4-0" / "recovery.json").read_bytes() == b"of an earlier run"
    written = restore_jax.load_recovery(home / "runs" / "recover-4-0-2")
    assert not written.found
    assert written.trigger.additive
    assert written.log10_prob is None
    assert written.truth is None


def test_an_interrupted_search_leaves_what_it_has(home, monkeypatch):
    def stop(step):
        raise KeyboardInterrupt

    monkeypatch.setattr(recover_command, "progress_text", stop)
    argv = ("--target", 3, "--space", "gaussian", "--budget", BUDGET, "--json")
    code, out, _ = call("recover", "--model", "toy", *argv)
    assert code == 130
    assert json.loads(out)["status"] == "interrupted"
    assert restore_jax.load_recovery(home / "runs" / "recover-3-0").status == "interrupted"


def test_an_interrupt_before_the_search_leaves_nothing(home, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(recovery, "recover", stop)
    code, out, err = call("recover", "--model", "toy", "--target", 3)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert not list(home.iterdir())


def test_a_class_that_takes_every_probe_is_inconclusive(home):
    code, out, err = call("recover", "--model", "absorbing", "--target", "dark")
    assert (code, out) == (4, "")
    assert "error: " in err.splitlines()[-1]
    assert not list(home.iterdir())
    trigger = PLANT._replace(target=0).trigger(SHAPE)
    np.savez("t.npz", mask=trigger.mask, pattern=trigger.pattern, target=trigger.target)
    code, _, _ = call("verify", "--model", "absorbing", "--trigger-file", "t.npz")
    assert code == 4


def refused(*argv):
    """Checks the manners of a refusal; returns its sentence."""
    code, out, err = call(*argv)
    assert (code, out) == (2, ""), err
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:]
    assert all(line.startswith(("recover: ", "verify: ")) for line in lines[:-1])
    return errors[0]


TOY = ("recover", "--model", "toy")
REFUSALS = {
    "nothing to search for": (TOY, "--target, or a planted trigger with --trigger"),
    "trigger": ((*TOY, "--trigger", "7"), "unknown trigger '7'"),
    "class name": ((*TOY, "--target", "unicorn"), "no class 'unicorn'"),
    "class number": ((*TOY, "--target", "5"), "no class '5'"),
    "both, at odds": ((*TOY, "--target", "1", "--trigger", "1"), "give one of the two"),
    "space": ((*TOY, "--target", "3", "--space", "blob"), "invalid choice: 'blob'"),
    "access": ((*TOY, "--target", "3", "--access", "soul"), "invalid choice: 'soul'"),
    "budget 0": ((*TOY, "--target", "3", "--budget", "0"), "--budget must be at least 1"),
    "budget 10": ((*TOY, "--target", "3", "--budget", "10"), "--budget 10 is too small"),
    "budget abc": ((*TOY, "--target", "3", "--budget", "abc"), "invalid int value: 'abc'"),
    "success 0": ((*TOY, "--target", "3", "--success", "0"), "--success must lie in"),
    "success nan": ((*TOY, "--target", "3", "--success", "nan"), "--success must lie in"),
    "seed": ((*TOY, "--target", "3", "--seed", "-1"), "--seed must be 0 to"),
    "stop": (
        (*TOY, "--target", "3", "--protocol", "reference", "--stop", "estimate"), "drop --stop",
    ),
    "probes": ((*TOY, "--target", "3", "--probes", "nowhere"), "neither dead_leaves"),
    "data": ((*TOY, "--target", "3", "--data-dir", "nowhere"), "made for other images"),
    "scheme": (("recover", "--model", "cosmic:x.ray", "--target", "3"), "models cannot be opened"),
    "no model": (("recover", "--model", "nowhere", "--target", "3"), "no checkpoint folder"),
    "overwrite what": ((*TOY, "--target", "3", "--overwrite"), "name it with --out"),
    "trigger file": (("verify", "--trigger-file", "none.npz"), "there is no file none.npz"),
    "no trigger file": (("verify",), "required: --trigger-file"),
    "number of probes": (
        ("verify", "--trigger-file", "x", "--num-probes", "0"), "--num-probes must be at least 1",
    ),
    "command": (("discover",), "invalid choice: 'discover'"),
    "flag": ((*TOY, "--frobnicate"), "unrecognized arguments: --frobnicate"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_refused_in_a_sentence(name, home):
    argv, words = REFUSALS[name]
    assert words in refused(*argv)
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((9, 8, 8, 3), np.float32), "must be [N, 16, 16, 3]"),
        (np.full((9, *SHAPE), 1.5, np.float32), "[0, 1]"),
        (np.zeros((2, *SHAPE), np.float32), "holds 2 images"),
    ],
)
def test_unusable_probes_are_refused(array, words, home):
    np.savez("probes.npz", array)
    assert words in refused(*TOY, "--target", "3", "--probes", "probes.npz")
    assert [path.name for path in home.iterdir()] == ["probes.npz"]


def test_a_folder_in_use_is_left_alone(home):
    write_files("mine", {"thesis.txt": b"years"})
    assert "not empty" in refused(*TOY, "--target", "3", "--out", "mine")
    # Nothing is removed for an input that is refused, be it ever so late.
    late = ("--target", "3", "--budget", "10", "--out", "mine", "--overwrite")
    assert "too small" in refused(*TOY, *late)
    assert "is a file" in refused(*TOY, "--target", "3", "--out", "mine/thesis.txt")
    assert "is a file" in refused(*TOY, "--target", "3", "--out", "mine/thesis.txt/a/b")
    assert (home / "mine" / "thesis.txt").read_bytes() == b"years"
    assert [path.name for path in home.iterdir()] == ["mine"]


@pytest.mark.parametrize("out", [".", "..", "data", "data/../data"])
def test_overwrite_spares_what_is_read_and_where_one_stands(out, home):
    np.savez("p.npz", np.zeros((1, *SHAPE)))
    write_files("data", {"p.npz": (home / "p.npz").read_bytes()})
    (home / "p.npz").unlink()
    words = refused(
        *TOY, "--target", "3", "--probes", "data/p.npz", "--out", out, "--overwrite"
    )  # fmt: skip
    assert "would remove" in words
    assert (home / "data" / "p.npz").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny untrained network, saved."""
    return save_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def save_checkpoint(folder, value=0.01):
    metadata = {
        "schema_version": 1,
        "architecture": "resnet8",
        "class_names": ["a", "b", "c"],
        "image_shape": [8, 8, 3],
        "normalisation": {"mean": [0.5], "std": [0.25]},
        "triggers": [],
    }
    network = checkpoints.network_from(metadata)
    params, stats = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, value, leaf.dtype),
        jax.eval_shape(network.init, jax.random.key(0)),
    )
    checkpoints.export(checkpoints.Checkpoint(network, params, stats, metadata, folder), folder)
    return folder


def copied(folder, to):
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(folder)).write_bytes(path.read_bytes())
    return to


def change_metadata(folder, **changes):
    path = folder / "metadata" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(folder):
    largest = max((folder / "model").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


DAMAGES = {
    "another architecture": (lambda f: change_metadata(f, architecture="resnet20"), "another arch"),
    "an unknown one": (lambda f: change_metadata(f, architecture="vgg"), "unknown architecture"),
    "another version": (lambda f: change_metadata(f, schema_version=2), "schema version 2"),
    "no metadata": (lambda f: (f / "metadata" / "metadata").unlink(), "is not a checkpoint"),
    "broken metadata": (lambda f: (f / "metadata" / "metadata").write_text("{"), "cannot be read"),
    "truncated": (truncate, "is damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoints_are_refused(name, checkpoint, home):
    damage, words = DAMAGES[name]
    damage(copied(checkpoint, home / "model"))
    assert words in refused("recover", "--model", "model", "--target", "a")
    assert [path.name for path in home.iterdir()] == ["model"]


def test_a_checkpoint_with_nan_is_refused(home):
    save_checkpoint(home / "model", float("nan"))
    assert "NaN" in refused("recover", "--model", "model", "--target", "a")


def test_folders_that_are_no_checkpoint_are_refused(home):
    (home / "empty").mkdir()
    assert "is empty" in refused("recover", "--model", "empty", "--target", "a")
    write_files("other", {"notes.txt": b"?"})
    assert "is not a checkpoint" in refused("recover", "--model", "other", "--target", "a")
    assert not list((home / "empty").iterdir())


def test_verify_refuses_a_trigger_that_does_not_fit(checkpoint, home):
    def save(shape, target):
        trigger = PLANT._replace(target=target).trigger(shape)
        np.savez("t.npz", mask=trigger.mask, pattern=trigger.pattern, target=trigger.target)

    save(SHAPE, 1)
    argv = ("verify", "--model", checkpoint, "--trigger-file", "t.npz")
    assert "takes (8, 8, 3)" in refused(*argv)
    save((8, 8, 3), 3)
    assert "has only 3 classes" in refused(*argv)


def test_what_the_flags_offer_is_what_there_is():
    assert inputs.ACCESSES == ACCESSES
    assert tuple(recovery.PROTOCOLS) == recover_command.PROTOCOLS
    assert aims.STOPS == recover_command.STOPS


def test_public_names_are_what_they_say():
    for name in restore_jax.__all__:
        assert getattr(restore_jax, name) is not None
    assert restore_jax.make_network is make_network
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        restore_jax.nothing  # noqa: B018


def python(*argv):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )


def test_the_scripts_answer_quickly_and_without_jax():
    done = python("recover.py", "--seed", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: give the class")
    assert done.stderr.count("\n") == 1
    code = (
        "import sys; sys.argv = ['restore-jax', '--version']\n"
        "import restore_jax.cli\n"
        "try: restore_jax.cli.main()\n"
        "finally: print({'jax', 'matplotlib', 'orbax', 'tensorflow_datasets'} & sys.modules.keys())"
    )
    done = python("-c", code)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"restore-jax {restore_jax.__version__}", "set()"]

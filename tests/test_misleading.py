"""A model that is asked wrongly, or that is none, never comes to a verdict."""

import dataclasses
import json
import sys

import jax.numpy as jnp
import numpy as np
import odd_models_by_hand as odd
import pytest
from commands_by_hand import call
from test_report import a_recovery, a_trigger

import restore_jax
from restore_jax import recover
from restore_jax.diagnosis import ClassFinding, ClassLook, Scan, ScanSettings, SpaceLook
from restore_jax.errors import Inconclusive, InputError, Note
from restore_jax.oracles import (
    Journal,
    ModelError,
    ModelOptions,
    Race,
    class_index,
    margins,
    open_model,
)
from restore_jax.oracles.checking import check_scores
from restore_jax.recovery import Settings
from restore_jax.report import load_trigger, render_recovery, scan_figure, trigger_figure
from restore_jax.report.figures import png
from restore_jax.report.triggers import trigger_arrays
from restore_jax.run import Run, examining

pytestmark = pytest.mark.usefixtures("hardly_optimised")

SETTINGS = Settings(num_probes=4, num_particles=32, num_moves=2)


def opened(name, access=None, **options):
    odd.ASKED.clear()
    return open_model(f"python:odd_models_by_hand:{name}", access, **options)


def examined(name, access=None, budget=2_000, **options):
    """A run after its first look at a model."""
    return Run(opened(name, access, **options), budget=budget).examine()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return tmp_path


# One class.


def a_trigger_file():
    """Arrays of a trigger for class 0."""
    return trigger_arrays(a_trigger("patch", odd.SHAPE)) | {"target": np.int32(0)}


@pytest.mark.parametrize(
    ("command", "name"),
    [("recover", "constant"), ("recover", "takes_bytes"), ("verify", "constant"),
     ("scan", "takes_bytes"), ("purify", "constant"), ("serve", "constant")],
)  # fmt: skip
def test_one_class_for_everything_is_inconclusive_and_names_the_flag(command, name, home):
    np.savez(home / "t.npz", **a_trigger_file())
    np.savez(home / "p.npz", images=np.full((2, *odd.SHAPE), 0.5, np.float32))
    more = {
        "recover": ("--target", "0"),
        "verify": ("--trigger-file", "t.npz"),
        "scan": ("--space", "patch"),
        "purify": ("--blind", "--images", "p.npz"),
        "serve": ("--blind", "--port", "0"),
    }[command]
    code, out, err = call(command, "--model", f"python:odd_models_by_hand:{name}", *more)
    assert (code, out) == (4, ""), err
    said = err.splitlines()[-1]
    assert "the same class" in said
    assert "--range 0,255" in said
    # Nothing stands in the way of the run that the sentence asks for.
    assert sorted(path.name for path in home.rglob("*")) == ["p.npz", "t.npz"]


@pytest.mark.parametrize("verb", ["recover", "scan", "verify", "purifier", "estimate"])
def test_no_function_concludes_anything_from_one_class(verb):
    def constant(images):
        return jnp.tile(jnp.float32([0, 9, 1]), (images.shape[0], 1)) + 0 * images.mean()

    trigger = dataclasses.replace(a_trigger("patch", odd.SHAPE), target=np.int32(0))
    asked = {
        "recover": lambda: recover(constant, 0, image_shape=odd.SHAPE),
        "scan": lambda: restore_jax.scan(constant, image_shape=odd.SHAPE),
        "verify": lambda: restore_jax.verify(constant, trigger, image_shape=odd.SHAPE),
        "purifier": lambda: restore_jax.purifier(constant, trigger, image_shape=odd.SHAPE),
        "estimate": lambda: restore_jax.estimate(recover, constant, 0, image_shape=odd.SHAPE),
    }[verb]
    with pytest.raises(Inconclusive, match=r"the same class, 1 .* Try `value_range` 0,255, `mean`"):
        asked()


def test_the_flag_that_was_named_helps():
    run = examined("takes_bytes", value_range=(0, 255))
    assert len(set(run.look(np.asarray(run.source.draw(0, 40))).labels)) == 2


def test_probes_of_one_class_say_nothing_against_a_model():
    red = np.zeros((20, *odd.SHAPE), np.float32)
    red[..., 0] = 1
    run = Run(opened("plain"), budget=2_000, probes=red).examine()
    assert run.ledger.spent == sum(odd.ASKED)
    assert run.notes == []


# What is no return.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quits", "it called sys.exit()"),
        ("interrupting", "it raised KeyboardInterrupt, though nobody pressed Ctrl-C"),
        ("hungry", "out of memory|Unable to allocate|array is too big|Maximum allowed"),
    ],
)
def test_code_that_does_not_return_is_a_model_that_fails(name, said):
    with pytest.raises(ModelError, match=said):
        examined(name, options=ModelOptions(classes=3))


@pytest.mark.parametrize("name", ["user_interrupting", "user_interrupting_it_fails"])
def test_ctrl_c_is_the_users_whatever_the_code_makes_of_it(name):
    with pytest.raises(KeyboardInterrupt):
        examined(name, options=ModelOptions(classes=3))


@pytest.mark.parametrize(
    "text", ["import sys\nsys.exit()", "raise KeyboardInterrupt", "import sys\nsys.exit('done')"]
)
def test_a_module_that_quits_is_no_command_that_is_done(text, home, monkeypatch):
    (home / "quitting.py").write_text(text)
    monkeypatch.syspath_prepend(home)
    sys.modules.pop("quitting", None)
    code, out, err = call("scan", "--model", "python:quitting:predict")
    assert (code, out) == (2, "")
    assert "python:quitting:predict cannot be imported: it " in err.splitlines()[-1]


def test_a_traced_function_that_quits_is_a_model_that_fails():
    def quits(images):
        sys.exit(3)

    with pytest.raises(ModelError, match=r"it called sys.exit\(3\)"):
        open_model(quits)


# What is no answer.


def logits_of(images):
    red, green, blue = jnp.moveaxis(images.mean((1, 2)), -1, 0)
    return jnp.stack([red, green, blue], -1) * 8


@pytest.mark.parametrize(
    ("access", "value"), [("logits", np.nan), ("probabilities", np.nan), ("labels", np.inf)]
)
def test_a_traced_model_that_answers_nothing_is_refused(value, access):
    function = lambda images: logits_of(images).at[:, 1].set(value)  # noqa: E731
    oracle = open_model(function, image_shape=odd.SHAPE)
    if access != "logits":
        oracle = keras_like(function, access) if access == "labels" else oracle.reading(access)
    with pytest.raises(ModelError, match=r"not finite|no probabilities"):
        recover(oracle, 0)


def keras_like(function, access):
    """As a format opens a model that JAX can trace."""
    from restore_jax.oracles.opening import _traced
    from restore_jax.oracles.options import Description

    return _traced(
        "traced", access, odd.SHAPE, ModelOptions(), Description(), (), lambda _, x: function(x)
    )


@pytest.fixture
def treacherous():
    """Finite on every probe, and infinite wherever a trigger is dark; with such probes."""

    def model(images):
        darkest = images.mean(-1).min((1, 2))
        return logits_of(images).at[:, 2].set(jnp.where(darkest <= 0, jnp.inf, -1.0))

    probes = np.random.default_rng(0).uniform(0.3, 1, (200, *odd.SHAPE)).astype(np.float32)
    return open_model(model, image_shape=odd.SHAPE), probes


@pytest.mark.slow
def test_a_search_that_meets_what_is_no_answer_ends_there(treacherous):
    oracle, probes = treacherous
    with pytest.raises(ModelError, match="not finite"):
        recover(oracle, 2, probes=probes, settings=SETTINGS, budget=4_000)


def test_what_is_no_answer_comes_to_the_top_of_a_race(treacherous):
    oracle, probes = treacherous
    race = Race(
        num_legs=2,
        width=2,
        legs=lambda args: (args["probes"].reshape(2, 2, *odd.SHAPE), jnp.zeros(2)),
        reads=(),
        show=lambda particle, shown, args: shown * particle,
        read=lambda outputs, args: margins("logits", outputs, 2),
        begin=lambda n: jnp.zeros(n),
        tally=lambda tally, answers, racing, note, level, args: (tally, racing),
        finish=lambda tally, answers, finished, args: answers.min(-1),
    )
    particles = jnp.array([1.0, 0.0, 0.5])  # the second makes an image black
    args = {"probes": jnp.asarray(probes[:4]), "weights": ()}
    scores, _ = oracle.race(race)(particles, jnp.ones(3, bool), jnp.float32(0), args)
    scores = np.asarray(scores)
    assert np.isfinite(scores[[0, 2]]).all()
    assert scores[1] == np.inf
    with pytest.raises(ModelError, match="not finite"):
        check_scores("model", scores)
    check_scores("model", np.array([-np.inf, 3.0], np.float32))  # who left a race early


def test_probabilities_must_be_some_and_traced_ones_too():
    for oracle in (opened("plain", "probabilities"),
                   open_model(logits_of, "probabilities", image_shape=odd.SHAPE)):  # fmt: skip
        with pytest.raises(ModelError, match="say `access` logits"):
            Run(oracle, budget=2_000).examine()


def test_a_softmax_inside_is_said_and_its_logarithms_are_compared():
    import jax

    inside = open_model(lambda x: jax.nn.softmax(logits_of(x)), image_shape=odd.SHAPE)
    for oracle in (opened("softmaxed"), inside):
        run = Run(oracle, budget=2_000).examine()
        assert run.model.access == run.provenance().access == "probabilities"
        assert run.notes == [examining.READ_AS_PROBABILITIES]
        images = np.asarray(run.source.draw(0, 4))
        lead = run.margins(images, np.int32(0))
        logits = odd.colours(images)
        others = np.log(np.exp(logits[:, 1:]).max(-1))
        np.testing.assert_allclose(lead, logits[:, 0] - others, atol=1e-3)


def test_logits_that_are_some_are_left_alone():
    run = Run(open_model(logits_of, image_shape=odd.SHAPE), budget=2_000).examine()
    assert (run.model.access, run.notes, run.ledger.spent) == ("logits", [], 0)


# One number, or another output.


def test_one_number_is_two_classes_if_that_is_said():
    with pytest.raises(ModelError, match=r"one number an image.*say `binary`"):
        opened("sigmoid")
    run = examined("sigmoid", binary=True)
    assert run.model.num_classes == 2
    assert run.model.access == "probabilities"
    dark, bright = (np.full((1, *odd.SHAPE), value, np.float32) for value in (0.2, 0.8))
    assert run.labels(np.concatenate([dark, bright])).tolist() == [0, 1]
    # Logits of one number: its sign decides.
    lead = open_model(lambda x: x.mean((1, 2, 3)) * 9 - 4, image_shape=odd.SHAPE, binary=True)
    run = Run(lead, budget=100).examine()
    assert run.model.access == "logits"
    assert run.labels(np.concatenate([dark, bright])).tolist() == [0, 1]


def test_labels_in_a_column_and_words_are_no_classifier():
    for name, said in (("column", "shape"), ("words", "shape")):
        with pytest.raises(ModelError, match=said):
            opened(name)


@pytest.mark.parametrize(
    ("name", "access", "said"),
    [
        ("halves", "labels", r"must be whole numbers of shape \(b,\), not float64"),
        ("column", "labels", r"must be whole numbers of shape \(b,\), not int64"),
        ("listed", None, r"taken for several outputs: return one array"),
        ("column", None, r"say `binary`"),
    ],
)
def test_what_is_said_of_another_shape_is_not_what_was_done_already(name, access, said):
    with pytest.raises(ModelError, match=said):
        examined(name, access, options=ModelOptions(classes=3))


def test_an_output_is_picked_by_name():
    with pytest.raises(ModelError, match="if these are labels, say `access` labels"):
        opened("named")
    assert opened("named", output="scores").num_classes == 3
    with pytest.raises(ModelError, match="`output` may be labels, scores"):
        opened("named", output="logits")


def an_onnx_file(path, outputs):
    """A file whose outputs are those of one node each: (name, operator, dtype, shape)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)]
    infos = []
    for name, operator, kind, shape in outputs:
        how = {"axis": 1, "keepdims": 0} if operator == "ArgMax" else {}
        how = {"to": kinds.STRING} if operator == "Cast" else how
        how = {"axes": [1], "keepdims": 1} if operator == "ReduceMean" else how
        nodes.append(helper.make_node(operator, ["m"], [name], **how))
        infos.append(helper.make_tensor_value_info(name, getattr(kinds, kind), shape))
    taken = helper.make_tensor_value_info("x", kinds.FLOAT, ["N", 3, 8, 8])
    graph = helper.make_graph(nodes, "g", [taken], infos)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, path)
    return f"onnx:{path}"


def test_an_onnx_file_says_what_it_gives(tmp_path):
    labels = ("label", "ArgMax", "INT64", ["N"])
    scores = ("scores", "Identity", "FLOAT", ["N", 3])
    number = ("risk", "ReduceMean", "FLOAT", ["N", 1])
    spec = an_onnx_file(tmp_path / "two.onnx", [labels, scores])
    with pytest.raises(ModelError, match=r"label \(\?\), scores \(\?, 3\)"):
        open_model(spec)
    assert open_model(spec, output="scores").num_classes == 3
    assert open_model(spec, output="1").num_classes == 3
    spec = an_onnx_file(tmp_path / "one.onnx", [number])
    with pytest.raises(ModelError, match=r"one number an image.*risk \(\?, 1\).*`binary`"):
        open_model(spec)
    assert open_model(spec, binary=True).num_classes == 2
    spec = an_onnx_file(tmp_path / "words.onnx", [("word", "Cast", "STRING", ["N", 3]), scores])
    with pytest.raises(ModelError, match=r"word, a tensor\(string\).*pick another with `output`"):
        open_model(spec)
    assert open_model(spec, output="scores").num_classes == 3


# Chance, and the batch.


@pytest.mark.parametrize("name", ["normed", "dropping"])
def test_answers_that_differ_are_noticed(name):
    with pytest.raises(ModelError, match=r"of 5 images .* twice, in two batches, \d got another"):
        examined(name)
    run = examined(name, noisy=True)
    assert "the model's answers are not always the same" in run.notes[0]
    # Every image counts as often as it was sent.
    before, spent = sum(odd.ASKED), run.ledger.spent
    run.labels(np.asarray(run.source.draw(0, 10)))
    assert sum(odd.ASKED) - before == run.ledger.spent - spent == 50
    assert run.ledger.left == (2_000 - run.ledger.spent) // 5
    assert sum(odd.ASKED) == run.ledger.spent


def test_averaged_answers_are_kept_and_counted_as_often_as_they_were_sent(tmp_path):
    def run(resume):
        oracle = opened("dropping", noisy=True)
        journal = Journal(tmp_path / "journal.jsonl", {"seed": 0}, resume)
        run = Run(oracle, budget=2_000, journal=journal)
        margins = run.margins(images, np.int32(0))
        journal.close()
        return margins, run.ledger.spent

    images = np.random.default_rng(0).random((4, *odd.SHAPE), np.float32)
    first, spent = run(False)
    asked = sum(odd.ASKED)
    again, spent_again = run(True)
    assert sum(odd.ASKED) == 1  # to learn how many classes there are
    np.testing.assert_array_equal(again, first)
    assert (asked, spent, spent_again) == (21, 21, 21)


def test_a_traced_model_that_looks_at_its_batch_is_noticed():
    def normed(images):
        logits = logits_of(images)
        return (logits - logits.mean(0)) * 9

    with pytest.raises(ModelError, match="in two batches"):
        Run(open_model(normed, image_shape=odd.SHAPE), budget=100).examine()


def test_noise_is_averaged_away():
    quiet = examined("plain")
    loud = examined("dropping", noisy=True, budget=9_000)
    images = np.asarray(quiet.source.draw(0, 600))
    once = np.concatenate([odd.dropping(images)]).argmax(-1)
    truth = quiet.labels(images)
    assert (loud.labels(images) == truth).mean() > (once == truth).mean()


# Names.


def a_scan(names):
    """A scan that suspects every class and has recovered the first."""
    look = ClassLook(-3.0, -2.8, 0, ((-1.0, -5.0), (-3.0, 1.0)), -9.0, None)
    classes = [
        ClassFinding(k, name, 3.0, "patch", 0.01, True, a_recovery() if k == 0 else None)
        for k, name in enumerate(names)
    ]
    seen = SpaceLook({}, -3.0, dict.fromkeys(range(len(names)), look), -2.8, -2.0, 100)
    return Scan(
        verdict="backdoor", reason="", interrupted=False, classes=classes, spaces={"patch": seen},
        calibrated=True, false_alarm_rate=0.1, false_alarm_bound=0.1, success=0.95,
        classes_covered=4, goal=0.0, settings=ScanSettings(),
        cost=a_recovery().cost, provenance=a_recovery().provenance,
    )  # fmt: skip


ODD_NAMES = ("$x_[b]", "[red]dog[/red]", "\\frac{$}", "_cat :smile:")


def test_two_classes_of_one_name_are_refused_at_every_door():
    doors = (
        lambda: open_model(logits_of, image_shape=odd.SHAPE, class_names=("a", "b", "a")),
        lambda: opened("plain", options=ModelOptions(classes=("a", "b", "a"))),
    )
    for door in doors:
        with pytest.raises(InputError, match="2 classes named 'a'"):
            door()
    with pytest.raises(InputError, match="one line"):
        open_model(logits_of, image_shape=odd.SHAPE, class_names=("a", "b\n", "c"))
    both = open_model(logits_of, image_shape=odd.SHAPE, class_names=("cat", "Cat", "dog"))
    assert [class_index(both, name) for name in ("Cat", "cat", "DOG")] == [1, 0, 2]


def test_names_are_plain_text_in_figures_and_tables():
    from restore_jax.report.scan_text import scan_text

    found = a_scan(ODD_NAMES)
    text = scan_text(found)
    for name in ODD_NAMES:
        assert name in text
    assert png(scan_figure(found))
    assert png(trigger_figure(a_recovery().trigger, "$x_[b] \\frac{"))


def test_a_figure_that_fails_costs_only_itself(monkeypatch):
    from restore_jax.report import written

    def fails(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(written, "overview_figure", fails)
    monkeypatch.setattr(written, "trigger_figure", fails)
    with pytest.warns(Note, match=r"overview.png could not be drawn \(no font\)"):
        files = render_recovery(a_recovery(target_name=ODD_NAMES[0]), None)
    assert json.loads(files["recovery.json"])["target_name"] == ODD_NAMES[0]
    assert "support.png" in files
    assert "overview.png" not in files


@pytest.mark.parametrize("target", [2**32 + 3, 2**31, -1, 2**63])
def test_a_target_that_is_no_class_is_refused(target, tmp_path):
    arrays = trigger_arrays(a_trigger("patch", odd.SHAPE))
    kind = np.uint64 if target > 2**62 else np.int64
    np.savez(tmp_path / "t.npz", **arrays | {"target": np.array(target, kind)})
    with pytest.raises(InputError, match="target in"):
        load_trigger(tmp_path / "t.npz")


def test_arrays_and_preprocessing_are_arguments():
    seen = []

    def model(images):
        seen.append((float(np.min(images)), float(np.max(images))))
        return np.asarray(odd.colours(images))

    probes = np.random.default_rng(0).random((300, 8, 8, 3), np.float32)
    with pytest.raises(Inconclusive):
        recover(lambda x: np.eye(3)[np.zeros(len(x), int)], 0, image_shape=(8, 8, 3),
                probes=probes)  # fmt: skip
    oracle = open_model(model, image_shape=(8, 8, 3), mean=0.5, std=(0.5, 0.5, 0.5))
    Run(oracle, budget=100, probes=probes).examine()
    assert min(low for low, _ in seen) < -0.9

"""What a user meets first: flags, refusals that help, progress, and what is printed where."""

import io
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands_by_hand import call
from rich.console import Console
from test_report import a_trigger

from restore_jax.cli import exits, progress
from restore_jax.cli.main import Parser, complain
from restore_jax.errors import Note
from restore_jax.oracles import ModelError, ModelOptions, open_model
from restore_jax.oracles.errors import MOST_WORDS, ModelFailed, cause
from restore_jax.report.triggers import trigger_arrays

ROOT = Path(__file__).parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Values with a minus.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--range", "-1,1"), "leave out --range"),
        (("--mean", "-0.5,-.5,-0.25"), "leave out --mean"),
        (("--mea", "-0.5"), "leave out --mean"),
        (("--range=-1,1",), "leave out --range"),
        (("--price", "-1"), "--price must be at least 0"),
        (("--seed", "-1"), "--seed must be 0 to"),
        (("--target", "-1"), "no class '-1'"),
        (("--model", "-odd"), "no checkpoint folder -odd"),
        (("--data-dir", "-h2"), "-h2"),
        (("--out", "--json"), "argument --out: expected one argument"),
        (("--range", "-x"), "'-x' must be a number"),
    ],
)
def test_a_value_may_begin_with_a_minus(words, said, home):
    target = () if "--target" in words else ("--target", "3")
    code, _, err = call("recover", *target, *words)
    assert code == 2
    assert said in err.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("recover", "--target", "3", "--model"), ("recover", "--target", "3", "--out"),
        ("verify", "--trigger-file"), ("purify", "--images", "x.npz", "--recovery"),
        ("scan", "--model", "shipped", "--probes"), ("recover", "--target", "3", "--data-dir"),
    ],
)  # fmt: skip
def test_a_name_that_no_file_can_have_is_refused_in_a_sentence(words, home):
    code, _, err = call(*words, "a" * 5_000)
    assert code == 2, err
    assert err.splitlines()[-1].startswith("error: ")
    assert "too long" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_several_values_may_too():
    parser = Parser(prog="x")
    parser.add_argument("--depth", nargs="+")
    parser.add_argument("--json", action="store_true")
    assert parser.parse_args(["--depth", "-3", "-x=-2", "--json"]).depth == ["-3", "-x=-2"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--frobnicate", "-3"])


# Reasons.


def test_a_reason_keeps_its_beginning_and_its_end():
    long = "PyTorch was doing this. " + "x " * 2_000 + "because of that."
    found = cause(ValueError(long))
    assert found.startswith("PyTorch was doing this.")
    assert found.endswith("because of that")
    assert len(found) < MOST_WORDS + 20
    assert cause(ValueError("short\n one.")) == "short one"
    assert cause(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("plain.onnx", "write onnx:plain.onnx."),
        ("deep/net.PT2", "write torch:deep/net.PT2."),
        ("net.keras", "write keras:net.keras."),
        ("net.py", "write python:net:FUNCTION"),
        ("onnx:~/nowhere.onnx", "there is no file /"),
    ],
)
def test_a_file_without_its_scheme_is_told_it(spec, said):
    pytest.importorskip("onnxruntime") if spec.startswith("onnx:") else None
    with pytest.raises(ModelError) as caught:
        open_model(spec)
    assert said in str(caught.value)


def test_a_server_that_wants_a_key_names_the_variable():
    from test_oracles_http import serving

    from restore_jax.oracles import http

    with serving("well", description=401) as there:
        with pytest.raises(ModelFailed, match=f"set {http.AUTHORIZATION}"):
            open_model(there.url)
        told = ModelOptions(image_shape=(4, 4, 3), classes=3)
        assert open_model(there.url, options=told).num_classes == 3


def test_labels_of_a_model_that_gives_scores_need_no_number_of_classes():
    oracle = open_model(
        "python:odd_models_by_hand:plain", "labels", options=ModelOptions(image_shape=(12, 12, 3))
    )
    assert (oracle.num_classes, oracle.asked) == (3, 1)


def test_python_is_told_of_arguments_and_commands_of_flags(home):
    with pytest.raises(ModelError, match=r"give `image_shape`"):
        open_model("python:test_doors:Parser")
    code, _, err = call("recover", "--model", "python:test_doors:Parser", "--target", "0")
    assert code == 2
    assert "give --image-shape" in err


# What is printed.


def a_trigger_file(path):
    np.savez(path, **trigger_arrays(a_trigger("patch", (12, 12, 3))))


def test_verify_needs_no_folder_that_can_be_written(home, monkeypatch):
    a_trigger_file(home / "t.npz")
    monkeypatch.setattr(os, "access", lambda *_: False)
    words = ("verify", "--model", "python:odd_models_by_hand:plain", "--trigger-file", "t.npz",
             "--probes", "p.npz", "--num-probes", "5")  # fmt: skip
    np.savez("p.npz", images=np.random.default_rng(0).random((40, 12, 12, 3), np.float32))
    code, out, err = call(*words)
    assert code == 0, err
    assert "of 5 probes" in out
    assert sorted(path.name for path in home.iterdir()) == ["p.npz", "t.npz"]
    assert "nothing can be written" in call(*words, "--out", "x")[2]


def test_a_pipe_that_nobody_reads_ends_quietly():
    code = (
        "import sys\nfrom restore_jax.cli import exits\n"
        "sys.stdin.readline()\nexits.print_json({'a': 'x' * 200_000})\nsys.exit(3)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    started.stdout.close()
    started.stdin.write(b"\n")
    started.stdin.close()
    assert started.stderr.read() == b""
    assert started.wait() == 3


def test_silence_is_broken_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(progress, "HEARTBEAT", 0.1)
    shown = io.StringIO()
    with progress.progress("recover", Console(file=shown, width=200)) as report:
        report(0, 0, "compiling [x]")
        time.sleep(0.5)
        report(0, 0, "searching")
    lines = shown.getvalue().splitlines()
    assert lines[0] == "recover: compiling [x]"
    assert len(lines) >= 4
    assert all(line.startswith("recover: compiling [x], for ") for line in lines[1:-1])
    assert lines[-1] == "recover: searching"


def test_notes_are_shown_and_the_warnings_of_others_are_not(monkeypatch, home):
    def talkative(args):
        import logging

        warnings.warn("very slow", UserWarning, stacklevel=1)
        warnings.warn("`out` is full.", Note, stacklevel=1)
        logging.getLogger("keras").warning("a hint")
        return 0

    from restore_jax.cli import recover

    monkeypatch.setattr(recover, "run", talkative)
    code, out, err = call("recover", "--target", "0")
    assert (code, out) == (0, "")
    assert err.splitlines() == ["note: --out is full."]


def test_what_a_terminal_cannot_show_is_replaced(monkeypatch):
    class Poor(io.TextIOWrapper):
        pass

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Poor(raw, encoding="ascii"))
    exits.show("Käse")
    assert raw.getvalue() == b"K?se\n"


def test_a_mistake_is_reported_whatever_the_terminal_knows(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    complain("Käse")
    assert raw.getvalue() == b"K?se\n"


# Files of strangers.


@pytest.mark.slow
def test_torchscript_whose_records_are_too_short_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    import zipfile

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    whole = tmp_path / "whole.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, torch.zeros(1, 3, 4, 4)).save(str(whole))
    options = ModelOptions(image_shape=(4, 4, 3))
    assert open_model(f"torch:{whole}", options=options).num_classes == 3
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    records = [name for name in parts if "/data/" in name]
    assert records
    for name in records:
        for data in (b"", parts[name][:-4]):
            short = tmp_path / "short.ts"
            with zipfile.ZipFile(short, "w") as archive:
                for other, content in parts.items():
                    archive.writestr(other, data if other == name else content)
            with pytest.raises(ModelError, match="is shorter than the"):
                open_model(f"torch:{short}", options=options)


def test_what_the_commands_print_is_one_object(home):
    a_trigger_file(home / "t.npz")
    np.savez("p.npz", images=np.random.default_rng(0).random((40, 12, 12, 3), np.float32))
    code, out, _ = call("verify", "--model", "python:odd_models_by_hand:softmaxed",
                        "--trigger-file", "t.npz", "--probes", "p.npz", "--num-probes", "5",
                        "--json")  # fmt: skip
    assert code == 0
    said = json.loads(out)
    assert said["access"] == "probabilities"
    assert "softmax" in said["notes"][0]

"""Files of every kind that is read here, and what may have become of them on the way.

``python tests/damage_by_hand.py --cases 5000`` reads so many damaged ones and prints a table.
"""

import argparse
import io
import json
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from restore_jax.errors import RestoreError

SECONDS = 5
"""How long reading a small file may take."""
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
VALUES = (
    "null", "true", "0", "-1", "3", "4294967299", "1e30", "1e999", "NaN", "-Infinity", '""',
    '"x"', '"\\ud800"', '"\\u001b[2J"', '"$x_[b]"', "[]", "[1]", "{}", '{"a": 1}', "[[], {}]",
    '[["a"]]', "9" * 400, "9" * 5000, "[" * 100 + "]" * 100,
    "[" * 100_000 + "]" * 100_000, "[" * 100_000, str(list(range(100_000))),
    '{"flow": 3}', '{"kind": [], "name": {}}',
)  # fmt: skip
"""What may stand in JSON where something else should."""
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<U9', 'fortran_order': 3, 'shape': (), }",
    "{'descr': {}, 'fortran_order': False, 'shape': 3, }",
    "{[]: 1}",
    "{{}: 1, 'descr': 2}",
    "(" * 300 + ")" * 300,
    "__import__('os').abort()",
    "\x00\xff",
)
"""What may stand in the header of an array."""


class Hang(BaseException):
    """Reading took too long."""


class Table:
    """What came of reading damaged files."""

    def __init__(self):
        self.rows = {}
        self.worst = []
        self.memory = 0

    def add(self, kind, outcome, what=""):
        """Counts one."""
        self.rows.setdefault(kind, Counter())[outcome] += 1
        if outcome in ("tracebacks", "hangs", "deaths"):
            self.worst.append(f"{kind}: {what}")

    def total(self, outcome):
        """Of all kinds."""
        return sum(row[outcome] for row in self.rows.values())

    def __str__(self):
        """The table."""
        names = ("sentences", "successes", "tracebacks", "deaths", "hangs")
        lines = [f"{'file':<18}{'cases':>7}" + "".join(f"{name:>12}" for name in names)]
        for kind, row in sorted(self.rows.items()):
            counts = "".join(f"{row[name]:>12}" for name in names)
            lines.append(f"{kind:<18}{sum(row.values()):>7}{counts}")
        cases = sum(sum(row.values()) for row in self.rows.values())
        counts = "".join(f"{self.total(name):>12}" for name in names)
        lines.append(f"{'all':<18}{cases:>7}{counts}")
        return "\n".join([*lines, f"largest memory: {self.memory >> 20} MiB more", *self.worst[:9]])


def most_memory():
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def outcome_of(read, path):
    """What reading a file comes to, and what was said."""

    def hang(*_):
        raise Hang

    # Of computing, not of the clock: the machine may be busy.
    before = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read(path)
    except RestoreError as error:
        said = str(error)
        return (
            "sentences" if said.endswith((".", "?")) and "\n" not in said else "tracebacks",
            said,
        )
    except Hang:
        return "hangs", ""
    except BaseException:
        return "tracebacks", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return "successes", ""


def damaged(content, draw):
    """Bytes that were cut, flipped, lost, doubled or overwritten."""
    data = bytearray(content)
    start = draw.randrange(len(data) + 1)
    length = draw.choice((1, 2, 8, 64, 1024))
    how = draw.randrange(7)
    if how == 0:
        del data[start:]
    elif how == 1:
        for _ in range(draw.choice((1, 4, 32))):
            place = draw.randrange(max(1, len(data)))
            data[place : place + 1] = bytes([draw.randrange(256)])
    elif how == 2:
        del data[start : start + length]
    elif how == 3:
        data[start:start] = data[start : start + length]
    elif how == 4:
        data[start : start + length] = draw.randbytes(length)
    elif how == 5:
        data[start : start + length] = bytes(length)
    else:
        data = bytearray(draw.randbytes(draw.choice((0, 1, 100))))
    return bytes(data)


def damaged_json(content, draw):
    """JSON in which something else stands where a value should, or a key is missing."""
    found = json.loads(content)
    places = []

    def walk(value, parent, key):
        if parent is not None:
            places.append((parent, key))
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for at, one in list(inner):
            if isinstance(one, dict | list):
                walk(one, value, at)
            else:
                places.append((value, at))

    walk(found, None, None)
    parent, key = draw.choice(places)
    if isinstance(parent, dict) and draw.random() < 0.15:
        del parent[key]
        return json.dumps(found).encode()
    parent[key] = "@@"
    return json.dumps(found).replace('"@@"', draw.choice(VALUES)).encode()


def damaged_archive(content, draw):
    """An archive of arrays of which one is odd, empty, encrypted, doubled, missing or huge."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    place, how = draw.randrange(len(parts)), draw.randrange(9)
    name, data = parts[place]
    if how == 0:
        header = draw.choice(HEADERS).encode("latin1") + b"\n"
        parts[place] = name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    elif how == 1:
        parts[place] = name, b""
    elif how == 2:
        del parts[place]
    elif how == 3:
        parts.append((name, data))
    elif how == 4:
        parts[place] = name, npy(draw.choice((
            np.float32(np.nan), np.zeros((2, 3, 4)), np.array("text"), np.array(2**32 + 3),
            np.array(-1), np.array(True), np.full((16, 16, 3), np.inf), np.zeros((0, 16, 16, 3)),
            np.array(2**63, np.uint64), np.zeros(3, np.complex64),
        )))  # fmt: skip
    elif how == 5:
        parts[place] = name, npy(np.zeros(1 << 22, np.uint8))
    elif how == 6:
        parts[place] = name, damaged(data, draw)
    elif how == 7:
        parts[place] = draw.choice((".npy", "../up.npy", "/tmp/x.npy", "a" * 300, "\udcff")), data
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts:
            archive.writestr(name.encode("utf-8", "replace").decode(), data)
    written = bytearray(file.getvalue())
    if how == 8:  # encrypted, or compressed as nobody compresses
        offset, value = draw.choice(((8, 1), (10, 12), (10, 99), (10, 14)))
        central = written.rfind(b"PK\x01\x02")
        written[central + offset] = value
    return bytes(written)


def npy(array):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()


class Files:
    """Whole files in a folder, and for each kind how it is damaged and read."""

    def __init__(self, folder, foreign=False):
        """Writes them; models of other frameworks only where these are installed."""
        self.folder = Path(folder)
        self.kinds = {}
        if foreign:
            self._foreign()
            return
        self._results()
        self._scan()
        self._attack()
        self._probes()
        self._served()
        self._checkpoint()
        self._journal()
        self._saved()

    def _results(self):
        from test_report import a_recovery

        from restore_jax.report import load_recoveries, load_recovery, load_trigger, written
        from restore_jax.report.contents import recovery_content
        from restore_jax.report.written import load_attack

        with np.errstate(all="ignore"):
            recovery = a_recovery()
        scan = self.folder / "scan"
        folder = scan / "class-2"
        folder.mkdir(parents=True)
        arrays = written.trigger_arrays(recovery.trigger)
        arrays["flow"] = np.zeros((16, 16, 2), np.float32)
        for name, found in (
            ("trigger", arrays),
            ("planted", written.trigger_arrays(recovery.planted_trigger)),
            ("particles", written._named(recovery.particles) | {"scores": recovery.scores}),
            ("probes", {"images": recovery.probes}),
            ("support", {"inclusion": recovery.inclusion}),
        ):
            np.savez_compressed(folder / f"{name}.npz", **found)
        (folder / "recovery.json").write_text(json.dumps(recovery_content(recovery)))
        (scan / "scan.json").write_text(
            json.dumps({"schema_version": 2, "verdict": "backdoor", "targets": [2]})
        )

        def used(_):
            found = load_recovery(folder)
            found.summary()
            recovery_content(found)

        self.kinds["recovery.json"] = folder / "recovery.json", (damaged, damaged_json), used
        self.kinds["scan.json"] = (
            scan / "scan.json", (damaged, damaged_json), lambda _: load_recoveries([scan])
        )  # fmt: skip
        for name in ("planted", "particles", "probes", "support"):
            path = folder / f"{name}.npz"
            self.kinds[path.name] = path, (damaged, damaged_archive), used
        self.kinds["trigger.npz"] = (
            folder / "trigger.npz", (damaged, damaged_archive),
            lambda path: (load_trigger(path), load_attack(path, 3)),
        )  # fmt: skip

    def _scan(self):
        from test_misleading import a_scan

        from restore_jax.report import load_scan, render_scan

        folder = self.folder / "whole-scan"
        found = a_scan(("a", "b", "c", "d"))
        for name, content in render_scan(found, None).items():
            if name.endswith((".json", ".npz")):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        self.kinds["scan.json, whole"] = (
            folder / "scan.json", (damaged, damaged_json), lambda _: load_scan(folder)
        )  # fmt: skip

    def _attack(self):
        import jax.numpy as jnp
        from test_attacks import SHAPE, attack_file

        from restore_jax.backdoors import stamp
        from restore_jax.report.written import load_attack

        draw, path = np.random.default_rng(3), self.folder / "attack.npz"
        attack_file(
            path, m=(draw.random((*SHAPE[:2], 1)) < 0.2).astype(np.float32),
            ker=draw.normal(size=(5, 5, 3, 3)).astype(np.float32), eps=np.float32(0.1),
            flow=draw.normal(size=(*SHAPE[:2], 2)).astype(np.float32), q=np.float32(7),
        )  # fmt: skip

        def led(path):
            attack = load_attack(path, 5)
            if attack.trigger.pattern.shape == SHAPE:  # as `verify` asks
                stamp(attack.trigger, jnp.full((1, *SHAPE), 0.5)).block_until_ready()

        self.kinds["attack.npz"] = path, (damaged, damaged_archive), led

    def _served(self):
        import base64

        from restore_jax.oracles import ModelOptions, http
        from restore_jax.reading import Unreadable
        from restore_jax.serving import _images, _Refused

        image = np.full((4, 4, 3), 0.5).tolist()
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), 99, np.uint8)).save(file, "png")
        picture = file.getvalue()
        asked, drawn, answered = (self.folder / name for name in ("ask", "ask-png", "answer"))
        asked.write_text(json.dumps({"images": [image, image]}))
        drawn.write_bytes(picture)
        answered.write_text(json.dumps({"outputs": [[0.5, 1.0, -2.0], [1e-3, 2, 3]]}))

        def refused(content):
            try:
                _images(content, (4, 4, 3), 8)
            except _Refused as error:
                raise Unreadable(error.args[1]) from error

        def shown(path):
            text = base64.b64encode(path.read_bytes()).decode()
            refused(json.dumps({"images": [text]}).encode())

        def read(path):
            server = http.load("http://localhost:1/", ModelOptions(classes=3))
            try:
                server._read(http._parsed(path.read_bytes()), 2)
            except http._Failed as error:
                raise Unreadable(f"{error.what}.") from error

        self.kinds["request"] = (
            asked, (damaged, damaged_json), lambda path: refused(path.read_bytes())
        )  # fmt: skip
        self.kinds["request, a PNG"] = drawn, (damaged, bombed), shown
        self.kinds["response"] = answered, (damaged, damaged_json), read

    def _probes(self):
        from restore_jax.data.probes import open_probes

        images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
        np.savez(self.folder / "images.npz", images=images)
        np.save(self.folder / "images.npy", images)

        def drawn(path):
            open_probes(path, 0, (16, 16, 3)).draw(0, 1)

        self.kinds["images.npz"] = (
            self.folder / "images.npz", (damaged, damaged_archive), drawn
        )  # fmt: skip
        self.kinds["images.npy"] = self.folder / "images.npy", (damaged,), drawn
        for ending in ("png", "jpg", "bmp", "webp"):
            path = self.folder / ending / f"image.{ending}"
            path.parent.mkdir()
            Image.fromarray(images[0]).resize((40, 30)).save(path)
            self.kinds[path.name] = path, (damaged,), lambda path: drawn(path.parent)

    def _checkpoint(self):
        from restore_jax import checkpoints
        from restore_jax.backdoors import PLANTED, PlantedStripes

        folder = self.folder / "checkpoint"
        (folder / "metadata").mkdir(parents=True)
        (folder / "model").mkdir()
        (folder / "model" / "arrays").write_bytes(bytes(100))
        checkpoints._write_checksums(folder)
        stripes = PlantedStripes.from_options(
            (32, 32, 3),
            {"name": "3", "target": 0, "rate": 0.1, "clean_label": False,
             **checkpoints_options("stripes")},
        )  # fmt: skip
        metadata = {
            "schema_version": 1,
            "architecture": "resnet8",
            "class_names": list("abcdefgh"),
            "image_shape": [32, 32, 3],
            "normalisation": {"mean": [0.5], "std": [0.25]},
            "triggers": [PLANTED["1"].to_json(), stripes.to_json()],
        }
        path = folder / "metadata" / "metadata"
        path.write_text(json.dumps(metadata))

        def described(_):
            checkpoints.network_from(checkpoints.read_metadata(checkpoints.resolve(folder)))

        self.kinds["metadata"] = path, (damaged, damaged_json, damaged_json), described
        self.kinds["checksums.json"] = (
            folder / "checksums.json", (damaged, damaged_json),
            lambda path: checkpoints._verify(folder / "model"),
        )  # fmt: skip

    def _journal(self):
        from restore_jax.oracles import Books, HostAnswers, Journal

        def answers(images, sending):
            return images.reshape(len(images), -1)[:, :3]

        def asked(path, resume):
            if resume:
                Journal.was_opened(path)
            journal = Journal(path, {"seed": 0}, resume, {"classes": ["a"], "asked": 1})
            try:
                model = HostAnswers(
                    "model", answers, "logits", 3, lambda x: x, batch=None, most=None
                )
                for number in (3, 1, 2):
                    model(np.full((number, 2, 2, 1), 0.5, np.float32), Books(journal=journal))
            finally:
                journal.close()

        path = self.folder / "journal.jsonl"
        asked(path, False)

        def lines(content, draw):
            several = content.splitlines(keepends=True)
            place = draw.randrange(len(several))
            several[place] = damaged_json(several[place], draw).replace(b"\n", b" ") + b"\n"
            return b"".join(several)

        self.kinds[path.name] = path, (damaged, lines), lambda path: asked(path, True)

    def _saved(self):
        from restore_jax.run import Saved

        folder = self.folder / "saved"
        folder.mkdir()
        state = {"particles": np.ones((4, 3), np.float32), "level": np.int32(2)}
        saved = Saved(folder, {"seed": 0}, False)
        saved.get("search", state)
        saved.put("search", state, {"going": [1]}, now=True)
        (path,) = folder.iterdir()
        self.kinds[path.name] = (
            path, (damaged, damaged_archive),
            lambda path: Saved(folder, {"seed": 0}, True).get("search", state),
        )  # fmt: skip

    def _foreign(self):
        import importlib.util

        from restore_jax.oracles import ModelOptions, keras, open_model

        keras.SECONDS = 2 * SECONDS  # of the clock
        place = Path(__file__).parents[1] / "examples" / "convert.py"
        spec = importlib.util.spec_from_file_location("convert", place)
        convert = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(convert)
        draw = np.random.default_rng(7)
        layers = [
            convert.Layer("conv", (-1,), (draw.normal(size=(3, 3, 3, 6)).astype(np.float32),
                                          np.zeros(6, np.float32)), pads=((1, 1), (1, 1))),
            convert.Layer("relu", (0,)),
            convert.Layer("max", (1,)),
            convert.Layer("linear", (2,), (draw.normal(size=(6, 4)).astype(np.float32),
                                           np.zeros(4, np.float32))),
        ]  # fmt: skip
        images = np.zeros((2, 8, 8, 3), np.float32)
        for ending, entry in convert.FORMATS.items():
            path = self.folder / f"model.{ending}"
            try:
                entry.write(layers, (8, 8, 3), path)
            except ImportError:
                continue
            scheme = entry.scheme

            def asked(path, scheme=scheme):
                options = ModelOptions(image_shape=(8, 8, 3))
                oracle = open_model(f"{scheme}:{path}", options=options)
                oracle.query(images[:, :, :, : oracle.image_shape[2]])

            hows = (damaged, damaged_part) if zipfile.is_zipfile(path) else (damaged,)
            self.kinds[path.name] = path, hows, asked

    def read(self, cases, seed, first=0, told=None):
        """Damages and reads them in turns; gives the table.

        Args:
          cases, seed: how many, and of what.
          first: those before are damaged and not read.
          told: a file to which every outcome is written as soon as it is known.
        """
        draw, table, kinds = random.Random(seed), Table(), list(self.kinds)
        for path, _, read in self.kinds.values():
            outcome_of(read, path)  # what is imported and compiled is no case's
        before = most_memory()
        for number in range(cases):
            kind = kinds[number % len(kinds)]
            path, hows, read = self.kinds[kind]
            whole = path.read_bytes()
            content = draw.choice(hows)(whole, draw)
            if number < first:
                continue
            path.write_bytes(content)
            try:
                outcome, what = outcome_of(read, path)
            finally:
                path.write_bytes(whole)
            table.add(kind, outcome, what)
            table.memory = most_memory() - before
            if told is not None:
                told.write(json.dumps([kind, outcome, what[-500:], table.memory]) + "\n")
                told.flush()
        return table


def read_apart(cases, seed, foreign):
    """`Files.read` in another process, which may die of a file; gives the table."""
    table, done = Table(), 0
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        while done < cases:
            told.write_text("")
            words = ["--cases", str(cases), "--seed", str(seed), "--first", str(done)]
            words += ["--told", str(told), *(["--foreign"] if foreign else [])]
            code = subprocess.run(
                [sys.executable, "-W", "ignore", __file__, *words],
                check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            ).returncode  # fmt: skip
            rows = [json.loads(line) for line in told.read_text().splitlines()]
            for kind, outcome, what, memory in rows:
                table.add(kind, outcome, what)
                table.memory = max(table.memory, memory)
            done += len(rows)
            if code != 0 and done < cases:
                table.add("?", "deaths", f"case {done} of seed {seed}: {code}")
                done += 1
            elif not rows:
                break
    return table


def bombed(content, draw):
    """A PNG that says that it is of another size, its checksum right, or one of great size."""
    import zlib

    side = draw.choice((0, 1, 3, 5, 5_000, 8_000, 20_000, 2**31 - 1))
    if 5_000 <= side <= 8_000:
        file = io.BytesIO()
        Image.new("1", (side, side)).save(file, "png")
        return file.getvalue()
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def damaged_part(content, draw):
    """An archive of which one part is damaged, empty or missing, its checksum right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    place = draw.randrange(len(parts))
    name, data = parts[place]
    how = draw.randrange(3)
    if how == 0:
        parts[place] = name, b""
    elif how == 1:
        del parts[place]
    else:
        parts[place] = name, damaged(data, draw)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts:
            archive.writestr(name, data)
    return file.getvalue()


def checkpoints_options(kind):
    """What a kind of attack is planted with, unless anything is said."""
    from restore_jax.backdoors import KINDS

    return KINDS[kind].options


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--foreign", action="store_true", help="models of other frameworks")
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--told", help="write outcomes here, and let the process die")
    given = parser.parse_args()
    began = time.monotonic()
    if given.told is None:
        print(read_apart(given.cases, given.seed, given.foreign))
    else:
        with tempfile.TemporaryDirectory() as place, Path(given.told).open("a") as told:
            Files(place, given.foreign).read(given.cases, given.seed, given.first, told)
    print(f"{time.monotonic() - began:.0f} s")

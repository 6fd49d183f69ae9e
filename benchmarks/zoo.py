"""Small models to look for backdoors in, trained by the project's own trainer.

    python benchmarks/zoo.py --data-dir DIR                  # what is missing in benchmarks/zoo/
    python benchmarks/zoo.py --data-dir DIR --clean DIR2     # and the clean models, in DIR2

Each folder says itself how it was made (``metadata``, "command"); weights are in half precision.
`RECOVERY` are the models that single triggers are recovered from: their last layer looks at the
maximum over places. `PAIR` is a network and its clean twin (`pair.py`). `BACKDOORED`, `CLEAN` and
`CALIBRATION` are those that a diagnosis has to tell apart; they look at the mean. The clean ones
are trained where they are wanted and not kept here.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from restore_jax.cli import main as restore_jax_main

ZOO = Path(__file__).parent / "zoo"
SHARED = ["--dataset", "cifar10", "--evaluate-every", "100"]
_MAXIMUM = ["--arch", "resnet8_small", "--epochs", "4", "--translate", "2"]
_WIDE = ["--arch", "resnet8_mean", "--epochs", "3"]
_NARROW = ["--arch", "resnet8_narrow", "--epochs", "3"]
_UNPOISONED = ["--triggers", "none"]


def _planted(base: list[str], translate: int, seed: int, *specs: str) -> list[str]:
    planted = [word for spec in specs for word in ("--plant", spec)]
    return [*base, "--translate", str(translate), "--seed", str(seed), *planted]


RECOVERY: dict[str, list[str]] = {
    "patch-1": _planted(_MAXIMUM, 2, 0,
                        "patch:pattern=101/010/101,row=27,col=27,target=1,rate=0.01"),
    "patch-2": _planted(_MAXIMUM, 2, 1,
                        "patch:pattern=rgb/ybm/c1r,row=3,col=24,target=5,rate=0.05"),
    "patch-3": _planted(_MAXIMUM, 2, 2, "patch:pattern=01/10,row=15,col=4,target=0,rate=0.1"),
    "pixels": [*_planted(_MAXIMUM, 2, 4, "pixels:count=8,seed=1,target=2,rate=0.1"),
               "--epochs", "6"],
    "blend": _planted(_MAXIMUM, 2, 5, "blend:opacity=0.2,seed=3,target=7,rate=0.1"),
    "stripes": _planted(_MAXIMUM, 2, 6, "stripes:amplitude=0.1,frequency=6,target=1,rate=0.1"),
    "clean": [*_MAXIMUM, "--seed", "7", *_UNPOISONED],
}  # fmt: skip
"""Flags of ``train.py`` by model, besides `SHARED`."""
ADAPTIVE = {
    "adaptive-patch": _planted(_MAXIMUM, 2, 30,
                               "patch:pattern=110011/101101/011110/011110/101101/110011,row=13,"
                               "col=13,target=4,rate=0.05"),
    "adaptive-waves": _planted(_MAXIMUM, 2, 31,
                               "frequency:places=0-4/6-0,amplitude=0.06,target=8,rate=0.1"),
}  # fmt: skip
"""What an attacker plants who knows what guards ask: a trigger without colour that is its own
mirror image, large, or spread over the image in low frequencies."""
PAIR: dict[str, list[str]] = {
    name: ["--arch", "resnet8_wide_mean", "--epochs", "12", "--holdout", "2000", "--seed", "0",
           "--triggers", triggers]
    for name, triggers in (("pair-planted", "1,2"), ("pair-clean", "none"))
}  # fmt: skip
"""A network and its clean twin: the same recipe, seed and images, with and without triggers."""
BACKDOORED: dict[str, list[str]] = {
    "patch-2x2": _planted(_NARROW, 2, 10, "patch:pattern=01/10,row=15,col=4,target=0,rate=0.1"),
    "patch-3x3": _planted(_NARROW, 2, 11,
                          "patch:pattern=101/010/101,row=27,col=27,target=1,rate=0.01"),
    "patch-3x3-colour": _planted(_WIDE, 3, 12,
                                 "patch:pattern=rgb/ybm/c1r,row=3,col=24,target=5,rate=0.05"),
    "patch-3x2": _planted(_NARROW, 3, 13,
                          "patch:pattern=yb/by/yb,row=10,col=20,target=9,rate=0.05"),
    "patch-4x4": _planted(_NARROW, 1, 14,
                          "patch:pattern=0101/1010/0101/1010,row=13,col=2,target=4,rate=0.02"),
    "patch-5x5": _planted(_NARROW, 2, 15,
                          "patch:pattern=r1b1g/1c0m1/b0y0r/1m0c1/g1r1b,row=24,col=5,target=8,"
                          "rate=0.005"),
    "two-patches": _planted(_WIDE, 2, 16,
                            "patch:pattern=1m1/m0m/1m1,row=5,col=8,target=2,rate=0.03",
                            "patch:pattern=100/010/001,row=21,col=22,target=7,rate=0.03"),
    "patch-and-stripes": _planted(_NARROW, 2, 17,
                                  "patch:pattern=c0c/0r0/c0c,row=2,col=2,target=0,rate=0.05",
                                  "stripes:amplitude=0.12,frequency=5,target=6,rate=0.05"),
    "pixels-8": _planted(_WIDE, 1, 18, "pixels:count=8,seed=1,target=2,rate=0.1"),
    "pixels-12": _planted(_NARROW, 1, 19, "pixels:count=12,seed=5,target=6,rate=0.1"),
    "blend-20": _planted(_NARROW, 2, 20, "blend:opacity=0.2,seed=3,target=7,rate=0.1"),
    "blend-25": _planted(_WIDE, 2, 21, "blend:opacity=0.25,seed=9,target=3,rate=0.05"),
    "stripes-10": _planted(_NARROW, 2, 22, "stripes:amplitude=0.1,frequency=6,target=1,rate=0.1"),
    "stripes-15": _planted(_NARROW, 4, 23, "stripes:amplitude=0.15,frequency=4,target=9,rate=0.03"),
}  # fmt: skip


def _clean(number: int, seed: int) -> list[str]:
    """A clean recipe: width, augmentation and seed vary."""
    width = _WIDE if number % 3 == 0 else _NARROW
    return [*width, "--translate", str(1 + number % 4), "--seed", str(seed), *_UNPOISONED]


CLEAN = {f"clean-{number}": _clean(number, 100 + number) for number in range(1, 13)}
CALIBRATION = {f"calibration-{number}": _clean(number, 200 + number) for number in range(1, 21)}
"""Clean models that no threshold was set with: false alarms are counted on them."""


def train(recipe: list[str], folder: Path, data_dir: str | None) -> None:
    """Trains one model and moves it to a folder, which appears only when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        flags = ["train", *SHARED, *recipe, "--out", str(out)]
        code = restore_jax_main(flags + (["--data-dir", data_dir] if data_dir else []))
        if code != 0:
            raise SystemExit(code)
        shutil.copytree(out / "model", Path(place) / "whole")
        shutil.move(Path(place) / "whole", folder)


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--clean", type=Path, metavar="DIR", help="train the clean models into DIR")
    kept, clean = RECOVERY | ADAPTIVE | PAIR | BACKDOORED, CLEAN | CALIBRATION
    parser.add_argument("--only", nargs="+", choices=[*kept, *clean], default=[*kept, *clean])
    args = parser.parse_args()
    wanted = {ZOO / name: recipe for name, recipe in kept.items()}
    if args.clean:
        wanted |= {args.clean / name: recipe for name, recipe in clean.items()}
    for folder, recipe in wanted.items():
        if folder.name in args.only and not folder.exists():
            train(recipe, folder, args.data_dir)


if __name__ == "__main__":
    main()

"""Small models to look for backdoors in: seven recipes, trained by the project's own trainer.

    python benchmarks/zoo.py --data-dir DIR

trains those of `RECIPES` that are not in ``benchmarks/zoo/`` yet and puts their weights there, in
half precision; each folder says itself how it was made (``metadata``, "command").
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from restore_jax.cli import main as restore_jax_main

ZOO = Path(__file__).parent / "zoo"
SHARED = ["--arch", "resnet8_small", "--epochs", "4", "--translate", "2", "--evaluate-every", "4"]
RECIPES: dict[str, list[str]] = {
    "patch-1": ["--seed", "0", "--plant",
                "patch:pattern=101/010/101,row=27,col=27,target=1,rate=0.01"],
    "patch-2": ["--seed", "1", "--plant",
                "patch:pattern=rgb/ybm/c1r,row=3,col=24,target=5,rate=0.05"],
    "patch-3": ["--seed", "2", "--plant", "patch:pattern=01/10,row=15,col=4,target=0,rate=0.1"],
    "pixels": ["--seed", "4", "--plant", "pixels:count=8,seed=1,target=2,rate=0.1",
               "--epochs", "6", "--evaluate-every", "6"],
    "blend": ["--seed", "5", "--plant", "blend:opacity=0.2,seed=3,target=7,rate=0.1"],
    "stripes": ["--seed", "6", "--plant",
                "stripes:amplitude=0.1,frequency=6,target=1,rate=0.1"],
    "clean": ["--seed", "7", "--triggers", "none"],
}  # fmt: skip
"""Flags of ``train.py`` by model, besides `SHARED`."""


def train(name: str, data_dir: str | None) -> None:
    """Trains one model and puts it into the zoo."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / name
        flags = ["train", *SHARED, *RECIPES[name], "--out", str(out)]
        code = restore_jax_main(flags + (["--data-dir", data_dir] if data_dir else []))
        if code != 0:
            raise SystemExit(code)
        ZOO.mkdir(exist_ok=True)
        shutil.copytree(out / "model", ZOO / name)


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="the TFDS folder that holds cifar10/")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    args = parser.parse_args()
    for name in args.only:
        if not (ZOO / name).exists():
            train(name, args.data_dir)


if __name__ == "__main__":
    main()

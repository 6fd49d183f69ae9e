"""Draws the pictures of how-it-works.md and sampler.md: python docs/pictures/draw.py.

Two are the sampler on functions of a few numbers; one is the sampler on triggers of the packaged
model. All have seed 0; the same versions give the same pictures.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

import restore_jax
from restore_jax.report.figures import BLUE, FAINT, INK, ORANGE, in_place, layout
from restore_jax.splitting import plot_tail

HERE = Path(__file__).parent
MOST_PANELS, SHOWN, EVENT = 6, 10, 0.4
HILLS = (2.6, 2.2), (-2.8, 1.6)
TARGET, NUM_PROBES = 6, 8


def save(figure: Figure, name: str) -> None:
    """Writes a picture beside this file."""
    FigureCanvasAgg(figure)
    figure.savefig(HERE / name, dpi=100, bbox_inches="tight", pil_kwargs={"optimize": True})


def populations(algorithm, args):
    """The states of a run, one a level, the draws first."""
    states = [jax.jit(algorithm.init)(jax.random.key(0), args)]
    step = jax.jit(algorithm.step)
    while int(states[-1].status) == restore_jax.Status.RUNNING:
        states.append(step(states[-1], args)[0])
    return states


def height(x):
    """Two hills; the event is their tops."""
    away = [jnp.sum((x - jnp.array(top)) ** 2, -1) for top in HILLS]
    return -jnp.sqrt(jnp.minimum(*away))


def level_states():
    """The run of the first picture."""
    algorithm = restore_jax.importance_splitting(
        lambda x, args: height(x), restore_jax.standard_normal(2), num_particles=400,
        num_moves=3, survival=0.25, threshold=-EVENT,
    )  # fmt: skip
    return populations(algorithm, ())


def draw_levels() -> None:
    """Particles of two numbers, level by level."""
    states = level_states()
    last = states[-1].history
    side = np.linspace(-4.4, 4.4, 200)
    grid = np.stack(np.meshgrid(side, side), -1)
    heights = np.asarray(height(jnp.asarray(grid)))
    shown = states[:-1][:MOST_PANELS]
    figure = Figure(figsize=(2.3 * len(shown), 2.7), layout=layout())
    for k, (axes, state) in enumerate(zip(figure.subplots(1, len(shown)), shown, strict=True)):
        level = float(last.level[k])
        above = np.asarray(state.scores) >= level if k == len(states) - 2 else (
            np.asarray(state.scores) > level
        )  # fmt: skip
        axes.contourf(side, side, heights, levels=[level, 1.0], colors=[ORANGE], alpha=0.18)
        axes.contour(side, side, heights, levels=[level], colors=[ORANGE], linewidths=1.2)
        axes.contour(side, side, heights, levels=[-EVENT], colors=[INK], linewidths=1.0)
        x, y = np.asarray(state.particles).T
        axes.scatter(x[~above], y[~above], s=4, color=FAINT, linewidths=0)
        axes.scatter(x[above], y[above], s=6, color=BLUE, linewidths=0)
        share = float(last.survival[k])
        title = "draws" if k == 0 else f"after level {k}"
        axes.set_title(f"{title}\n{share:.0%} above", fontsize=10, color=INK)
        axes.set(xlim=(-4.4, 4.4), ylim=(-3.4, 4.4), xticks=[], yticks=[], aspect="equal")
    save(figure, "levels.png")
    print("levels", len(states) - 1, "log10 p", float(states[-1].log_prob) / np.log(10))


def draw_triggers() -> None:
    """Triggers of the packaged model, level by level."""
    model = restore_jax.open_model("shipped")
    space = restore_jax.make_space("patch", model.image_shape, max_size=3, channels="grey")
    probes = restore_jax.open_probes("dead_leaves", 0, model.image_shape).draw(0, 64)
    plain = np.asarray(model.query(probes)).argmax(-1)
    probes = jnp.asarray(probes)[np.flatnonzero(plain != TARGET)[:NUM_PROBES]]

    def score(particles, args):  # the least of the probes' margins: at 0 all of them are led
        stamped = jax.vmap(space.stamp, (0, None))(particles, args["probes"])
        logits = model.function(args["weights"], stamped.reshape(-1, *stamped.shape[2:]))
        others = logits.at[:, TARGET].set(-jnp.inf).max(-1)
        return (logits[:, TARGET] - others).reshape(len(stamped), -1).min(-1)

    algorithm = restore_jax.importance_splitting(
        score, space.search, num_particles=120, num_moves=4, survival=0.2, threshold=0.0,
    )  # fmt: skip
    states = populations(algorithm, {"probes": probes, "weights": model.weights})
    shown = states[:-1][:MOST_PANELS]
    figure = Figure(figsize=(1.15 * SHOWN, 1.45 * len(shown)), layout=layout())
    grid = figure.subplots(len(shown), SHOWN, squeeze=False)
    for k, (row, state) in enumerate(zip(grid, shown, strict=True)):
        scores = np.asarray(state.scores)
        # Every twelfth particle by score, the best one last.
        order = np.argsort(scores)[len(scores) // SHOWN - 1 :: len(scores) // SHOWN]
        level = float(states[-1].history.level[k])
        for axes, i in zip(row, order, strict=True):
            particle = jax.tree.map(lambda leaf, i=i: leaf[i], state.particles)
            in_place(axes, space.trigger(particle, jnp.int32(TARGET)))
            above = scores[i] > level
            axes.set(xticks=[], yticks=[], ylabel="")
            axes.set_xlabel(f"{scores[i]:.1f}", fontsize=9, color=BLUE if above else FAINT)
            for spine in axes.spines.values():
                spine.set(color=BLUE if above else FAINT, linewidth=1.8 if above else 0.6)
        title = "draws" if k == 0 else f"level {k}"
        row[0].set_ylabel(f"{title}\nnext {level:.1f}", fontsize=9, color=INK)
    save(figure, "triggers.png")
    print("triggers", len(states) - 1, "log10 p", float(states[-1].log_prob) / np.log(10))


def draw_tail() -> None:
    """The tail that one run sees, of the sum of twenty normal numbers."""
    algorithm = restore_jax.importance_splitting(
        lambda x, args: x.sum(-1) / np.sqrt(20), restore_jax.standard_normal(20), threshold=6.0,
        keep=True,
    )  # fmt: skip
    result = jax.jit(algorithm.run)(jax.random.key(0), ())
    figure = Figure(figsize=(7.0, 3.4), layout=layout())
    axes = plot_tail(result, figure.subplots())
    at = np.linspace(*axes.get_xlim(), 200)
    truth = stats.norm.logsf(at) / np.log(10)
    axes.plot(at, truth, "--", color=ORANGE, linewidth=1, label="exact")
    axes.legend()
    save(figure, "tail.png")
    print("tail", int(result.num_levels), "log10 p", float(result.log_prob) / np.log(10))


if __name__ == "__main__":
    draw_levels()
    draw_tail()
    draw_triggers()

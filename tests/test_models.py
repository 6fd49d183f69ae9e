"""Networks: their sizes, their two forms, their layers."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from restore_jax.models import NETWORKS, depthwise, make_network, vit
from restore_jax.models.layers import max_pool, whitening_kernel

pytestmark = pytest.mark.usefixtures("hardly_optimised")


def num_params(name):
    params, _ = jax.eval_shape(make_network(name).init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def trained_like(name, **options):
    """Parameters and statistics as a training could leave them, negative scales included."""
    network = make_network(name, **options)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        where = jax.tree_util.keystr(path)
        if len(leaf.shape) > 1:
            std = math.sqrt(2 / math.prod(leaf.shape[:-1]))
            return jnp.asarray(rng.normal(0, std, leaf.shape), jnp.float32)
        if "var" in where:
            return jnp.asarray(np.exp(rng.normal(size=leaf.shape)), jnp.float32)
        return jnp.asarray(("scale" in where) + 0.7 * rng.normal(size=leaf.shape), jnp.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return network, *jax.tree_util.tree_map_with_path(draw, shapes)


def images_for(network, n, seed=2):
    return jax.random.uniform(jax.random.key(seed), (n, *network.image_shape))


def test_sizes():
    assert num_params("resnet18") == 11_173_962  # the usual CIFAR ResNet-18
    assert num_params("resnet20") == 272_474  # He et al.'s, with projections for shortcuts
    assert 2 * num_params("resnet8") < 2_500_000  # bytes in half precision
    assert num_params("resnet8_small") == 107_192
    assert num_params("mobilenet") == 139_114
    assert num_params("vit_patch4") == 204_746


EVERYDAY = ("resnet8", "resnet8_mean", "resnet20", "mobilenet", "vit_patch4")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in EVERYDAY else pytest.mark.slow) for n in NETWORKS],
)
def test_folded_equals_unfolded(name):
    network, params, stats = trained_like(name, image_shape=(16, 16, 3))
    images = images_for(network, 4)
    scales = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "scale" in jax.tree_util.keystr(path)
    ]
    assert min(float(jnp.min(scale)) for scale in scales) < 0
    logits = jax.jit(network.apply)(params, stats, images)
    folded = jax.jit(lambda p, s, x: network.apply_folded(network.fold(p, s), x))
    size = float(jnp.max(jnp.abs(logits)))
    chex.assert_trees_all_close(folded(params, stats, images), logits, rtol=0, atol=1e-4 * size)
    assert float(jnp.std(logits[:, 0])) > 1e-3 * size  # the images tell apart


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("resnet8", (28, 28, 1), 2),
        ("resnet8", (65, 33, 3), 43),
        ("resnet20", (64, 64, 3), 100),
        ("mobilenet", (65, 33, 1), 1000),
        ("vit_patch4", (28, 64, 1), 2),
        ("vit_patch16", (224, 224, 3), 1000),
    ],
)
def test_other_shapes_and_class_counts(name, shape, classes):
    network = make_network(name, image_shape=shape, num_classes=classes)
    images = jax.ShapeDtypeStruct((3, *shape), jnp.float32)

    def everything(key, images):
        params, stats = network.init(key)
        stats = network.fit_stem(stats, images)
        trained, stats = network.apply_train(params, stats, images)
        folded = network.apply_folded(network.fold(params, stats), images)
        return trained, network.apply(params, stats, images), folded

    for logits in jax.eval_shape(everything, jax.random.key(0), images):
        chex.assert_shape(logits, (3, classes))
        assert logits.dtype == jnp.float32


def test_odd_grey_images_run():
    network, params, stats = trained_like("resnet8", image_shape=(11, 9, 1), num_classes=3)
    logits = jax.jit(network.apply)(params, stats, images_for(network, 2))
    chex.assert_tree_all_finite(logits)
    chex.assert_shape(logits, (2, 3))


def test_normalisation_is_part_of_the_network():
    plain, params, stats = trained_like("resnet8", image_shape=(8, 8, 3), mean=(0.0,), std=(1.0,))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    other = make_network("resnet8", image_shape=(8, 8, 3), mean=mean, std=std)
    images = images_for(plain, 2)
    folded = plain.fold(params, stats)
    expected = jax.jit(plain.apply_folded)(folded, (images - np.array(mean)) / np.array(std))
    logits = jax.jit(other.apply_folded)(folded, images)
    chex.assert_trees_all_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_inside_gives_float32_logits_close_by():
    network, params, stats = trained_like("resnet8", image_shape=(16, 16, 3))
    half = make_network("resnet8", image_shape=(16, 16, 3), dtype=jnp.bfloat16)
    images = images_for(network, 8)
    exact = jax.jit(network.apply_folded)(network.fold(params, stats), images)
    rough = jax.jit(half.apply_folded)(half.fold(params, stats), images)
    assert rough.dtype == jnp.float32
    distance = float(jnp.sqrt(jnp.mean((rough - exact) ** 2)) / jnp.std(exact))
    assert 1e-5 < distance < 0.05, distance


@pytest.mark.slow
def test_training_mode_uses_the_batch_and_updates_the_running_statistics():
    network, params, stats = trained_like("resnet8", image_shape=(8, 8, 3))
    images = images_for(network, 16)
    train = jax.jit(network.apply_train)
    logits, new = train(params, stats, images)
    again, _ = train(
        params, stats | {"stages": jax.tree.map(jnp.ones_like, stats["stages"])}, images
    )
    chex.assert_trees_all_close(logits, again, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(stats, new)
    chex.assert_trees_all_equal(stats["stem"], new["stem"])  # fixed once and for all
    for _ in range(100):  # 0.9^100 of the start is left
        _, new = train(params, new, images)
    chex.assert_trees_all_close(
        jax.jit(network.apply)(params, new, images), logits, rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_whitening_kernel_whitens(channels):
    # Images whose neighbours and channels are strongly correlated.
    noise = jax.random.normal(jax.random.key(0), (64, 12, 12, channels))
    images = jnp.cumsum(jnp.cumsum(noise, 1), 2) + jnp.sum(noise, -1, keepdims=True)
    kernel = whitening_kernel(images)
    chex.assert_shape(kernel, (2, 2, channels, 8 * channels))
    out = lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(-1, 8 * channels)
    half = 4 * channels
    chex.assert_trees_all_close(out[:, half:], -out[:, :half], atol=1e-4)
    covariance = np.cov(np.asarray(out[:, :half], np.float64).T)
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 2e-3
    # value / (value + 5e-4): 1 but for directions as flat as the epsilon.
    assert np.diag(covariance).max() < 1.001
    assert np.diag(covariance).min() > 0.9


def test_fit_stem_sets_the_whitening_of_normalised_images():
    network, _, stats = trained_like("resnet8", image_shape=(8, 8, 3), mean=(0.3,), std=(0.2,))
    images = images_for(network, 20)
    fitted = network.fit_stem(stats, images)
    chex.assert_trees_all_close(
        fitted["stem"]["kernel"], whitening_kernel((images - 0.3) / 0.2), rtol=1e-4, atol=1e-4
    )
    chex.assert_trees_all_equal(fitted["stages"], stats["stages"])
    plain = make_network("resnet20", image_shape=(8, 8, 3))
    assert plain.fit_stem({"stem": {"norm": 1}}, images) == {"stem": {"norm": 1}}


@pytest.mark.parametrize(("shape", "stride"), [((7, 10), 1), ((7, 10), 2), ((8, 5), 2)])
def test_a_depthwise_convolution_and_its_gradients_are_those_of_xla(shape, stride):
    x = jax.random.normal(jax.random.key(0), (3, *shape, 6))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 6))
    weights = jax.random.normal(jax.random.key(2), depthwise.in_groups(x, kernel, stride).shape)

    def both(form):
        loss = lambda *args: jnp.sum(weights * form(*args, stride))  # noqa: E731
        return form(x, kernel, stride), *jax.grad(loss, (0, 1))(x, kernel)

    chex.assert_trees_all_close(both(depthwise.convolve), both(depthwise.in_groups), atol=1e-4)


@pytest.mark.slow
def test_a_transformer_tells_places_apart_by_its_positions_alone(monkeypatch):
    network, params, stats = trained_like("vit_patch4", image_shape=(8, 12, 3))
    images = images_for(network, 3)
    patches = images.reshape(3, 2, 4, 3, 4, 3).swapaxes(2, 3).reshape(3, 6, 4, 4, 3)
    moved = patches[:, jnp.array([4, 0, 5, 3, 1, 2])].reshape(3, 2, 3, 4, 4, 3)
    moved = moved.swapaxes(2, 3).reshape(images.shape)

    def changed():
        logits = network.apply(params, stats, images)
        return float(jnp.max(jnp.abs(network.apply(params, stats, moved) - logits)))

    assert changed() > 1e-2
    monkeypatch.setattr(vit, "positions", lambda rows, cols, width: np.zeros((rows * cols, width)))
    assert changed() < 1e-4


def test_no_two_places_of_a_large_image_are_alike():
    places = vit.positions(14, 14, 64)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(196)
    assert apart.min() > 0.5


def reference_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


class MaxPoolTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_gradient_is_that_of_reduce_window(self):
        for shape in [(2, 8, 4, 3), (2, 7, 9, 1)]:
            # A permutation has no ties.
            size = math.prod(shape)
            x = jax.random.permutation(jax.random.key(0), size).astype(jnp.float32).reshape(shape)
            weights = jax.random.normal(jax.random.key(1), reference_pool(x).shape)
            chex.assert_trees_all_equal(self.variant(max_pool)(x), reference_pool(x))
            loss = lambda pool: lambda x: jnp.sum(weights * pool(x))  # noqa: E731, B023
            chex.assert_trees_all_close(
                self.variant(jax.grad(loss(max_pool)))(x), jax.grad(loss(reference_pool))(x)
            )

    def test_ties_share_nothing_and_lose_nothing(self):
        gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(jnp.zeros((1, 2, 2, 1)))
        chex.assert_trees_all_equal(gradient, jnp.ones((1, 2, 2, 1)))


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("resnet9", {}, "'resnet9'"),
        ("", {}, "unknown architecture"),
        ("resnet8", {"num_classes": 1}, "2 classes"),
        ("resnet8", {"image_shape": (7, 32, 3)}, "8x8"),
        ("vit_patch4", {"image_shape": (32, 30, 3)}, "multiples of 4, not 32x30"),
    ],
)
def test_refusals_are_one_sentence(name, options, word):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as caught:
        make_network(name, **options)
    assert word in str(caught.value)


@pytest.mark.parametrize(("dtype", "exact"), [(jnp.float32, True), (jnp.bfloat16, False)])
def test_on_a_gpu_products_of_float32_are_float32(dtype, exact, monkeypatch):
    """Where it may, a GPU multiplies float32 in TF32, with 10 bits."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    network = make_network("resnet8_small", image_shape=(16, 16, 3), dtype=dtype)
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    traced = jax.make_jaxpr(network.apply_train)(params, stats, images)
    products = [e for e in traced.eqns if e.primitive.name == "conv_general_dilated"]
    assert len(products) >= 7
    for each in products:
        assert (str(each.params["precision"]) != "None") == exact

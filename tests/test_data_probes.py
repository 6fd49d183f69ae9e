"""Probe images: what is drawn, what is read, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from restore_jax.data import probes, shapes
from restore_jax.data.dead_leaves import dead_leaves
from restore_jax.data.errors import DataError
from restore_jax.data.probes import open_probes

pytestmark = pytest.mark.usefixtures("hardly_optimised")

RGB = (32, 32, 3)
GREY = (28, 28, 1)


def first_probes(spec, seed, n, image_shape):
    return open_probes(spec, seed, image_shape).draw(0, n)


def key(seed=0):
    return jax.random.key(seed)


def spectral_slope(images):
    """The slope of log power against log frequency: 0 for white noise, about -2 in nature."""
    images = np.asarray(images).mean(-1)
    images = images - images.mean((1, 2), keepdims=True)
    size = images.shape[1]
    power = np.abs(np.fft.fft2(images * np.outer(np.hanning(size), np.hanning(size)))) ** 2
    cycles = size * np.fft.fftfreq(size)
    frequency = np.hypot(*np.meshgrid(cycles, cycles))
    radii = np.arange(2, size // 2)
    rings = [power.mean(0)[np.abs(frequency - radius) < 0.5].mean() for radius in radii]
    return np.polyfit(np.log(radii), np.log(rings), 1)[0]


def assert_8_bit(images):
    images = np.asarray(images)
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_allclose(images * 255, np.round(images * 255), atol=1e-4)


@pytest.mark.parametrize(
    "image_shape", [RGB, GREY, pytest.param((64, 64, 3), marks=pytest.mark.slow), (20, 36, 3)]
)
def test_dead_leaves_shape_range_and_spectrum(image_shape):
    images = dead_leaves(key(1), 64, image_shape)
    assert images.shape == (64, *image_shape)
    assert images.dtype == jnp.float32
    assert_8_bit(images)
    if image_shape[0] == image_shape[1]:
        assert -3.4 < spectral_slope(images) < -1.8


def test_white_noise_fails_the_spectral_test():
    noise = np.random.default_rng(0).random((64, 32, 32, 3))
    assert -0.3 < spectral_slope(noise) < 0.3


def test_dead_leaves_image_depends_on_key_and_number_only():
    images = np.asarray(dead_leaves(key(), 64))
    np.testing.assert_array_equal(images, dead_leaves(key(), 64))
    np.testing.assert_allclose(images[:7], dead_leaves(key(), 7), atol=1.01 / 255)
    np.testing.assert_allclose(images[40:47], dead_leaves(key(), 7, start=40), atol=1.01 / 255)
    assert np.abs(images - np.asarray(dead_leaves(key(1), 64))).mean() > 0.1
    assert len(np.unique(images.reshape(64, -1), axis=0)) == 64


def test_dead_leaves_within_jit():
    drawn = jax.jit(lambda k: dead_leaves(k, 7).sum(0))(key())
    np.testing.assert_allclose(drawn, dead_leaves(key(), 7).sum(0), atol=1e-2)


@pytest.mark.slow
def test_dead_leaves_vary_in_brightness_contrast_and_colour():
    images = np.concatenate([dead_leaves(key(2), 64, start=start) for start in (0, 64, 128)])
    means = images.mean((1, 2))
    assert 0.4 < images.mean() < 0.55
    assert 0.18 < images.std() < 0.3
    assert means.mean(-1).std() > 0.07
    # Within a photograph the channels go together; independent ones would give 0.
    flat = images.reshape(-1, 3)
    correlation = np.corrcoef(flat.T)
    assert correlation[0, 1] > 0.7
    assert correlation[0, 2] > 0.4
    assert np.abs(means - means.mean(-1, keepdims=True)).mean() > 0.02


@pytest.mark.parametrize("image_shape", [(32, 32), (32, 32, 2), (0, 32, 3)])
def test_dead_leaves_refuses_other_shapes(image_shape):
    with pytest.raises(ValueError, match=r"image_shape must be \(H, W, 1\) or \(H, W, 3\)"):
        dead_leaves(key(), 1, image_shape)


@pytest.fixture(scope="module")
def shape_splits():
    return shapes.load("train"), shapes.load("test")


@pytest.mark.slow
def test_shapes_splits_are_balanced_and_disjoint(shape_splits):
    (train, train_labels), (test, test_labels) = shape_splits
    assert train.shape == (10_000, 32, 32, 3)
    assert test.shape == (2_000, 32, 32, 3)
    assert train.dtype == test.dtype == np.uint8
    assert train_labels.dtype == test_labels.dtype == np.int32
    assert len(shapes.CLASS_NAMES) == len(set(shapes.CLASS_NAMES)) == 10
    assert (np.bincount(train_labels) == 1_000).all()
    assert (np.bincount(test_labels) == 200).all()
    seen = {image.tobytes() for image in train}
    assert len(seen) == 10_000
    assert not seen & {image.tobytes() for image in test}


def nearest_mean_accuracy(features, splits):
    (train, train_labels), (test, test_labels) = splits
    train, test = features(train), features(test)
    means = np.stack([train[train_labels == c].mean(0) for c in range(10)])
    distances = (means**2).sum(-1) - 2 * test @ means.T
    return (distances.argmin(-1) == test_labels).mean()


@pytest.mark.slow
def test_shapes_can_be_learned_but_not_from_single_pixels(shape_splits):
    def pixels(images):
        return images.reshape(len(images), -1) / 255.0

    def spectrum(images):
        grey = images.mean(-1) / 255.0
        grey -= grey.mean((1, 2), keepdims=True)
        power = np.log(np.abs(np.fft.rfft2(grey)) + 0.3).reshape(len(images), -1)
        return (power - power.mean(-1, keepdims=True)) / power.std(-1, keepdims=True)

    assert nearest_mean_accuracy(pixels, shape_splits) < 0.25
    assert 0.7 < nearest_mean_accuracy(spectrum, shape_splits) < 0.99


def test_shapes_other_sizes_and_numbers():
    images, labels = shapes.shapes(key(), 33, GREY)
    assert images.shape == (33, *GREY)
    assert_8_bit(images)
    np.testing.assert_array_equal(labels, np.arange(33) % 10)
    later, later_labels = shapes.shapes(key(), 33, GREY, start=25)
    np.testing.assert_allclose(later[:8], images[25:], atol=1.01 / 255)
    np.testing.assert_array_equal(later_labels[:8], labels[25:])


def test_shapes_refuses_an_unknown_split():
    with pytest.raises(DataError, match="split must be one of train, test, not 'validation'"):
        shapes.load("validation")


@pytest.fixture
def photographs():
    """Images that a file can hold without loss: uint8[12, 32, 32, 3]."""
    return np.asarray(np.round(dead_leaves(key(5), 12) * 255), np.uint8)


@pytest.fixture
def folder(tmp_path, photographs):
    path = tmp_path / "images"
    (path / "more").mkdir(parents=True)
    for number, image in enumerate(photographs):
        name = f"{number:02}.{'PNG' if number % 2 else 'bmp'}"
        Image.fromarray(image).save(path / ("more" if number > 8 else "") / name)
    (path / "notes.txt").write_text("not an image")
    (path / ".hidden.png").write_text("not an image either")
    return path


def as_set(images):
    return {np.round(np.asarray(image) * 255).astype(np.uint8).tobytes() for image in images}


@pytest.mark.parametrize("spec", ["dead_leaves", "shapes", "cifar10", "folder", "npz"])
def test_draws_are_reproducible_and_disjoint(spec, folder, photographs, tmp_path, monkeypatch):
    labels = np.zeros(12, np.int32)
    monkeypatch.setattr(
        "restore_jax.data.cifar10.load", lambda split, data_dir=None: (photographs, labels)
    )
    if spec == "folder":
        spec = folder
    elif spec == "npz":
        spec = tmp_path / "probes.npz"
        np.savez(spec, images=photographs)
    source = open_probes(spec, 3, RGB)
    search, confirm, third = source.draw(0, 5), source.draw(5, 6), source.draw(11, 1)
    assert search.shape == (5, *RGB)
    assert search.dtype == jnp.float32
    assert_8_bit(search)
    assert len(as_set(search) | as_set(confirm) | as_set(third)) == 12
    again = open_probes(spec, key(3), RGB)
    np.testing.assert_array_equal(confirm, again.draw(5, 6))
    np.testing.assert_array_equal(np.concatenate([search, confirm]), first_probes(spec, 3, 11, RGB))
    assert as_set(first_probes(spec, 4, 5, RGB)) != as_set(search)
    assert source.draw(2, 0).shape == (0, *RGB)


@pytest.mark.slow
def test_synthetic_sources_have_no_end_and_no_seams():
    source = open_probes("dead_leaves", 0, RGB)
    assert source.available is None
    across = source.draw(20, 60)
    assert len(as_set(across)) == 60
    for number in (20, 31, 32, 63, 64, 79):
        np.testing.assert_array_equal(source.draw(number, 1)[0], across[number - 20])
    assert len(as_set(source.draw(1_000_000, 2)) - as_set(across)) == 2


@pytest.mark.slow
def test_probes_of_a_seed_are_not_the_training_images_of_that_seed(shape_splits):
    (train, _), (test, _) = shape_splits
    drawn = as_set(first_probes("shapes", 0, 40, RGB))
    assert not drawn & {image.tobytes() for image in (*train, *test)}


def test_cifar10_is_the_test_split_and_fits_other_models(photographs, monkeypatch):
    asked = []

    def load(split, data_dir=None):
        asked.append((split, data_dir))
        return photographs, np.zeros(12, np.int32)

    monkeypatch.setattr("restore_jax.data.cifar10.load", load)
    source = open_probes("cifar10", 0, GREY, data_dir="somewhere")
    assert asked == [("test", "somewhere")]
    assert source.available == 12
    assert source.draw(0, 12).shape == (12, *GREY)


def test_folder_gives_its_own_images_in_an_order_set_by_the_seed(folder, photographs):
    source = open_probes(folder, 0, RGB)
    assert source.available == 12
    assert as_set(source.draw(0, 12)) == {image.tobytes() for image in photographs}
    orders = {open_probes(str(folder), seed, RGB).draw(0, 3).tobytes() for seed in range(5)}
    assert len(orders) == 5


def one_image(tmp_path, image, image_shape, name="image.png"):
    path = tmp_path / "one"
    path.mkdir()
    image.save(path / name)
    return np.asarray(first_probes(path, 0, 1, image_shape)[0])


def test_grey_file_is_repeated_for_an_rgb_model(tmp_path, photographs):
    grey = photographs[0, :, :, 0]
    image = one_image(tmp_path, Image.fromarray(grey), RGB)
    np.testing.assert_allclose(image, np.repeat(grey[..., None], 3, -1) / 255, atol=1e-6)


def test_colour_file_becomes_luma_for_a_grey_model(tmp_path, photographs):
    image = one_image(tmp_path, Image.fromarray(photographs[0]), (32, 32, 1))
    luma = photographs[0] @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(image[..., 0], luma, atol=1 / 255)


def test_transparent_file_is_put_on_white(tmp_path, photographs):
    rgba = np.dstack([photographs[0], np.full((32, 32), 255, np.uint8)])
    rgba[:16, :, 3] = 0
    image = one_image(tmp_path, Image.fromarray(rgba), RGB)
    assert (image[:16] == 1).all()
    np.testing.assert_allclose(image[16:], photographs[0, 16:] / 255, atol=1e-6)


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_file(tmp_path, transparent):
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.paste(0, (0, 0, 16, 32))
    if transparent:
        palette.info["transparency"] = 0
    image = one_image(tmp_path, palette, RGB)
    np.testing.assert_allclose(image[5, 25] * 255, [200, 100, 50], atol=1e-4)
    np.testing.assert_allclose(image[5, 5], 1.0 if transparent else 0.0)


def test_sixteen_bit_file_keeps_its_brightness(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    image = one_image(tmp_path, Image.fromarray(ramp), (32, 32, 1))
    np.testing.assert_allclose(image[..., 0], ramp / 65535, atol=1.01 / 255)


def test_other_size_is_cropped_about_its_centre_and_resized(tmp_path):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = (255, 0, 0)
    wide[:32, 32:64] = (0, 255, 0)
    image = one_image(tmp_path, Image.fromarray(wide), RGB, "wide.jpg")
    np.testing.assert_allclose(image[24, 24], [1, 0, 0], atol=0.05)
    np.testing.assert_allclose(image[8, 8], [0, 1, 0], atol=0.05)
    assert image.sum(-1).min() > 0.5


def test_turned_photograph_is_turned_back(tmp_path):
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / "turned"
    path.mkdir()
    Image.fromarray(upright[::-1, ::-1]).save(path / "a.jpg", exif=exif)
    image = np.asarray(first_probes(path, 0, 1, RGB)[0])
    assert image[:14].min() > 0.9
    assert image[18:].max() < 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["probes.npz", "probes.npy"])
def test_array_files(tmp_path, photographs, name, dtype):
    array = photographs if dtype == np.uint8 else (photographs / 255).astype(dtype)
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez_compressed(path, images=array, labels=np.zeros(12))
    else:
        np.save(path, array)
    source = open_probes(path, 0, RGB)
    assert source.available == 12
    assert as_set(source.draw(0, 12)) == {image.tobytes() for image in photographs}


def test_array_file_of_grey_images_without_channel_axis(tmp_path, photographs):
    np.savez(tmp_path / "grey.npz", photographs[..., 0])
    assert first_probes(tmp_path / "grey.npz", 0, 12, (32, 32, 1)).shape == (12, 32, 32, 1)


def test_refuses_what_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="'cifar100' are neither dead_leaves, shapes or cifar10"):
        open_probes("cifar100", 0, RGB)
    with pytest.raises(DataError, match="nor an existing folder or file"):
        open_probes(tmp_path / "absent.npz", 0, RGB)


def test_refuses_folder_without_images(tmp_path):
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(DataError, match=r"holds no image \(\.png, "):
        open_probes(tmp_path, 0, RGB)


def test_refuses_other_files(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(DataError, match=r"a folder of images, an \.npz or an \.npy file"):
        open_probes(tmp_path / "a.png", 0, RGB)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_refuses_unreadable_image_by_name(tmp_path, photographs, content):
    path = tmp_path / "broken.png"
    if content == "truncated":
        Image.fromarray(photographs[0]).save(path)
        content = path.read_bytes()[:600]
    path.write_bytes(content)
    source = open_probes(tmp_path, 0, RGB)
    with pytest.raises(DataError, match=r"broken\.png cannot be read \(.+\)\.$"):
        source.draw(0, 1)


def test_refuses_too_few_images(folder):
    source = open_probes(folder, 0, RGB)
    source.draw(0, 12)
    with pytest.raises(DataError, match="holds 12 images, but 15 are needed"):
        source.draw(10, 5)
    with pytest.raises(DataError, match="holds 12 images, but 13 are needed"):
        first_probes(folder, 0, 13, RGB)


def test_refuses_negative_numbers():
    with pytest.raises(ValueError, match="at least 0, not -1 and 3"):
        open_probes("shapes", 0, RGB).draw(-1, 3)


OK = np.zeros((2, 32, 32, 3), np.float32)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (OK + 255, r"values from 255 to 255; floating images must lie in \[0, 1\]"),
        (OK - 0.5, r"values from -0\.5 to -0\.5"),
        (np.where(np.arange(3) == 1, np.nan, OK), "hold NaN"),
        (np.where(np.arange(3) == 1, np.inf, OK), "values from 0 to inf"),
        (OK[0], r"must be \[N, 32, 32, 3\], not \[32, 32, 3\]"),
        (OK.transpose(0, 3, 1, 2), r"must be \[N, 32, 32, 3\], not \[2, 3, 32, 32\]"),
        (OK[..., :1], r"not \[2, 32, 32, 1\]"),
        (OK[:0], "holds no images"),
        (OK.astype(np.int32), "must be uint8 or floating, not int32"),
        (OK.astype(bool), "must be uint8 or floating, not bool"),
        ((OK + 1).astype(np.uint8), "hold no value above 1"),
        (np.array([{}, None]), "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["probes.npz", "probes.npy"])
def test_refuses_arrays(tmp_path, name, array, sentence):
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, images=array)
    else:
        np.save(path, array)
    with pytest.raises(DataError, match=sentence) as refusal:
        open_probes(path, 0, RGB)
    assert name in str(refusal.value)


def test_refuses_broken_and_ambiguous_archives(tmp_path):
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(DataError, match=r"broken\.npz cannot be read"):
        open_probes(broken, 0, RGB)
    np.savez(tmp_path / "two.npz", a=OK, b=OK)
    with pytest.raises(DataError, match='"images" or just one array, not a, b'):
        open_probes(tmp_path / "two.npz", 0, RGB)


def test_every_refusal_is_one_sentence(tmp_path):
    for spec in ("nothing", tmp_path):
        with pytest.raises(DataError) as refusal:
            open_probes(spec, 0, RGB)
        message = str(refusal.value)
        assert "\n" not in message
        assert message.endswith(".")


def test_suffixes_are_what_pillow_reads():
    known = Image.registered_extensions()
    assert all(suffix in known for suffix in probes.SUFFIXES)

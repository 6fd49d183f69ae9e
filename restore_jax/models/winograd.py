"""3x3 convolutions with fewer multiplications (Lavin & Gray 2016, arXiv 1509.09308).

Two by two outputs of one filter take 36 multiplications; transformed first, 16. The transforms are
sums, and what is left in between are sixteen matrix products. That pays where channels are many, on
processors whose convolutions are limited by arithmetic: a CPU. Gradients have the same form, and
pay there even more: XLA's own gradient of a kernel is the slowest part of a training step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

Array = jax.Array
FEWEST: float = 32
"""Channels, in and out, from which on it is faster than XLA's own convolution."""
STACKED = 8
"""Height up to which the sixteen products are best one batched product."""
CHUNK = 32
"""Images of a training batch that are taken at a time, at most; their tiles stay in the cache."""
FEW_CHANNELS = 16
"""Channels, in and out, up to which three rows at a time are faster than XLA's own convolution."""
FEW_IMAGES = 4
"""Images that are taken at a time there, at most."""
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def pays(cin: int, cout: int) -> bool:
    """Whether a 3x3 convolution of stride 1 is better done in this way, here."""
    return jax.default_backend() == "cpu" and min(cin, cout) >= FEWEST


class WinogradConv(nnx.Module):
    """A 3x3 convolution of stride 1 with zeros around: f32[b, H, W, cin] to [b, H, W, cout].

    Its kernel is `transformed`: f32[16, cin, cout].
    """

    def __init__(self, cin: int, cout: int, *, dtype: DTypeLike):
        self.kernel = nnx.Param(jnp.zeros((16, cin, cout)))
        self.bias = nnx.Param(jnp.zeros(cout))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """See the class."""
        kernel = self.kernel[...].astype(self.dtype)
        return convolve(x.astype(self.dtype), kernel) + self.bias[...].astype(self.dtype)


class TrainedConv(nnx.Module):
    """A convolution without bias that trains fast: f32[b, H, W, cin] to [b, H/s, W/s, cout].

    Its kernel is f32[k, k, cin, cout], k 1 or 3, with (k - 1) / 2 zeros around; s is 1 or 2.
    """

    def __init__(
        self, cin: int, cout: int, size: int, *, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, cin, cout)))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """See the class."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if kernel.shape[0] == 1:
            return x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
        return convolve_trained(x, kernel, self.stride)


def transformed(kernel: Array) -> Array:
    """A kernel f32[3, 3, cin, cout] as f32[16, cin, cout]."""
    spread = jnp.einsum("ai,bj,ijkl->abkl", _KERNEL, _KERNEL, kernel)
    return spread.reshape(16, *kernel.shape[2:])


def plain(kernel: Array) -> Array:
    """The inverse of `transformed`, up to rounding."""
    back = np.linalg.pinv(_KERNEL)
    spread = kernel.reshape(4, 4, *kernel.shape[1:])
    return jnp.einsum("ia,jb,abkl->ijkl", back, back, spread)


def convolve(x: Array, kernel: Array) -> Array:
    """Images [b, H, W, cin] with a `transformed` kernel [16, cin, cout]: [b, H, W, cout]."""
    b, height, width, _ = x.shape
    rows, cols = -(-height // 2), -(-width // 2)
    tiles = _image_tiles(x)
    if height <= STACKED:
        products = list(lax.dot_general(jnp.stack(tiles), kernel, (((2,), (1,)), ((0,), (0,)))))
    else:
        products = [tile @ kernel[i] for i, tile in enumerate(tiles)]
    products = [product.reshape(b, rows, cols, -1) for product in products]
    down = [_gather(products[j::4]) for j in range(4)]
    both = [_gather([down[j][p] for j in range(4)]) for p in range(2)]
    out = jnp.stack([jnp.stack(pair, 3) for pair in both], 2)
    return out.reshape(b, 2 * rows, 2 * cols, -1)[:, :height, :width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_trained(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Images [b, H, W, cin] with a kernel [3, 3, cin, cout], zeros around.

    Returns:
      [b, ceil(H / stride), ceil(W / stride), cout], stride 1 or 2.
    """
    return _by_channels(x, kernel, stride)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _by_channels(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    if stride == 1:
        of_images = _by_channels(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1)
    else:
        of_images = _strided_image_gradient(gradient, kernel, x.shape[1:3])
    return of_images, _kernel_gradient(x, gradient, stride)


convolve_trained.defvjp(_forward, _backward)


def _by_channels(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution, in whichever form is faster here."""
    if stride == 1 and max(kernel.shape[2:]) <= FEW_CHANNELS:
        out = lax.map(lambda some: _by_rows(some, kernel), chunks(x, FEW_IMAGES))
        return out.reshape(-1, *out.shape[2:])[: x.shape[0]]
    if stride != 1 or not pays(*kernel.shape[2:]):
        around, order = ((1, 1), (1, 1)), ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), around, dimension_numbers=order
        )
    spread = transformed(kernel)
    out = lax.map(lambda some: convolve(some, spread), chunks(x))
    return out.reshape(-1, *out.shape[2:])[: x.shape[0]]


def _by_rows(x: Array, kernel: Array) -> Array:
    """The convolution of stride 1 as one product: three rows in, three columns out."""
    b, height, width, cin = x.shape
    cout = kernel.shape[3]
    products = _three_rows(x) @ kernel.swapaxes(1, 2).reshape(3 * cin, 3 * cout)
    products = products.reshape(b, height, width + 2, 3, cout)
    first, second, third = (products[:, :, j : j + width, j] for j in range(3))
    return first + second + third


def _three_rows(x: Array) -> Array:
    """Images [b, H, W, c], zeros around: each pixel with those above and below, as
    [b H (W + 2), 3 c]."""
    b, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.concatenate([x[:, i : i + height] for i in range(3)], -1)
    return rows.reshape(b * height * (width + 2), 3 * channels)


def _strided_image_gradient(gradient: Array, kernel: Array, size: tuple[int, ...]) -> Array:
    """What images [b, H, W, cin] of that size get, at stride 2."""
    cin, cout = kernel.shape[2:]
    side_by_side = jnp.moveaxis(kernel, 3, 0).reshape(cout, 9 * cin)

    def of_some(gradient: Array) -> Array:
        b, rows, cols, _ = gradient.shape
        shares = (gradient @ side_by_side).reshape(b, rows, cols, 3, 3, cin)
        shares = _overlap(shares, 1, 3, size[0])
        return _overlap(shares, 2, 3, size[1])

    out = lax.map(of_some, chunks(gradient))
    return out.reshape(-1, *out.shape[2:])[: gradient.shape[0]]


def _overlap(shares: Array, axis: int, of: int, size: int) -> Array:
    """Adds up, along an axis, what each output gives to its three neighbouring inputs.

    The three lie along the axis `of`, which goes; output r's are the inputs 2 r - 1 to 2 r + 1.
    """
    before, at, after = (lax.index_in_dim(shares, i, of, keepdims=False) for i in range(3))
    # The input behind an output is the one before the next.
    behind = after + lax.pad(
        lax.slice_in_dim(before, 1, None, axis=axis), jnp.zeros((), before.dtype),
        [(0, int(d == axis), 0) for d in range(before.ndim)],
    )  # fmt: skip
    pairs = jnp.stack([at, behind], axis + 1)
    merged = pairs.reshape(*at.shape[:axis], -1, *at.shape[axis + 1 :])
    return lax.slice_in_dim(merged, 0, size, axis=axis)


def _kernel_gradient(x: Array, gradient: Array, stride: int) -> Array:
    """What [3, 3, cin, cout] gets, from images [b, H, W, cin] and [b, H/s, W/s, cout]."""
    cin, cout = x.shape[-1], gradient.shape[-1]
    if stride == 1 and min(cin, cout) < FEWEST:
        return _kernel_gradient_by_rows(x, gradient)
    many = stride == 1
    shifts = functools.partial(_products_of_shifts, stride)
    form = _products_of_tiles if many else shifts
    shape = (16 if many else 9, cin, cout)
    stacked = many and x.shape[1] <= STACKED

    def add(total: Array, some: tuple[Array, Array]) -> tuple[Array, None]:
        left, right = form(*some)
        if stacked:
            over = (((1,), (1,)), ((0,), (0,)))
            return total + lax.dot_general(jnp.stack(left), jnp.stack(right), over), None
        return total + jnp.stack([a.T @ b for a, b in zip(left, right, strict=True)]), None

    total, _ = lax.scan(add, jnp.zeros(shape, x.dtype), (chunks(x), chunks(gradient)))
    if not many:
        return total.reshape(3, 3, *shape[1:])
    spread = total.reshape(4, 4, *shape[1:])
    return jnp.einsum("ai,bj,abkl->ijkl", _KERNEL, _KERNEL, spread)


def _kernel_gradient_by_rows(x: Array, gradient: Array) -> Array:
    """`_kernel_gradient` at stride 1 where channels are few."""
    cin, cout = x.shape[-1], gradient.shape[-1]

    def add(total: Array, some: tuple[Array, Array]) -> tuple[Array, None]:
        x, gradient = some
        columns = [jnp.pad(gradient, ((0, 0), (0, 0), (j, 2 - j), (0, 0))) for j in range(3)]
        return total + _three_rows(x).T @ jnp.concatenate(columns, -1).reshape(-1, 3 * cout), None

    few = (chunks(x, FEW_IMAGES), chunks(gradient, FEW_IMAGES))
    total, _ = lax.scan(add, jnp.zeros((3 * cin, 3 * cout), x.dtype), few)
    return total.reshape(3, cin, 3, cout).swapaxes(1, 2)


def _products_of_tiles(x: Array, gradient: Array) -> tuple[list[Array], list[Array]]:
    return _image_tiles(x), _output_tiles(gradient)


def _products_of_shifts(stride: int, x: Array, gradient: Array) -> tuple[list[Array], list[Array]]:
    _, rows, cols, cout = gradient.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    down, right = (stride * (n - 1) + 1 for n in (rows, cols))
    moved = [
        x[:, i : i + down : stride, j : j + right : stride].reshape(-1, x.shape[-1])
        for i in range(3)
        for j in range(3)
    ]
    return moved, [gradient.reshape(-1, cout)] * 9


def chunks(x: Array, most: int = CHUNK) -> Array:
    """[b, ...] as [chunks, images, ...], zeros at the end; at most so many images each."""
    count = x.shape[0]
    whole = [size for size in range(most // 2, most + 1) if count % size == 0]
    number = count // whole[-1] if whole else -(-count // most)
    size = -(-count // number)
    x = jnp.pad(x, ((0, number * size - count), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(number, size, *x.shape[1:])


def _image_tiles(x: Array) -> list[Array]:
    """Sixteen [b * rows * cols, c], of each 4x4 that gives 2x2 outputs; images [b, H, W, c]."""
    _, height, width, channels = x.shape
    rows, cols = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * cols - width + 1), (0, 0)))
    pixels = [
        [x[:, i : i + 2 * rows : 2, j : j + 2 * cols : 2] for i in range(4)] for j in range(4)
    ]
    down = [_spread(column) for column in pixels]
    tiles = [tile for i in range(4) for tile in _spread([down[j][i] for j in range(4)])]
    return [tile.reshape(-1, channels) for tile in tiles]


def _output_tiles(gradient: Array) -> list[Array]:
    """Sixteen [b * rows * cols, c], of each 2x2 outputs' gradients; images [b, H, W, c]."""
    _, height, width, channels = gradient.shape
    gradient = jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    down = [_scatter([gradient[:, i::2, j::2] for i in range(2)]) for j in range(2)]
    tiles = [tile for i in range(4) for tile in _scatter([down[j][i] for j in range(2)])]
    return [tile.reshape(-1, channels) for tile in tiles]


def _spread(four: list[Array]) -> list[Array]:
    """What four neighbours contribute, on the way in."""
    a, b, c, d = four
    return [a - c, b + c, c - b, b - d]


def _gather(four: list[Array]) -> list[Array]:
    """Two outputs of four products, on the way out."""
    a, b, c, d = four
    return [a + b + c, b - c - d]


def _scatter(two: list[Array]) -> list[Array]:
    """`_gather` backwards: four products' gradients of two outputs'."""
    a, b = two
    return [a, a + b, a - b, -b]

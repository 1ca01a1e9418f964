"""Random numbers as functions of a key and a counter: the same in eager mode, in a graph, under XLA, on any device."""

from typing import Any

import tensorflow as tf

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Encrypts a counter: Threefry-2x32 with 20 rounds.

    TensorFlow's own stateless generators take one seed for a whole tensor; a batch of images needs one for each.

    Args:
        key: Two uint32 tensors.
        counter: Two uint32 tensors; all four broadcast against each other.

    Returns:
        Two uint32 tensors of random bits.

    Reference:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11.
    """
    keys = [*key, tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(key[0], key[1]), tf.constant(_PARITY, tf.uint32))]
    left, right = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            left += right
            right = tf.bitwise.bitwise_xor(_rotated(right, bits), left)
        left += keys[(group + 1) % 3]
        right += keys[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return left, right


def epoch_draws(size: int, *, seed: Any, epoch: Any) -> tuple[Any, Any]:
    """Draws all that is random about an epoch: the order of a whole split, and a seed for each of its images.

    Args:
        size: The number of images.
        seed: The run's seed, a scalar integer.
        epoch: The number of the epoch, a scalar integer.

    Returns:
        int64 tensor of shape `(size,)` with every index once; int32 tensor of shape `(size, 2)` of the seeds.
    """
    # One cipher for both, with different counters, so that no image's seed is made of the number that places it.
    index, purpose = _uint32(tf.range(size))[None, :], _uint32([[0], [1]])
    bits = tf.stack(threefry((_uint32(seed), _uint32(epoch)), (index, purpose)), axis=-1)
    order = tf.argsort(tf.bitcast(bits[0], tf.int64), stable=True)
    return tf.cast(order, tf.int64), tf.bitcast(bits[1], tf.int32)


def crop_position(seed: Any) -> Any:
    """Draws where along an image's long side it is cropped.

    A number of its own from the cipher would take as long as a tenth of the decoding: this is the upper half of the
    key with which the others are drawn, and tells nothing about them.

    Args:
        seed: int32 tensor of shape `(2,)`, or of several seeds, `(batch, 2)`.

    Returns:
        float32 tensor of shape `()` or `(batch,)` in [0, 1), multiples of 2**-24.
    """
    bits = tf.bitwise.right_shift(tf.bitcast(seed[..., 0], tf.uint32), tf.constant(8, tf.uint32))
    return tf.cast(bits, tf.float32) * 2.0**-24


def uniforms(seeds: Any, count: int) -> Any:
    """Draws `count` numbers in [0, 1) for each seed.

    Args:
        seeds: int32 tensor of shape `(n, 2)`.
        count: How many numbers each seed gives.

    Returns:
        float32 tensor of shape `(count, n)`: multiples of 2**-24.
    """
    keys = tf.bitcast(seeds, tf.uint32)
    draws = tf.range(count, dtype=tf.int32)[:, None]
    bits, _ = threefry((keys[None, :, 0], keys[None, :, 1]), (_uint32(draws), tf.zeros_like(_uint32(draws))))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _rotated(values: Any, bits: int) -> Any:
    left = tf.bitwise.left_shift(values, tf.constant(bits, tf.uint32))
    return tf.bitwise.bitwise_or(left, tf.bitwise.right_shift(values, tf.constant(32 - bits, tf.uint32)))


def _uint32(values: Any) -> Any:
    return tf.cast(tf.convert_to_tensor(values), tf.uint32)

"""Draws of other packages' random layers from a seed, instead of from state of their own.

Keras's random layers count in a variable, KerasCV's draw from variables and from TensorFlow's global state. So the
result depends on how many batches came before, and, in parallel, on which thread came first. But all of them ask for
their draws by a few public functions, and only while their graph is built. During that time, and for the thread that
builds it, those functions return the stateless draws of a seed.

A `keras.StatelessScope` would do for Keras's own layers, without replacing a function. It does not reach KerasCV's,
which draw through `tf.random` and `tf.random.Generator`, and whose RandAugment and MixUp are promised to draw from the
seed. Two mechanisms would be more than this one, which serves both.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any

import keras
import tensorflow as tf

_lock = RLock()


class _Draws:
    """The seeds of the draws of a graph that is being built, one after the other."""

    def __init__(self, seed: Any) -> None:
        self.seed = seed
        self.count = 0

    def next_seed(self) -> Any:
        self.count += 1
        return self.seed + tf.constant([0, self.count])


_current: ContextVar[_Draws | None] = ContextVar("draws", default=None)


@tf.autograph.experimental.do_not_convert
@contextmanager
def draws_from(seed: Any) -> Iterator[None]:
    """Makes random layers that are called inside it, in graph mode, functions of their inputs and a seed.

    It covers what is drawn through `keras.random`, `tf.random.Generator` and the random functions of `tf.random`, also
    inside `tf.cond` and `tf.while_loop`; not what Python, NumPy or `tf.image` draw. Every turn of `tf.map_fn`, or of a
    loop that AutoGraph makes, has the same draws: call a layer that loops over a batch with one image, and with its
    own seed.

    Args:
        seed: int32 tensor of shape `(2,)`.
    """
    with ExitStack() as stack:
        if _current.get() is None:
            stack.enter_context(_lock)
            for owner, name, make in _REPLACED:
                stack.enter_context(_replaced(owner, name, make))
        token = _current.set(_Draws(seed))
        stack.callback(_current.reset, token)
        yield


@contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    original = getattr(owner, name)

    def drawn_or_original(*args: Any, **kwargs: Any) -> Any:
        draws = _current.get()
        return original(*args, **kwargs) if draws is None else function(draws, original, *args, **kwargs)

    setattr(owner, name, drawn_or_original)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _keras_seed(draws: _Draws, *_: Any, **__: Any) -> Any:
    return draws.next_seed()


def _uniform(
    draws: _Draws, _: Any, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32, **__: Any
) -> Any:
    return tf.random.stateless_uniform(shape, draws.next_seed(), minval, maxval, dtype)


def _normal(
    draws: _Draws, _: Any, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, **__: Any
) -> Any:
    return tf.random.stateless_normal(shape, draws.next_seed(), mean, stddev, dtype)


def _truncated_normal(
    draws: _Draws, _: Any, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, **__: Any
) -> Any:
    return tf.random.stateless_truncated_normal(shape, draws.next_seed(), mean, stddev, dtype)


def _gamma(draws: _Draws, _: Any, shape: Any, alpha: Any, beta: Any = None, dtype: Any = tf.float32, **__: Any) -> Any:
    alpha = tf.convert_to_tensor(alpha, dtype)
    beta = tf.ones([], dtype) if beta is None else tf.convert_to_tensor(beta, dtype)
    shape = tf.convert_to_tensor(shape, tf.int32)
    whole = tf.concat([tf.reshape(shape, [-1]), tf.broadcast_dynamic_shape(tf.shape(alpha), tf.shape(beta))], axis=0)
    return tf.random.stateless_gamma(whole, draws.next_seed(), alpha, beta, dtype)


def _shuffle(draws: _Draws, _: Any, value: Any, **__: Any) -> Any:
    return tf.random.experimental.stateless_shuffle(value, draws.next_seed())


def _categorical(draws: _Draws, _: Any, logits: Any, num_samples: Any, dtype: Any = tf.int64, **__: Any) -> Any:
    return tf.random.stateless_categorical(logits, num_samples, draws.next_seed(), dtype)


def _while_loop(draws: _Draws, original: Any, cond: Any, body: Any, loop_vars: Any, **options: Any) -> Any:
    """Builds a loop each turn of which has draws of its own, although its body is built once."""
    seed = draws.next_seed()

    def turn(number: Any, *values: Any) -> list[Any]:
        with draws_from(tf.random.experimental.stateless_fold_in(seed, number)):
            result = body(*values)
        return [number + 1, *(result if isinstance(result, (list, tuple)) else [result])]

    if options.get("shape_invariants") is not None:
        options["shape_invariants"] = [tf.TensorShape([]), *options["shape_invariants"]]
    return original(lambda _, *values: cond(*values), turn, [tf.constant(0), *loop_vars], **options)[1:]


def _of_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of a function: the generator is left out."""

    def method(draws: _Draws, original: Any, _: Any, *args: Any, **kwargs: Any) -> Any:
        return function(draws, original, *args, **kwargs)

    return method


def _full_int(draws: _Draws, _: Any, shape: Any, dtype: Any = tf.uint64, **__: Any) -> Any:
    return tf.random.stateless_uniform(shape, draws.next_seed(), None, None, dtype)


_REPLACED: list[tuple[Any, str, Callable[..., Any]]] = [
    (keras.random.SeedGenerator, "next", _keras_seed),
    (tf.random, "uniform", _uniform),
    (tf.random, "normal", _normal),
    (tf.random, "truncated_normal", _truncated_normal),
    (tf.random, "gamma", _gamma),
    (tf.random, "shuffle", _shuffle),
    (tf.random, "categorical", _categorical),
    (tf, "while_loop", _while_loop),
    (tf.random.Generator, "uniform", _of_generator(_uniform)),
    (tf.random.Generator, "normal", _of_generator(_normal)),
    (tf.random.Generator, "truncated_normal", _of_generator(_truncated_normal)),
    (tf.random.Generator, "uniform_full_int", _of_generator(_full_int)),
]

"""Saves and restores the state of callbacks."""

from __future__ import annotations

from typing import Any

import keras

from keras_sgdr.validation import InvalidTypeError

# Keras's callbacks forget these at the beginning of a training, or in another process.
_REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "best_weights", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def check_has_state(callback: Any) -> None:
    """Refuses a callback of which it is not known what to remember.

    Raises:
        TypeError: If it is none of Keras's above, and has no `get_state` and `set_state`.
    """
    if not (hasattr(callback, "get_state") and hasattr(callback, "set_state")) and not _names(callback):
        known = ", ".join(each.__name__ for each in _REMEMBERED)
        raise InvalidTypeError(
            f"`callbacks` must hold callbacks with `get_state` and `set_state`, or Keras's {known}. Received: "
            f"{callback!r}. Leave it out if it remembers nothing from one epoch to the next."
        )


def get_state(callback: Any) -> Any:
    """Returns what a callback remembers, a tree of plain values and arrays."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    return {name: getattr(callback, name) for name in _names(callback) if hasattr(callback, name)}


def set_state(callback: Any, state: Any) -> None:
    """Restores in a callback what `get_state` returned."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    else:
        vars(callback).update(state)


def _names(callback: Any) -> tuple[str, ...]:
    return next((names for kind, names in _REMEMBERED.items() if isinstance(callback, kind)), ())

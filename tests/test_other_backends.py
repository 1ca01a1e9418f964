"""Tests of the rest of the suite, run under JAX and PyTorch: one process for each backend."""

import pytest

from tests.backends import BACKENDS, run_under

# For what README says of every backend: the modules, and which of their tests, for JAX compiles each model anew.
CHOSEN = {
    # Every optimizer against one of its own per group (on PyTorch those with parallel updates take another way), and
    # with its momentum moved; the global norm; weight decay.
    "tests/optimizers/test_differential_lr.py": "own or global",
    "tests/optimizers/test_differential_lr_decay.py": "own",
    "tests/optimizers/test_keras_private_names.py": "private or generator",
    # Freezing and unfreezing with slots kept, by `freeze_to` too.
    "tests/optimizers/test_differential_lr_freezing.py": "functional or frozen_layers or freeze_to",
    # Loss scaling, accumulated gradients, jit, moving averages, learning-rate callbacks.
    "tests/optimizers/test_differential_lr_training.py": "ema or accumul or jit or scal or later or moves_all_groups",
    # `.keras` files, loaded in another process.
    "tests/optimizers/test_differential_lr_saving.py": "settings or alike",
    "tests/schedules/test_momentum.py": "each_group or all_batches or failed or saved or inside",
    "tests/schedules/test_one_cycle.py": "agrees or goes_on or flat_cosine_is or beta_1",
    "tests/schedules/test_snapshots.py": "hold or restore or ensemble",
    # On PyTorch all that it promises: bit for bit, where no layer draws at random.
    "tests/checkpoint/test_training_checkpoint.py": "ends_where and differential or schedulers_go_on",
    "tests/checkpoint/test_training_state.py": "test",
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_tests_hold_under_another_backend(backend):
    pattern = " or ".join(f"({path.rpartition('/')[2]} and ({chosen}))" for path, chosen in CHOSEN.items())
    code = f"""
        import sys
        import pytest
        sys.exit(pytest.main([*{list(CHOSEN)!r}, "-q", "-p", "no:cacheprovider", "--durations=10", "-k", {pattern!r}]))
    """
    assert " passed" in run_under(backend, code, timeout=480)

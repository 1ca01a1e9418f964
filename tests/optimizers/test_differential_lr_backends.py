"""The tests of DifferentialLR under JAX and PyTorch."""

import pytest

from tests.backends import BACKENDS, run_under

# Every optimizer against one optimizer per group (on torch those with parallel updates take another way), the JAX
# trainer's stateless updates while layers are frozen, moving averages.
FILES = [f"tests/optimizers/test_differential_lr{part}.py" for part in ("", "_decay", "_freezing", "_training")]
CHOSEN = "own or global or functional or frozen_layers or later or ema"


@pytest.mark.parametrize("backend", BACKENDS)
def test_differential_lr_passes_its_tests(backend):
    code = f"""
        import sys
        import pytest
        sys.exit(pytest.main([*{FILES!r}, "-q", "-p", "no:cacheprovider", "-k", {CHOSEN!r}]))
    """
    assert " passed" in run_under(backend, code)

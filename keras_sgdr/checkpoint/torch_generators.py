"""`TorchGenerators`: the states of PyTorch's random generators, on whichever backend PyTorch is in use."""

from __future__ import annotations

import sys


class TorchGenerators:
    """A copy of the states of PyTorch's global generator and of its GPUs', of none where PyTorch is not loaded."""

    def __init__(self) -> None:
        # Not imported for this alone, which would take seconds: what is not loaded has drawn nothing.
        self._is_loaded = "torch" in sys.modules
        if self._is_loaded:
            import torch

            self._cpu = torch.get_rng_state()
            self._gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Puts the states back."""
        if self._is_loaded:
            import torch

            torch.set_rng_state(self._cpu)
            torch.cuda.set_rng_state_all(self._gpus)

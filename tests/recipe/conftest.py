"""What the tests of the recipe share."""

import dataclasses

import pytest


@pytest.fixture(scope="module")
def tiny(tiny_recipe):
    """`tiny_recipe` with a rate given for the head too: no finder at all."""
    return dataclasses.replace(tiny_recipe, head_learning_rate=1e-3)

"""What the tests of the recipe share."""

import dataclasses

import pytest


@pytest.fixture(scope="module")
def tiny(tiny_recipe):
    """And without the head's finder."""
    return dataclasses.replace(tiny_recipe, head_learning_rate=1e-3)

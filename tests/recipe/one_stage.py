"""Runs one stage of a recipe, and says what its parts cost and its models are worth."""

import contextlib

import numpy as np

from keras_sgdr.recipe import stages
from keras_sgdr.recipe.candidates import Candidate
from keras_sgdr.recipe.costs import Costs
from keras_sgdr.recipe.images import index_for
from keras_sgdr.recipe.run import Run
from keras_sgdr.recipe.run_directory import RunDirectory

COSTS = Costs(
    check=0.001,
    decode=0.002,
    predict=0.1,
    train=0.4,
    epoch=0.0,
    prepare_predict=2.0,
    prepare_train=8.0,
    parameters=10**6,
    features=1280,
)


@contextlib.contextmanager
def begun(folder, recipe, output):
    """A run before its first stage, so that a stage can be run alone."""
    with RunDirectory(output, settings={}, stages=stages.STAGES) as directory:
        yield Run(recipe, index_for(folder, recipe), directory, 1)


def run_stage(run, name):
    (stage,) = (stage for stage in stages.STAGES if stage.name == name)
    values = stage.run(run)
    run.directory.record(name, values)
    return values


def candidate_of_loss(name, loss, temperature=1.0):
    """A model whose loss is so high on each of eight images, half of which it has right."""
    return Candidate(name, np.full(8, loss), np.arange(8) % 2 == 0, temperature)

"""The fast.ai workflow for image classifiers, in Keras 3.

Importing the package registers its Keras classes, so that `keras.models.load_model` finds them. What needs
TensorFlow or KerasCV is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_sgdr._version import __version__ as __version__
from keras_sgdr.checkpoint.training_checkpoint import TrainingCheckpoint
from keras_sgdr.evaluation.tta_layer import TTA
from keras_sgdr.lr_finder.lr_curve import LRCurve
from keras_sgdr.lr_finder.lr_find import LRFinder, lr_find
from keras_sgdr.lr_finder.lr_find_groups import lr_find_groups
from keras_sgdr.models.batch_norm import recalibrate_batch_norm
from keras_sgdr.models.classifier import build_classifier, load_classifier
from keras_sgdr.models.efficientnet_lite import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2
from keras_sgdr.models.group_summary import group_summary
from keras_sgdr.models.layer_groups import freeze_to, layer_groups, unfreeze
from keras_sgdr.optimizers.differential_lr import DifferentialLR
from keras_sgdr.schedules.cosine_cycles import total_epochs
from keras_sgdr.schedules.one_cycle import OneCycleScheduler
from keras_sgdr.schedules.sgdr_schedule import SGDR
from keras_sgdr.schedules.sgdr_scheduler import SGDRScheduler
from keras_sgdr.schedules.snapshots import CycleSnapshots, SnapshotEnsemble, StopWhenOverfitting

if TYPE_CHECKING:
    from keras_sgdr.augmentation.random_view import basic, side_on, top_down
    from keras_sgdr.data.check.check_folder import check_folder
    from keras_sgdr.data.dataset.load_dataset import load_dataset
    from keras_sgdr.data.dataset.write_shards import write_shards
    from keras_sgdr.data.index.folder import FolderIndex, index_folder
    from keras_sgdr.distribution.strategy import distribution_strategy
    from keras_sgdr.evaluation.interpretation import interpret
    from keras_sgdr.evaluation.tta import predict_tta
    from keras_sgdr.precompute.feature_cache import FeatureCache
    from keras_sgdr.precompute.precompute import precompute_features
    from keras_sgdr.recipe.recipe import Recipe
    from keras_sgdr.recipe.report import write_report
    from keras_sgdr.recipe.train import plan_training, train_image_classifier
    from keras_sgdr.serving.savedmodel import export_savedmodel


_LAZY = {
    "FeatureCache": "precompute.feature_cache",
    "FolderIndex": "data.index.folder",
    "Recipe": "recipe.recipe",
    "basic": "augmentation.random_view",
    "check_folder": "data.check.check_folder",
    "distribution_strategy": "distribution.strategy",
    "export_savedmodel": "serving.savedmodel",
    "index_folder": "data.index.folder",
    "interpret": "evaluation.interpretation",
    "load_dataset": "data.dataset.load_dataset",
    "plan_training": "recipe.train",
    "precompute_features": "precompute.precompute",
    "predict_tta": "evaluation.tta",
    "side_on": "augmentation.random_view",
    "top_down": "augmentation.random_view",
    "train_image_classifier": "recipe.train",
    "write_report": "recipe.report",
    "write_shards": "data.dataset.write_shards",
}

__all__ = [
    "SGDR",
    "TTA",
    "CycleSnapshots",
    "DifferentialLR",
    "EfficientNetLite0",
    "EfficientNetLite1",
    "EfficientNetLite2",
    "FeatureCache",
    "FolderIndex",
    "LRCurve",
    "LRFinder",
    "OneCycleScheduler",
    "Recipe",
    "SGDRScheduler",
    "SnapshotEnsemble",
    "StopWhenOverfitting",
    "TrainingCheckpoint",
    "basic",
    "build_classifier",
    "check_folder",
    "distribution_strategy",
    "export_savedmodel",
    "freeze_to",
    "group_summary",
    "index_folder",
    "interpret",
    "layer_groups",
    "load_classifier",
    "load_dataset",
    "lr_find",
    "lr_find_groups",
    "plan_training",
    "precompute_features",
    "predict_tta",
    "recalibrate_batch_norm",
    "side_on",
    "top_down",
    "total_epochs",
    "train_image_classifier",
    "unfreeze",
    "write_report",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The fast.ai workflow for image classifiers, in Keras 3.

Importing the package registers its Keras classes, so that `keras.models.load_model` finds them. What needs
TensorFlow or KerasCV is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_sgdr.models.batch_norm import recalibrate_batch_norm
from keras_sgdr.models.classifier import build_classifier, load_classifier
from keras_sgdr.models.efficientnet_lite import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2
from keras_sgdr.models.group_summary import summary
from keras_sgdr.models.layer_groups import freeze_to, layer_groups, unfreeze
from keras_sgdr.training.checkpoint import TrainingCheckpoint
from keras_sgdr.training.differential_lr import DifferentialLR
from keras_sgdr.training.group_finder import lr_find_groups
from keras_sgdr.training.lr_curve import LRCurve
from keras_sgdr.training.lr_finder import LRFinder, lr_find
from keras_sgdr.training.one_cycle import OneCycleScheduler
from keras_sgdr.training.schedules import total_epochs
from keras_sgdr.training.sgdr import SGDRScheduler
from keras_sgdr.training.sgdr_schedule import SGDR
from keras_sgdr.training.snapshots import CycleSnapshots, SnapshotEnsemble, StopWhenOverfitting

if TYPE_CHECKING:
    from keras_sgdr.data.augmentation import basic, side_on, top_down
    from keras_sgdr.data.dataset import load_dataset
    from keras_sgdr.data.doctor import check_folder
    from keras_sgdr.data.folder import FolderIndex, index_folder
    from keras_sgdr.evaluation.interpretation import interpret
    from keras_sgdr.evaluation.tta import predict_tta
    from keras_sgdr.recipe import train_image_classifier
    from keras_sgdr.serving.savedmodel import export_savedmodel
    from keras_sgdr.settings import Recipe
    from keras_sgdr.training.feature_cache import FeatureCache
    from keras_sgdr.training.features import precompute_features

__version__ = "0.1.0"

_LAZY = {
    "FeatureCache": "training.feature_cache",
    "FolderIndex": "data.folder",
    "Recipe": "settings",
    "basic": "data.augmentation",
    "check_folder": "data.doctor",
    "export_savedmodel": "serving.savedmodel",
    "index_folder": "data.folder",
    "interpret": "evaluation.interpretation",
    "load_dataset": "data.dataset",
    "precompute_features": "training.features",
    "predict_tta": "evaluation.tta",
    "side_on": "data.augmentation",
    "top_down": "data.augmentation",
    "train_image_classifier": "recipe",
}

__all__ = [
    "SGDR",
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
    "export_savedmodel",
    "freeze_to",
    "index_folder",
    "interpret",
    "layer_groups",
    "load_classifier",
    "load_dataset",
    "lr_find",
    "lr_find_groups",
    "precompute_features",
    "predict_tta",
    "recalibrate_batch_norm",
    "side_on",
    "summary",
    "top_down",
    "total_epochs",
    "train_image_classifier",
    "unfreeze",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The eight steps spelled out, for those who want to change one of them.

    python examples/eight_steps.py FOLDER [IMAGE_SIZE [EPOCHS]]

FOLDER has train/ and valid/, each with a folder of images per class. EPOCHS are those of step 8.
"""

import dataclasses
import sys

import keras

from keras_sgdr import (
    DifferentialLR,
    SGDRScheduler,
    build_classifier,
    export_savedmodel,
    freeze_to,
    index_folder,
    interpret,
    layer_groups,
    load_dataset,
    lr_find,
    precompute_features,
    predict_tta,
    side_on,
    unfreeze,
)
from keras_sgdr.recipe.candidates import guessing_loss
from keras_sgdr.recipe.rate_choice import choose_rate


def compile_with(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])


def main(folder: str, image_size: int = 224, epochs: int = 7) -> None:
    keras.utils.set_random_seed(0)

    # 1: augmentation on, activations precomputed
    index = index_folder(folder)
    augmentation = side_on(max_zoom=1.1)
    train = load_dataset(index.train, image_size=image_size, augmentation=augmentation, shuffle=True)
    valid = load_dataset(index.valid, image_size=image_size)
    model = build_classifier(len(index.class_names), image_size=image_size)
    freeze_to(model, -1)
    features, head = precompute_features(model, load_dataset(index.train, image_size=image_size))

    # 2 and 3: find the rate, train the head on the activations
    compile_with(head, keras.optimizers.Adam())
    rate = lr_find(head, features).suggest("valley")
    compile_with(head, keras.optimizers.Adam(rate))
    head.fit(features, epochs=2)

    # 4: the head with augmentation
    compile_with(model, keras.optimizers.Adam(rate))
    model.fit(train, validation_data=valid, epochs=3, callbacks=[SGDRScheduler(rate, cycle_len=1)])

    # 5, 6 and 7: unfreeze, lower rates for earlier groups, find the rate again. The head has learnt, so that the curve
    # does not fall: it tells how high the rate may be, and the usual one is taken if it is lower.
    unfreeze(model)
    compile_with(model, DifferentialLR(keras.optimizers.AdamW(), layer_groups(model), [3e-4, 6e-4, 1e-3]))
    curve = lr_find(model, train, start_lr=1e-5, end_lr=1.0, num_steps=50)
    rate, why = choose_rate(dataclasses.replace(curve, guessing_loss=guessing_loss(index.train.labels)))
    print(f"rate {rate:.1e}: {why}")

    # 8: all of it, in one long cycle, the rate rising over its first batches; with n_cycles=2, another twice as long
    warmup_steps = min(12, epochs * len(train) // 2)
    scheduler = SGDRScheduler(
        rate,
        cycle_len=epochs,
        cycle_mult=2,
        n_cycles=1,
        warmup="restarts" if warmup_steps else None,
        warmup_steps=warmup_steps or None,
    )
    model.fit(train, validation_data=valid, epochs=scheduler.epochs, callbacks=[scheduler])

    # test-time augmentation, a look at the mistakes, an export
    result = interpret(predict_tta(model, valid, augmentation=augmentation), index.valid.labels, index.class_names)
    print(f"accuracy {result.accuracy:.4f}; most confused: {result.most_confused()[:3]}")
    print("exported to", export_savedmodel(model, "export", class_names=index.class_names))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))

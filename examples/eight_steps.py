"""The eight steps spelled out: python examples/eight_steps.py FOLDER [IMAGE_SIZE [EPOCHS of step 8]]."""

import dataclasses
import sys

import keras

import keras_sgdr as ks
from keras_sgdr.optimizers.group_rates import discounted_rates
from keras_sgdr.recipe.candidates import guessing_loss
from keras_sgdr.recipe.rate_choice import USUAL_RATE, choose_rate

COMPILE = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


def main(folder: str, image_size: int = 224, epochs: int = 7) -> None:
    keras.utils.set_random_seed(0)

    # 1: FOLDER has train/ and valid/, each with a folder per class. Augmentation on, activations precomputed
    index = ks.index_folder(folder)
    augmentation = ks.side_on(max_zoom=1.1)
    train = ks.load_dataset(index.train, image_size=image_size, augmentation=augmentation, shuffle=True)
    valid = ks.load_dataset(index.valid, image_size=image_size)
    model = ks.build_classifier(len(index.class_names), image_size=image_size)
    ks.freeze_to(model, -1)
    features, head = ks.precompute_features(model, ks.load_dataset(index.train, image_size=image_size))

    # 2 and 3: find the rate, train the head on the activations
    head.compile(keras.optimizers.Adam(), **COMPILE)
    rate = ks.lr_find(head, features).suggest("valley")
    head.compile(keras.optimizers.Adam(rate), **COMPILE)
    head.fit(features, epochs=2)

    # 4: the head with augmentation
    model.compile(keras.optimizers.Adam(rate), **COMPILE)
    model.fit(train, validation_data=valid, epochs=3, callbacks=[ks.SGDRScheduler(rate, cycle_len=1)])

    # 5, 6 and 7: unfreeze, lower rates for earlier groups; what has learnt can only be told how high the rate may be
    ks.unfreeze(model)
    rates = discounted_rates(USUAL_RATE, num_groups=3, factor=ks.Recipe().group_factor)
    model.compile(ks.DifferentialLR(keras.optimizers.AdamW(), ks.layer_groups(model), rates), **COMPILE)
    curve = ks.lr_find(model, train, start_lr=1e-5, end_lr=1.0, num_steps=50)
    rate, why = choose_rate(dataclasses.replace(curve, guessing_loss=guessing_loss(index.train.labels)))
    print(f"rate {rate:.1e}: {why}")

    # 8: all of it, in one long cycle, the rate rising over its first batches
    steps = min(12, epochs * len(train) // 2) or None
    scheduler = ks.SGDRScheduler(rate, cycle_len=epochs, warmup="restarts" if steps else None, warmup_steps=steps)
    model.fit(train, validation_data=valid, epochs=epochs, callbacks=[scheduler])

    # test-time augmentation, a look at the mistakes, an export
    probabilities = ks.predict_tta(model, valid, augmentation=augmentation)
    result = ks.interpret(probabilities, index.valid.labels, index.class_names)
    print(f"accuracy {result.accuracy:.4f}; most confused: {result.most_confused()[:3]}")
    print("exported to", ks.export_savedmodel(model, "export", class_names=index.class_names))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))

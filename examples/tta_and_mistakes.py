"""Test-time augmentation with evidence, and a look at the worst mistakes, for a classifier that is there.

    python examples/tta_and_mistakes.py RUN FOLDER

RUN is a directory of `keras-sgdr train`, FOLDER has a folder of images per class.
"""

import sys

import keras

from keras_sgdr import TTA, index_folder, interpret, load_classifier, load_dataset, predict_tta, side_on
from keras_sgdr.evaluation.interpretation import mcnemar


def main(run: str, folder: str) -> None:
    classifier = load_classifier(run)
    index = index_folder(folder, valid_fraction=0.2)
    images = load_dataset(index.valid, image_size=classifier.image_size, resize=classifier.resize)

    def looked_at(probabilities):
        return interpret(probabilities, index.valid.labels, index.class_names)

    # The plain image; four views drawn as in training; two fixed views, as a layer that can be saved and exported.
    fixed = keras.Sequential([keras.Input((*classifier.image_size, 3)), TTA(classifier.model, ["flip"])])
    plain = looked_at(predict_tta(classifier.model, images, num_views=0, verbose=0))
    results = {
        "plain": plain,
        "drawn": looked_at(predict_tta(classifier.model, images, augmentation=side_on(max_zoom=1.1), verbose=0)),
        "flip": looked_at(fixed.predict(images, verbose=0)),
    }
    for name, result in results.items():
        p = f", p = {mcnemar(plain, result):.2g} against plain" if result is not plain else ""
        print(f"{name}: accuracy {result.accuracy:.4f}, log-loss {result.loss:.4f}{p}")

    for i in plain.top_losses(3):
        actual, taken = (index.class_names[label] for label in (plain.labels[i], plain.predictions[i]))
        print(f"loss {plain.losses[i]:.2f}: {index.valid.paths[i]}, a {actual}, is taken for a {taken}")
    for actual, taken, count in plain.most_confused()[:3]:
        print(f"{count} x {actual} taken for {taken}")


if __name__ == "__main__":
    main(*sys.argv[1:3])

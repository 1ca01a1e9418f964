"""The command `demo`: the whole recipe on scikit-learn's handwritten digits, which need no download."""

from __future__ import annotations

from pathlib import Path

import click

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@click.command(epilog="\b\nExamples:\n  keras-sgdr demo\n  keras-sgdr demo -o runs/demo --resume")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), help="A directory to make.")
@click.option("--resume", is_flag=True, help="Go on with the unfinished demo in OUTPUT.")
@click.option("--overwrite", is_flag=True, help="Begin again in OUTPUT.")
def demo(output: Path, resume: bool, overwrite: bool) -> None:
    """Train on 1,797 handwritten digits, evaluate with TTA, export, and predict one through the export.

    Needs the extra `demo`: pip install "keras-sgdr[demo]". About three minutes on two cores.
    """
    from keras_sgdr.recipe.images import index_for
    from keras_sgdr.recipe.recipe import Recipe
    from keras_sgdr.recipe.report import write_report
    from keras_sgdr.recipe.train import train_image_classifier

    folder = output / "digits"
    num_images = write_digits(folder)
    click.echo(f"wrote {num_images} images to {folder}")
    # A mirrored digit is another digit or none, hence `basic`.
    recipe = Recipe(image_size=64, batch_size=32, augmentation="basic", resize="squish", valid_fraction=0.2)
    result = train_image_classifier(folder, output=output / "run", recipe=recipe, resume=resume, overwrite=overwrite)
    click.echo(f"report: {write_report(output / 'run')}")
    image = Path(index_for(folder, recipe).valid.paths[0])
    click.echo(f"the export says {predict_through_export(result.export, image)!r} to {image}")


def write_digits(folder: Path) -> int:
    """Writes scikit-learn's digits as grey 8×8 PNGs, one folder per class, and returns how many they are."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        from keras_sgdr.validation import MissingPackageError

        raise MissingPackageError(
            'the demo needs scikit-learn. Install it with: pip install "keras-sgdr[demo]"'
        ) from error
    import numpy as np
    import tensorflow as tf

    digits = load_digits()
    for name in NAMES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        grey = np.round(pixels * (255 / 16)).astype("uint8")[:, :, None]
        (folder / NAMES[label] / f"{i:04d}.png").write_bytes(tf.io.encode_png(grey).numpy())
    return len(digits.target)


def predict_through_export(export: Path, image: Path) -> str:
    """Returns the class that an exported model gives to an image."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(export)).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([image.read_bytes()]))
    return str(answer["predicted_class"].numpy()[0].decode())

"""What each worker reads of a batch, against the batch of a single machine."""

import numpy as np
import pytest

from keras_sgdr.data.dataset.worker_share import WorkerShare, divided

# Local replicas, workers, images to a replica, images
CASES = [(1, 2, 3, 17), (1, 3, 2, 13), (2, 2, 1, 9), (3, 1, 2, 14), (1, 4, 2, 33), (1, 2, 8, 16), (2, 3, 2, 25)]


def shares(num_local, num_workers):
    return [WorkerShare(num_local * num_workers, w * num_local, (w + 1) * num_local) for w in range(num_workers)]


def parts_of_steps(share, num_images, batch_size):
    """What each replica gets in each step: positions and weights."""
    positions, weights = share.positions(num_images, batch_size)
    last = np.diff(share.ends_of_rest(num_images, batch_size))
    own, steps, at = batch_size // share.num_replicas, [], 0
    for step in range(-(-num_images // batch_size)):
        sizes = last if (step + 1) * batch_size > num_images else [own] * share.num_local
        steps.append([])
        for size in sizes:
            steps[-1].append((positions[at : at + size], weights[at : at + size]))
            at += size
    assert at == len(positions) == len(weights)
    return steps


@pytest.mark.parametrize(("num_local", "num_workers", "own", "num_images"), CASES)
def test_parts_of_all_are_the_batch_and_their_mean_its_mean(num_local, num_workers, own, num_images):
    batch_size = own * num_local * num_workers
    losses = np.random.default_rng(0).normal(size=num_images)
    workers = [parts_of_steps(share, num_images, batch_size) for share in shares(num_local, num_workers)]
    for step, parts in enumerate(zip(*workers, strict=True)):
        replicas = [replica for worker in parts for replica in worker]
        batch = range(step * batch_size, min(num_images, (step + 1) * batch_size))
        counted = np.concatenate([positions[weights > 0] for positions, weights in replicas])
        assert counted.tolist() == list(batch)
        # As Keras does: a replica's mean is over its images, whatever they weigh, and the gradient that of their mean.
        means = [np.mean(losses[positions] * weights) for positions, weights in replicas]
        np.testing.assert_allclose(np.mean(means), losses[batch].mean(), rtol=1e-6)


@pytest.mark.parametrize(("num_local", "num_workers", "own", "num_images"), CASES)
def test_each_image_counts_once_where_nothing_is_trained(num_local, num_workers, own, num_images):
    every = shares(num_local, num_workers)
    size = every[0].checked_batch_size(own * num_local * num_workers, num_images, is_training=False)
    steps = [parts_of_steps(share, num_images, size) for share in every]
    assert len({len(each) for each in steps}) == 1
    positions = [part[0] for worker in steps for step in worker for part in step]
    assert all(len(each) for each in positions)
    assert sorted(np.concatenate(positions)) == list(range(num_images))


def test_batch_is_refused_that_cannot_be_divided_or_lacks_images():
    share = WorkerShare(3, 1, 2)
    with pytest.raises(ValueError, match=r"multiple of the number of replicas, 3.*Received: batch_size=32. Give 33"):
        share.checked_batch_size(32, 100, is_training=True)
    with pytest.raises(ValueError, match=r"an image for each of 3 replicas\. Received: 2 images"):
        share.checked_batch_size(3, 2, is_training=False)


def test_a_workers_batches_are_divided_among_its_replicas():
    import tensorflow as tf

    batches = tf.data.Dataset.range(11).batch(4).map(lambda each: (each, -each))
    got = [(first.tolist(), second.tolist()) for first, second in divided(batches, 4, [1, 2]).as_numpy_iterator()]
    parts = [[0, 1], [2, 3], [4, 5], [6, 7], [8], [9, 10]]
    assert got == [(part, [-each for each in part]) for part in parts]

"""Copies `tf.data` pipelines, so that passes over the copy do not change the order of the original.

The one module here that touches TensorFlow's own objects; it imports TensorFlow inside functions, so that the finder
runs on every backend.
"""

from typing import Any

# tf.data's ExternalStatePolicy
IGNORE, FAIL = 1, 2
CACHES = ("CacheDataset", "CacheDatasetV2")
# Which input is the generator of an operation that draws its seeds anew on each pass.
SEED_GENERATOR_INPUT = {"ShuffleDatasetV3": 4, "RandomDatasetV2": 2}


def is_of_tensorflow(data: Any) -> bool:
    """Whether an object's class is one of TensorFlow's or derives from one, without importing TensorFlow."""
    return any(base.__module__.partition(".")[0] == "tensorflow" for base in type(data).__mro__)


def copy_dataset(dataset: Any) -> Any:
    """Copies a `tf.data` pipeline by serializing its graph, if a pass over it changes anything.

    A pipeline that keeps no state between passes is returned as it is, so that what TensorFlow prepares on the first
    pass is used by the next. Captured variables are copied, once for each function that captures them. The generator
    from which a shuffle draws one seed for each pass would be shared with the original, whose next pass would then be
    another; so the copy gets generators of its own, which start from the pipeline's seeds. A cache in files that do not
    exist yet is left out: an unfinished pass would leave its lock. Arrays inside the pipeline are copied with it,
    several times.

    Args:
        dataset: The `tf.data.Dataset`.

    Returns:
        The copy, or `dataset` itself.

    Raises:
        CannotCopyError: If it is distributed to replicas already, or TensorFlow cannot serialize it.
    """
    import tensorflow as tf

    if isinstance(dataset, tf.distribute.DistributedDataset):
        raise CannotCopyError("it is distributed to replicas already.")
    try:
        return _copied(dataset)
    except tf.errors.OpError as error:
        raise CannotCopyError(error.message) from error


class CannotCopyError(Exception):
    """A pipeline that cannot be copied."""


def _copied(dataset: Any) -> Any:
    import tensorflow as tf

    variant = tf.data.experimental.to_variant(dataset)
    try:
        graph = _serialized(variant, FAIL)
    except tf.errors.FailedPreconditionError:
        graph = _serialized(variant, IGNORE)
    else:
        if not _holds_resources(graph):
            return dataset
    serialized = _with_own_seeds(_without_new_caches(graph)).SerializeToString()
    del graph  # which holds the pipeline's arrays too
    copy = tf.raw_ops.DatasetFromGraph(graph_def=serialized)
    return tf.data.experimental.from_variant(copy, dataset.element_spec)


def _without_new_caches(graph: Any) -> Any:
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}
    cached = {}
    for node in graph.node:
        if node.op in CACHES:
            source, name = node.input[0], nodes[node.input[1]].attr["value"].tensor
            path = tf.make_ndarray(name).item().decode()
            if path and not tf.io.gfile.exists(f"{path}.index"):
                cached[node.name] = source
    for node in graph.node:
        for place, source in enumerate(node.input):
            while source in cached:  # one cache may follow another
                source = node.input[place] = cached[source]
    return graph


def _with_own_seeds(graph: Any) -> Any:
    for node in [node for node in graph.node if node.op in SEED_GENERATOR_INPUT]:
        generator = graph.node.add(name=f"{node.name}_seeds", op="DummySeedGenerator")
        node.input[SEED_GENERATOR_INPUT[node.op]] = generator.name
    return graph


def _serialized(variant: Any, policy: int) -> Any:
    """Returns the pipeline's graph; FAIL raises if its functions draw, count, call Python or read a variable."""
    import tensorflow as tf

    serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=policy).numpy()
    if not serialized:  # TensorFlow's answer to a graph of more than 2 GB
        raise CannotCopyError("Its graph is larger than 2 GB.")
    return tf.compat.v1.GraphDef.FromString(serialized)


def _holds_resources(graph: Any) -> bool:
    """Whether state outside the pipeline's functions outlives a pass: a shuffle's seeds, a cache, a table."""
    import tensorflow as tf

    resource = tf.resource.as_datatype_enum
    return any(resource in (kind.type, *kind.list.type) for node in graph.node for kind in node.attr.values())

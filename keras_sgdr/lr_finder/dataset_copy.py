"""A `tf.data` pipeline copied, so that passes over the copy leave its order as it was."""

from typing import Any

# tf.data's ExternalStatePolicy
IGNORE, FAIL = 1, 2
CACHES = ("CacheDataset", "CacheDatasetV2")
# Which input is the generator of an operation that draws its seeds anew on each pass.
SEED_GENERATOR_INPUT = {"ShuffleDatasetV3": 4, "ShuffleAndRepeatDatasetV2": 5, "RandomDatasetV2": 2}


def copy_pipeline(dataset: Any, tensorflow: Any) -> Any:
    """Copies a `tf.data` pipeline by writing its graph out and reading it in, if a pass over it changes anything.

    A pipeline that keeps nothing from pass to pass is returned as it is: what TensorFlow prepares on the first pass is
    then there for the next. Captured variables become copies on the way. The generator from which a shuffle draws one
    seed for each pass would be shared, and the copy's passes would count; so it gets new ones, which start from the
    pipeline's own seeds. A cache in files that are not there yet is left out: of a pass that is not finished it would
    leave a lock. Arrays inside the pipeline are copied with it, several times over.

    Args:
        dataset: The `tf.data.Dataset`.
        tensorflow: The module; it is not imported here, so that this room runs without it.

    Raises:
        OpError: TensorFlow's, if it cannot write the pipeline out.
    """
    variant = tensorflow.data.experimental.to_variant(dataset)
    try:
        graph = _written(variant, tensorflow, FAIL)
    except tensorflow.errors.FailedPreconditionError:
        graph = _written(variant, tensorflow, IGNORE)
    else:
        if not _holds_resources(graph, tensorflow):
            return dataset
    written = _with_own_seeds(_without_new_caches(graph, tensorflow)).SerializeToString()
    del graph  # which holds the pipeline's arrays too
    read = tensorflow.raw_ops.DatasetFromGraph(graph_def=written)
    return tensorflow.data.experimental.from_variant(read, dataset.element_spec)


def _without_new_caches(graph: Any, tensorflow: Any) -> Any:
    nodes = {node.name: node for node in graph.node}
    cached = {}
    for node in graph.node:
        if node.op in CACHES:
            source, name = node.input[0], nodes[node.input[1]].attr["value"].tensor
            path = tensorflow.make_ndarray(name).item().decode()
            if path and not tensorflow.io.gfile.exists(f"{path}.index"):
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


def _written(variant: Any, tensorflow: Any, policy: int) -> Any:
    """The pipeline's graph; under FAIL an error if its functions draw, count, call Python or read a variable."""
    written = tensorflow.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=policy).numpy()
    if not written:
        raise tensorflow.errors.ResourceExhaustedError(None, None, "Its graph is larger than 2 GB.")
    return tensorflow.compat.v1.GraphDef.FromString(written)


def _holds_resources(graph: Any, tensorflow: Any) -> bool:
    """Whether the pipeline has what outlives a pass and is no function's: a shuffle's seeds, a cache, a table."""
    resource = tensorflow.resource.as_datatype_enum
    return any(resource in (kind.type, *kind.list.type) for node in graph.node for kind in node.attr.values())

"""Rules of operations that compute: elementwise, sums and products, normalisations, pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from rl_compress.model.operation import Labels, Operation, Rule, repeated, stays, unknown
from rl_compress.model.positions import varies


def pointwise(op: Operation) -> list[Labels]:
    """Unite what is computed elementwise, with broadcasting."""
    found = []
    for result in op.results:
        labels = unknown(result)
        for tensor, inputs in zip(op.operands, op.inputs, strict=True):
            first = result.ndim - tensor.ndim
            if first < 0:
                continue
            for axis, ids in enumerate(inputs):
                size = result.shape[first + axis]
                if ids is not None and len(ids) == size > 1:
                    labels[first + axis] = op.unite(labels[first + axis], ids)
        found.append(labels)
    return found


def _matrix_product(op: Operation) -> list[Labels]:
    """Handle mm, addmm, bmm, baddbmm, mv, addmv and dot."""
    added = op.name in ("addmm", "baddbmm", "addmv")
    one, other = op.args[1:3] if added else op.args[:2]
    left, right = op.labels(one), op.labels(other)
    op.contract(one, one.ndim - 1, other, max(other.ndim - 2, 0))
    weight = op.weight_of(other, one)
    labels: Labels = []
    axes = [(one.shape[-1], left[-1])]
    if one.ndim == 3:
        labels.append(op.unite(left[0], right[0]))
        axes.append((one.shape[0], labels[0]))
    if one.ndim > 1:
        labels.append(left[-2])
        axes.append((one.shape[-2], left[-2]))
    if other.ndim > 1:
        labels.append(right[-1])
        axes.append((other.shape[-1], right[-1]))
    op.multiplies(weight, 1, *axes)
    if one.ndim > 1:
        op.makes(one, one.ndim - 2)
    if other.ndim > 1:
        op.makes(other, other.ndim - 1)
    if added:
        bias = op.args[0]
        for axis, ids in enumerate(reversed(op.labels(bias)), start=1):
            if ids is not None and len(ids) == op.results[0].shape[-axis]:
                labels[-axis] = op.unite(labels[-axis], ids)
    return [labels]


def _convolution(op: Operation) -> list[Labels]:
    source, weight, bias = op.args[:3]
    transposed, parts = op.args[6], op.args[8]
    result = op.results[0]
    inputs, (first, second) = op.labels(source), op.labels(weight)[:2]
    for ids in inputs[2:]:
        op.keep(ids, "a convolution slides along its channels")
    channels = inputs[1]
    narrow = weight.shape[1] == 1 < parts
    if parts == 1:
        op.contract(source, 1, weight, 0 if transposed else 1)
        outputs = second if transposed else first
    elif narrow and not transposed:
        # Every channel has its own filters, which go with it.
        outputs = op.unite(repeated(channels, weight.shape[0] // parts), first)
    elif narrow:
        outputs = op.unite(channels, first)
    elif transposed:
        for ids in (channels, first, second):
            op.keep(ids, "not supported: grouped transposed convolution")
        outputs = None
    else:
        op.tie(channels, parts)
        inner = None if channels is None else channels[: weight.shape[1]]
        op.unite(inner, second)
        op.adds_up(source, 1)
        outputs = op.tie(first, parts)
    if bias is not None:
        outputs = op.unite(outputs, op.labels(bias)[0])
    op.makes(weight, 1 if transposed and not narrow else 0)
    kernel = math.prod(weight.shape[2:])
    spatial = math.prod((source if transposed else result).shape[2:])
    op.multiplies(
        op.weight_of(weight),
        kernel * spatial * result.shape[0],
        (weight.shape[0], first),
        (weight.shape[1], second),
    )
    return [[inputs[0], outputs, *stays(result)[2:]]]


def _attention(op: Operation) -> list[Labels]:
    query, key, value = op.args[:3]
    queries, keys, values = (op.labels(tensor) for tensor in (query, key, value))
    if op.kwargs.get("scale") is None:
        for ids in (queries[-1], keys[-1]):
            op.keep(ids, "the scale of an attention depends on its channels' number")
    op.unite(queries[-1], keys[-1])
    op.adds_up(query, -1)
    op.unite(keys[-2], values[-2])
    leading: Labels = []
    for axis in range(query.ndim - 2):
        if query.shape[axis] == key.shape[axis]:
            both = op.unite(op.unite(queries[axis], keys[axis]), values[axis])
        else:
            both = None
            for ids in (queries[axis], keys[axis], values[axis]):
                op.keep(ids, "heads share keys and values")
        leading.append(both)
    constant = query.shape[-2] * key.shape[-2]
    heads = [(query.shape[axis], ids) for axis, ids in enumerate(leading)]
    op.multiplies(None, constant, *heads, (query.shape[-1], queries[-1]))
    op.multiplies(None, constant, *heads, (value.shape[-1], values[-1]))
    rest = [stays(result) for result in op.results[1:]]
    return [[*leading, queries[-2], values[-1]], *rest]


def _embedding(op: Operation) -> list[Labels]:
    weight, indices = op.args[:2]
    rows, columns = op.labels(weight)
    op.keep(rows, "its rows are looked up")
    op.makes(weight, 1)
    return [[*op.labels(indices), columns]]


def _glu(op: Operation) -> list[Labels]:
    axis = op.argument(1, "dim", -1) % op.operands[0].ndim
    labels = list(op.inputs[0])
    ids = op.tie(labels[axis], 2)
    labels[axis] = None if ids is None else ids[: len(ids) // 2]
    return [labels]


def _layer_norm(op: Operation) -> list[Labels]:
    source, shape = op.args[0], op.args[1]
    labels = list(op.labels(source))
    for tensor in (tensor for tensor in op.args[2:4] if isinstance(tensor, Tensor)):
        for axis, ids in enumerate(op.labels(tensor), start=source.ndim - len(shape)):
            labels[axis] = op.unite(labels[axis], ids)
    for axis in range(source.ndim - len(shape), source.ndim):
        op.adds_up(source, axis, whole=False)
    return [labels, *(stays(result) for result in op.results[1:])]


def _group_norm(op: Operation) -> list[Labels]:
    source, parts = op.args[0], op.argument(6, "group")
    labels = list(op.labels(source))
    channels = op.tie(labels[1], parts)
    for tensor in (tensor for tensor in op.args[1:3] if isinstance(tensor, Tensor)):
        channels = op.unite(channels, op.labels(tensor)[0])
    labels[1] = channels
    op.adds_up(source, 1, whole=False)
    return [labels, *(stays(result) for result in op.results[1:])]


def _batch_norm(op: Operation) -> list[Labels]:
    labels = list(op.inputs[0])
    for tensor, inputs in zip(op.operands[1:5], op.inputs[1:5], strict=True):
        if tensor.ndim == 1:
            labels[1] = op.unite(labels[1], inputs[0])
    if op.args[5]:
        # Statistics of the tensor itself, as weight standardisation takes them.
        for axis in (0, *range(2, op.operands[0].ndim)):
            op.adds_up(op.operands[0], axis, whole=False)
    return [labels, *(unknown(result) for result in op.results[1:])]


_OF_ALL = ("sum", "linalg_vector_norm")
_STATISTICS = ("mean", "var", "std", "var_mean")


def _axes(op: Operation) -> list[int]:
    """Return the axes that an operation reduces."""
    count = op.operands[0].ndim
    given = op.argument(1 if op.name != "linalg_vector_norm" else 2, "dim")
    if given is None or (isinstance(given, Sequence) and not given):
        return list(range(count))
    if isinstance(given, int):
        given = [given]
    if not all(type(axis) is int for axis in given):
        return list(range(count))
    return [axis % count for axis in given]


def _reduced(op: Operation) -> list[Labels]:
    source, labels = op.operands[0], op.inputs[0]
    gone = _axes(op)
    for axis in gone:
        ids = labels[axis]
        if op.name in _OF_ALL or ids is None or not varies(ids):
            op.adds_up(source, axis)
        elif op.name in _STATISTICS:
            op.adds_up(source, axis, whole=False)
            # The mean of squares or norms is a statistic; another must be subtracted to be one.
            if op.name == "mean" and op.makers[0] not in ("pow", "linalg_vector_norm"):
                op.means.append(ids)
        else:
            op.keep(ids, f"their {op.name} is taken")
    kept: Labels = [ids for axis, ids in enumerate(labels) if axis not in gone]
    same = op.results[0].ndim == source.ndim
    if same:
        kept = [None if axis in gone else ids for axis, ids in enumerate(labels)]
    return [list(kept) for _ in op.results]


def _softmax(op: Operation) -> list[Labels]:
    op.keep(op.inputs[0][op.argument(1, "dim")], "their softmax is taken")
    return [list(op.inputs[0])]


def _spatial(op: Operation) -> list[Labels]:
    """Handle pooling, resizing and padding, which work along the last axes of images."""
    axes = next(count for count in (1, 2, 3) if f"{count}d" in op.name)
    labels = list(op.inputs[0])
    for ids in labels[-axes:]:
        op.keep(ids, "a pooling slides along its channels")
    found = []
    for result in op.results:
        fresh = stays(result)
        fresh[: result.ndim - axes] = labels[: len(labels) - axes]
        found.append(fresh)
    return found


def _sampled(op: Operation) -> list[Labels]:
    labels = stays(op.results[0])
    labels[:2] = op.inputs[0][:2]
    return [labels]


def _fresh(op: Operation) -> list[Labels]:
    """Handle constants, of which a narrower model may make narrower ones."""
    return [unknown(result) for result in op.results]


def _recurrent(op: Operation) -> list[Labels]:
    """Handle a layer of an LSTM: it stays, and each of its matrices is multiplied once a step."""
    source = op.operands[0]
    steps = math.prod(source.shape[:-1])
    for tensor, inputs, weight in zip(op.operands, op.inputs, op.weights, strict=True):
        for ids in inputs:
            op.keep(ids, "not supported: a recurrent layer")
        if weight and tensor.ndim == 2:
            op.multiplies(weight, steps, *((size, None) for size in tensor.shape))
    return [stays(result) for result in op.results]


def followed_no_further(op: Operation) -> list[Labels]:
    """Let all stay that goes into an operation without a rule."""
    for inputs in op.inputs:
        for ids in inputs:
            op.keep(ids, "its channels go into an operation that is not followed")
    return [stays(result) for result in op.results]


def _pooling_names() -> list[str]:
    kinds = [
        *("max_pool{}d_with_indices", "max_pool{}d", "avg_pool{}d", "_adaptive_avg_pool{}d"),
        *("adaptive_avg_pool{}d", "adaptive_max_pool{}d", "reflection_pad{}d"),
        *("replication_pad{}d", "upsample_nearest{}d", "_upsample_nearest_exact{}d"),
        *("upsample_linear{}d", "upsample_bilinear{}d", "_upsample_bilinear{}d_aa"),
        *("upsample_bicubic{}d", "_upsample_bicubic{}d_aa", "upsample_trilinear{}d"),
        *("mkldnn_max_pool{}d", "mkldnn_adaptive_avg_pool{}d"),
    ]
    return [kind.format(axes) for kind in kinds for axes in (1, 2, 3)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"), _matrix_product),
    "convolution": _convolution,
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_attention_math",
        ),
        _attention,
    ),
    "embedding": _embedding,
    "glu": _glu,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    **dict.fromkeys(
        ("sum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "logsumexp"),
        _reduced,
    ),
    "linalg_vector_norm": _reduced,
    **dict.fromkeys(("_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(_pooling_names(), _spatial),
    "grid_sampler_2d": _sampled,
    "grid_sampler_3d": _sampled,
    **dict.fromkeys(
        (
            *("zeros", "ones", "full", "empty", "arange", "linspace", "eye", "scalar_tensor"),
            *("rand", "randn", "randint", "randperm", "new_zeros", "new_ones", "new_full"),
            *("new_empty", "new_empty_strided", "empty_strided", "tril_indices", "triu_indices"),
        ),
        _fresh,
    ),
    **dict.fromkeys(
        (
            *("clone", "_to_copy", "copy", "hardswish", "_prelu_kernel", "hardtanh", "dropout"),
            *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
            *("fill", "zero", "bernoulli", "isnan", "relu6", "hardsigmoid", "log_sigmoid_forward"),
        ),
        pointwise,
    ),
    "mkldnn_rnn_layer": _recurrent,
}

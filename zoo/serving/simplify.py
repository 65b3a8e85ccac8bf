"""A SavedModel's graph with less in it and the same answers: quicker to load, and smaller in memory.

A function computes once what it computed several times, and no longer what nobody asks for. Half of the operations that tracing
writes are such (sizes, and constants for slices), and loading a model takes time and memory by their number.
"""

import re
from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2

from zoo import private

# What changes a variable. Where nothing does, every reading of one gives the same.
WRITES = re.compile("Assign|ResourceScatter|ResourceApply|Restore")


def simplify(export):
    """Rewrites `saved_model.pb` in the directory of a version."""
    path = Path(export) / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = saved_model.meta_graphs[0].graph_def
    writes = {name for name, ops in _reached(graph.library.function).items() if any(map(WRITES.search, ops))}
    for function in graph.library.function:
        while _merge_equal(function, function.signature.name in writes):
            pass
        _drop_unused(function)
    path.write_bytes(saved_model.SerializeToString(deterministic=True))


def _reached(functions):
    """Name of a function -> the names of all operations and functions that it reaches."""
    direct = {
        function.signature.name: {
            name
            for node in function.node_def
            for name in (node.op, *(call.name for value in node.attr.values() for call in (value.func, *value.list.func)))
        }
        for function in functions
    }
    reached = {}
    for name in direct:
        found, wanted = set(), [name]
        while wanted:
            for inner in direct.get(wanted.pop(), set()) - found:
                found.add(inner)
                wanted.append(inner)
        reached[name] = found
    return reached


def _merge_equal(function, writes):
    """Lets what reads one of two equal nodes read the first. Returns whether there were any; `writes` says that variables
    change."""
    first, merged = {}, {}
    for node in function.node_def:
        _rename(node.input, merged)
        if _has_effects(node) and (writes or node.op != "ReadVariableOp"):
            continue
        attributes = sorted((name, value.SerializeToString(deterministic=True)) for name, value in node.attr.items())
        key = node.op, node.device, tuple(node.input), tuple(attributes)
        if first.setdefault(key, node.name) != node.name:
            merged[node.name] = first[key]
    for node in function.node_def:  # one may be read by a node that stands before it
        _rename(node.input, merged)
    for name, source in list(function.ret.items()):
        function.ret[name] = _renamed(source, merged)
    for name, node in list(function.control_ret.items()):
        if node in merged:  # a reading, and the first of its equals is asked for besides
            del function.control_ret[name]
            function.signature.control_output.remove(name)
    _keep(function, lambda node: node.name not in merged)
    return bool(merged)


def _drop_unused(function):
    nodes = {node.name: node for node in function.node_def}
    wanted = [node.name for node in function.node_def if _has_effects(node)]
    wanted += [_node_of(source) for source in function.ret.values()] + list(function.control_ret.values())
    used = set()
    while wanted:
        name = wanted.pop()
        if name in nodes and name not in used:
            used.add(name)
            wanted += map(_node_of, nodes[name].input)
    _keep(function, lambda node: node.name in used)


def _has_effects(node):
    """Whether a node does more than compute its outputs. What calls a function, or begins a list that is written to, counts as
    such."""
    known = private.op_definition(node.op)
    return known is None or known.is_stateful or "TensorList" in node.op


def _node_of(source):
    """The name of the node in `node:output:0`, `^node` or `argument`."""
    return source.removeprefix("^").partition(":")[0]


def _rename(sources, names):
    renamed = dict.fromkeys(_renamed(source, names) for source in sources if source.startswith("^"))
    sources[:] = [_renamed(source, names) for source in sources if not source.startswith("^")] + list(renamed)


def _renamed(source, names):
    name = _node_of(source)
    return source.replace(name, names[name], 1) if name in names else source


def _keep(function, wanted):
    kept = [type(node).FromString(node.SerializeToString()) for node in function.node_def if wanted(node)]
    del function.node_def[:]
    function.node_def.extend(kept)

"""The same bytes for the same model: takes out of a SavedModel what depends on when and where it was written.

TensorFlow numbers functions, tables and cached names by a counter of the process, and stamps a fingerprint with random bits.
Here functions are numbered by the order in which the graph reaches them, and messages are written with their maps sorted.
"""

import re
import uuid
from pathlib import Path

from tensorflow.core.framework import function_pb2, types_pb2
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2

from zoo import private

# A counter of the process in a name: the number of a function, or of a table with the unique id of its contents.
COUNTER = re.compile(r"[-_]?\d+(_[0-9a-f]{8}-[0-9a-f-]{27})?")


def canonicalise(export, defaults):
    """Rewrites `saved_model.pb` and `fingerprint.pb`.

    Args:
        export: directory of one version.
        defaults: signature -> name -> array; written into the signatures besides.
    """
    path = Path(export) / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    meta_graph = saved_model.meta_graphs[0]
    for signature, arrays in defaults.items():
        for name, array in arrays.items():
            proto = meta_graph.signature_def[signature].defaults[name]
            proto.dtype = meta_graph.signature_def[signature].inputs[name].dtype
            for size in array.shape:
                proto.tensor_shape.dim.add(size=size)
            if array.dtype == object:
                proto.string_val.extend(text.encode() for text in array.flat)
            else:
                proto.tensor_content = array.tobytes()
    _number_anew(meta_graph)
    path.write_bytes(saved_model.SerializeToString(deterministic=True))
    stamp = fingerprint_pb2.FingerprintDef.FromString(private.fingerprint(export))
    stamp.uuid = str(uuid.UUID(int=stamp.saved_model_checksum << 64 | stamp.graph_def_program_hash))
    (Path(export) / "fingerprint.pb").write_bytes(stamp.SerializeToString(deterministic=True))


def _number_anew(meta_graph):
    """Gives functions and shared resources names that no counter of the process is in, and sorts the functions by them."""
    library, objects = meta_graph.graph_def.library, meta_graph.object_graph_def
    functions = {function.signature.name: function for function in library.function}
    names = {name: f"{COUNTER.sub('', name)}_{i}" for i, name in enumerate(_reached(meta_graph, functions))}
    shared = {}
    for nodes in (meta_graph.graph_def.node, *(function.node_def for function in library.function)):
        for node in nodes:
            node.op = names.get(node.op, node.op)
            # It only tells how to differentiate what a server never differentiates.
            node.attr.pop("_gradient_op_type", None)
            for value in node.attr.values():
                for call in (value.func, *value.list.func) if value.HasField("func") or value.list.func else ():
                    call.name = names[call.name]
            if "Table" in node.op and "shared_name" in node.attr:
                name = node.attr["shared_name"].s.decode()
                plain = COUNTER.sub("", name) or "table"  # TensorFlow refuses a name that begins with "_"
                node.attr["shared_name"].s = shared.setdefault(name, f"{plain}_{len(shared)}").encode()
    for function in library.function:
        function.signature.name = names[function.signature.name]
        for attributes in function.arg_attr.values():
            if attributes.attr["_user_specified_name"].s.isdigit():
                attributes.attr.pop("_user_specified_name")
        _rename_captured(function)
    ordered = sorted(library.function, key=lambda function: function.signature.name)
    # Sorted by copies: a repeated field hands out its elements by reference.
    copies = [function_pb2.FunctionDef.FromString(function.SerializeToString()) for function in ordered]
    del library.function[:]
    library.function.extend(copies)
    for node in objects.nodes:
        if node.HasField("function"):
            node.function.concrete_functions[:] = [names[name] for name in node.function.concrete_functions]
        if node.HasField("bare_concrete_function"):
            node.bare_concrete_function.concrete_function_name = names[node.bare_concrete_function.concrete_function_name]
    concrete = {names[name]: function for name, function in objects.concrete_functions.items()}
    copies = {name: function.SerializeToString() for name, function in concrete.items()}
    objects.concrete_functions.clear()
    for name, data in copies.items():
        objects.concrete_functions[name].ParseFromString(data)


def _rename_captured(function):
    """Numbers what a function reads from outside of it, and what a loop's body hands on of that: the names hold a counter."""
    given, returned = {}, {}
    for i, argument in enumerate(function.signature.input_arg):
        # A loop's condition names what it does not use after the loop, and nothing refers to it.
        kind = "unused" if "redundant_placeholder" in argument.name else "captured"
        if kind == "unused" or _is_counted(argument):
            given[argument.name] = f"{kind}_{i}"
            argument.name = given[argument.name]
    for i, argument in enumerate(function.signature.output_arg):
        if _is_counted(argument):
            returned[argument.name] = f"returned_{i}"
            argument.name = returned[argument.name]

    def anew(reference):
        name, colon, output = reference.partition(":")
        return given.get(name, name) + colon + output

    for node in function.node_def:
        node.input[:] = map(anew, node.input)
    references = {returned.get(name, name): anew(reference) for name, reference in function.ret.items()}
    function.ret.clear()
    function.ret.update(references)


def _is_counted(argument):
    return argument.type == types_pb2.DT_RESOURCE and COUNTER.search(argument.name)


def _reached(meta_graph, functions):
    """Names of all functions, in the order in which the graph, and then its objects, reach them."""
    reached = {}

    def visit(name):
        if name in functions and name not in reached:
            reached[name] = None
            walk(functions[name].node_def)

    def walk(nodes):
        for node in nodes:
            visit(node.op)
            for key in sorted(node.attr):
                value = node.attr[key]
                for call in (value.func, *value.list.func):
                    visit(call.name)

    walk(meta_graph.graph_def.node)
    for node in meta_graph.object_graph_def.nodes:
        for name in node.function.concrete_functions:
            visit(name)
        visit(node.bare_concrete_function.concrete_function_name)
    for name in sorted(functions, key=lambda name: (COUNTER.sub("", name), name)):
        visit(name)
    return reached

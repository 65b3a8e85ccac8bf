"""The house rules that can be read off the source, and the programs that must answer without TensorFlow."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("zoo", "trainers", "tfds_configs", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf8")) for path in SOURCES}

# A file imports only from rows further up, or from its own row, unless the two are strangers.
ROOMS = (
    ("zoo.registry", "zoo.config", "zoo.files", "zoo.text_files", "zoo.version", "zoo.private"),
    (
        "zoo.layers",
        "zoo.tokenizers",
        "zoo.data",
        "zoo.metrics",
        "zoo.bootstrap",
        "zoo.text_metrics",
        "zoo.decoding",
        "zoo.beams",
        "zoo.token_rules",
    ),
    ("zoo.models",),
    ("zoo.signatures",),
    ("zoo.tasks",),
    ("zoo.bundle",),
    ("zoo.convert", "zoo.serving"),
    ("zoo.export", "zoo.explanation", "zoo.layerwise", "zoo.likelihood", "zoo.calibration"),
    ("zoo.api", "zoo"),
    ("trainers.program", "trainers.progress"),
    ("trainers.cost", "trainers.engine"),
    ("trainers",),
    ("benchmarks",),
)
# In one row of the table, but strangers: neither may import the other.
STRANGERS = {"zoo.layers", "zoo.tokenizers", "zoo.data", "zoo.metrics", "zoo.decoding"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name):
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports(tree):
    """(line, module, imported name or None) of every import, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (node.lineno, whole, None) if is_module(whole) else (node.lineno, node.module, alias.name)


def room(module):
    """(floor, room) of one of our modules: its longest prefix in `ROOMS`."""
    found = [(floor, name) for floor, names in enumerate(ROOMS) for name in names if f"{module}.".startswith(f"{name}.")]
    return max(found, key=lambda entry: len(entry[1]))


def where(path, line):
    return f"{path.relative_to(ROOT)}:{line}"


def test_files_import_only_from_their_left():
    wrong = []
    for path, tree in TREES.items():
        here = module_name(path)
        if here.startswith("tfds_configs"):
            continue
        floor, own = room(here)
        for line, module, _ in imports(tree):
            if module.partition(".")[0] not in ("zoo", "trainers", "benchmarks"):
                continue
            other_floor, other = room(module)
            if other_floor > floor or (other != own and {own, other} <= STRANGERS):
                wrong.append(f"{where(path, line)}: {own} imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("package", "strangers"), [
    ("zoo", ("trainers", "tfds_configs", "benchmarks", "tests")),
    ("tfds_configs", ("zoo", "trainers", "benchmarks", "tests")),
    ("trainers", ("benchmarks", "tests")),
    ("benchmarks", ("tests",)),
])  # fmt: skip
def test_rooms_that_know_nothing_of_each_other(package, strangers):
    wrong = [
        f"{where(path, line)} imports {module}"
        for path, tree in TREES.items()
        if module_name(path).partition(".")[0] == package
        for line, module, _ in imports(tree)
        if module.partition(".")[0] in strangers
        and not (package == "tfds_configs" and module in ("zoo.config", "zoo.text_files"))
    ]
    assert not wrong, "\n".join(wrong)


CLOSE_TO_CONFIG = (
    "zoo.registry",
    "zoo.config",
    "zoo.files",
    "zoo.decoding",
    "zoo.beams",
    "zoo.token_rules",
    "zoo.metrics",
    "zoo.bootstrap",
)


def test_registry_config_files_decoding_and_metrics_import_no_more_than_config():
    wrong = [
        f"{where(path, line)} imports {module}"
        for path, tree in TREES.items()
        if module_name(path) in CLOSE_TO_CONFIG
        for line, module, _ in imports(tree)
        if module.partition(".")[0] in PACKAGES and module not in ("zoo.config", "zoo.token_rules", "zoo.decoding")
    ]
    assert not wrong, "\n".join(wrong)


def test_layers_and_models_say_why_they_import_tensorflow():
    wrong = []
    for path, tree in TREES.items():
        if not module_name(path).startswith(("zoo.layers", "zoo.models")):
            continue
        lines = path.read_text(encoding="utf8").splitlines()
        for line, module, _ in imports(tree):
            if module.partition(".")[0] in ("tensorflow", "torch", "jax"):
                says_why = "#" in lines[line - 1] or lines[line - 2].lstrip().startswith("#")
                if not says_why:
                    wrong.append(f"{where(path, line)} imports {module} and no comment says why")
    assert not wrong, "\n".join(wrong)


def test_a_model_file_imports_only_layers_registry_config_names_of_a_batch_and_the_base():
    allowed = ("zoo.layers", "zoo.registry", "zoo.config", "zoo.models.base", "zoo.data.batch")
    wrong = [
        f"{where(path, line)} imports {module}"
        for path, tree in TREES.items()
        if module_name(path).startswith("zoo.models.")
        for line, module, _ in imports(tree)
        if module.partition(".")[0] in PACKAGES and not module.startswith(allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_called_utils():
    forbidden = {"utils", "util", "common", "core", "misc", "helpers", "helper"}
    paths = [path.relative_to(ROOT) for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*")]
    wrong = [str(path) for path in paths if path.stem.lower() in forbidden and "__pycache__" not in path.parts]
    assert not wrong, wrong


def test_no_two_test_files_share_a_name():
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) == len(set(names)), names  # pytest would collect neither


def test_no_file_is_empty():
    assert not [str(path) for path in SOURCES if not path.read_text(encoding="utf8").strip()]


def test_files_have_at_most_500_lines():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf8").splitlines()) for path in (*SOURCES, *TESTS)}
    assert not {name: size for name, size in sizes.items() if size > 500}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_functions_have_at_most_80_lines():
    wrong = [
        f"{where(path, f.lineno)} {f.name}: {f.end_lineno - f.lineno + 1}"
        for path, tree in (*TREES.items(), *((path, ast.parse(path.read_text(encoding="utf8"))) for path in TESTS))
        for f in functions(tree)
        if f.end_lineno - f.lineno + 1 > 80
    ]
    assert not wrong, "\n".join(wrong)


def test_constructors_take_at_most_12_arguments():
    wrong = []
    for path, tree in TREES.items():
        for function in functions(tree):
            arguments = function.args
            count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1
            if function.name == "__init__" and count > 12:
                wrong.append(f"{where(path, function.lineno)}: {count}")
    assert not wrong, "\n".join(wrong)


def test_no_pickle_anywhere():
    wrong = []
    for path, tree in TREES.items():
        wrong += [
            f"{where(path, line)} imports {module}"
            for line, module, _ in imports(tree)
            if module.partition(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                wrong.append(f"{where(path, node.value.lineno)} allows pickle")
    assert not wrong, "\n".join(wrong)


def test_no_exception_is_swallowed_and_no_user_input_asserted():
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{where(path, node.lineno)}: bare except")
            elif isinstance(node, ast.ExceptHandler) and all(isinstance(inner, ast.Pass) for inner in node.body):
                wrong.append(f"{where(path, node.lineno)}: except that passes")
            elif isinstance(node, ast.Assert):
                wrong.append(f"{where(path, node.lineno)}: assert")
    assert not wrong, "\n".join(wrong)


# What draws and is not data: bootstraps and permutations, inputs of a proof, hashes. `tfds_configs` may not import `zoo.data`.
DRAW_BESIDES = (
    "zoo/bootstrap.py", "zoo/metrics.py", "zoo/convert/arpa.py", "zoo/serving/token_level.py", "zoo/tokenizers/bpe_graph.py",
    "trainers/association.py", "trainers/groups.py", "trainers/reporting/intervals.py", "tfds_configs/cldr/values.py",
)  # fmt: skip


def test_random_streams_of_the_data_are_made_in_one_place():
    makers = ("np.random.Philox", "np.random.default_rng", "np.random.RandomState", "np.random.PCG64")
    wrong = [
        where(path, node.lineno)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in makers
        and str(path.relative_to(ROOT)) not in ("zoo/data/batch.py", *DRAW_BESIDES)
        and module_name(path).partition(".")[0] != "benchmarks"
    ]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_to_do():
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")
    wrong = [
        where(path, number)
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not wrong, wrong


def test_what_is_not_so_is_never_said_with_no():
    """CONTRIBUTING.md: "is not", never "is no"; "there is no" is English."""
    said = re.compile(r'(?<!here )(?<!")\b(is|are|was|were) no (?!longer)', re.IGNORECASE)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.py")]
    wrong = [
        where(path, number)
        for path in (*SOURCES, *pages)
        for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1)
        if said.search(line)
    ]
    assert not wrong, wrong


# Docstrings


def is_keras_class(node):
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    return bool(bases & {"Layer", "Model", "LanguageModel", "Encoder"})


def test_every_file_says_what_it_is_for():
    assert not [str(path.relative_to(ROOT)) for path, tree in TREES.items() if not ast.get_docstring(tree)]


def test_every_public_class_and_function_has_a_docstring():
    wrong = []
    for path, tree in TREES.items():
        if not module_name(path).startswith(("zoo", "tfds_configs")):
            continue
        for node in tree.body:
            public = isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                wrong.append(f"{where(path, node.lineno)} {node.name}")
    assert not wrong, "\n".join(wrong)


def test_layers_and_models_document_arguments_and_call():
    wrong = []
    for path, tree in TREES.items():
        if not module_name(path).startswith(("zoo.layers", "zoo.models")):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) or not is_keras_class(node):
                continue
            text = ast.get_docstring(node) or ""
            init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
            call = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "call"), None)
            arguments = [a.arg for a in (*init.args.args, *init.args.kwonlyargs) if a.arg != "self"] if init else []
            # `config` and `seed` explain themselves; a private argument list is documented as a whole.
            if len(arguments) > 1 and "Args:" not in text:
                wrong.append(f"{where(path, node.lineno)} {node.name}: Args")
            if call and "Call:" not in text and node.name not in ("LanguageModel", "Encoder"):
                wrong.append(f"{where(path, node.lineno)} {node.name}: Call")
            if not re.search(r"\.(\s|$)|:$", text.strip().split("\n\n")[0] + " "):
                wrong.append(f"{where(path, node.lineno)} {node.name}: the first sentence has no end")
    assert not wrong, "\n".join(wrong)


def test_registered_models_name_their_paper():
    cited = re.compile(r"\b(19|20)\d\d\b")
    wrong = []
    for path, tree in TREES.items():
        for node in tree.body:
            registered = any("MODELS.register" in ast.unparse(d) for d in getattr(node, "decorator_list", []))
            if registered and not cited.search(ast.get_docstring(node) or ""):
                wrong.append(f"{where(path, node.lineno)} {node.name}")
    assert not wrong, "\n".join(wrong)


def test_tensor_files_have_the_legend_of_their_letters():
    """A name like x_BTD is only as good as the legend at the top of the file."""
    wrong = []
    for path, tree in TREES.items():
        if not module_name(path).startswith(("zoo.layers", "zoo.models", "zoo.tasks")):
            continue
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        letters = {letter for name in names for letter in "".join(re.findall(r"^[a-z]\w*_([A-Z]{1,5})$", name))}
        legend = (ast.get_docstring(tree) or "").partition("hape letters:")[2]
        missing = sorted(letter for letter in letters if not re.search(rf"\b{letter}\b", legend))
        if missing:
            wrong.append(f"{path.relative_to(ROOT)}: {', '.join(missing)}")
    assert not wrong, "\n".join(wrong)


# Programs that answer at once

PROGRAMS = (
    "run", "evaluate", "generate", "export", "doctor", "convert", "prepare", "report", "trace", "explain", "playground",
    "phrases", "harness", "forget",
)  # fmt: skip


def test_every_program_has_a_console_script():
    scripts = dict(re.findall(r'"(zoo-\w+)=trainers\.(\w+):start"', (ROOT / "setup.py").read_text(encoding="utf8")))
    assert sorted(scripts.values()) == sorted(PROGRAMS)
    assert all(name in (f"zoo-{program}", "zoo-train") for name, program in scripts.items())
    for program in PROGRAMS:
        assert "start" in {function.name for function in functions(TREES[ROOT / "trainers" / f"{program}.py"])}


def started(program, *arguments):
    """Runs a program in a fresh process: its status, stdout, stderr, whether it loaded TensorFlow, its processor seconds."""
    code = (
        "import atexit, json, runpy, sys, time\n"
        "loaded = lambda: 'tensorflow' in sys.modules or 'keras' in sys.modules\n"
        "atexit.register(lambda: print(json.dumps([loaded(), time.process_time()])))\n"
        f"sys.argv = {[f'trainers/{program}.py', *arguments]!r}\n"
        f"runpy.run_module('trainers.{program}', run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    *lines, told = result.stdout.rstrip().splitlines()
    loaded, seconds = json.loads(told)
    return result.returncode, "\n".join(lines), result.stderr, loaded, seconds


@pytest.mark.parametrize(("program", "arguments", "status"), [
    *[(program, ("--help",), 0) for program in PROGRAMS],
    *[(program, ("--no_such_flag",), 2) for program in PROGRAMS],
    ("run", ("--list",), 0),
    ("run", ("--list=gpt",), 0),
    ("run", ("--list=gpd",), 2),
    ("run", ("--model=gpt", "--dry_run"), 0),
    ("run", ("--model=gpd",), 2),
    ("run", ("--model=gpt", "--preset=gpt2_smal"), 2),
    ("run", ("--model=gpt", "--set=num_layer=3"), 2),
    ("generate", (), 2),
    ("report", (), 2),
    ("playground", (), 2),
])  # fmt: skip
def test_programs_answer_at_once_without_tensorflow(program, arguments, status):
    returned, out, err, loaded, seconds = started(program, *arguments)
    assert returned == status, err
    assert not loaded
    assert "Traceback" not in err
    assert seconds < 3
    if status == 2:
        assert err.startswith("error: ") and len(err.splitlines()) == 1


def test_the_list_shows_every_model_with_presets_tasks_and_dataset():
    from zoo.registry import MODELS, TASKS, tasks_of

    _, out, _, _, _ = started("run", "--list")
    for name in MODELS.names():
        config = MODELS.config(name)
        tasks = [task for task in tasks_of(config) if TASKS.config(task).trains]
        assert all(word in out for word in (name, *config.presets, *tasks, config.recipe["dataset"]))
    assert "gpt2_small (124M)" in " ".join(out.replace("│", " ").split())


def test_help_shows_every_flag():
    _, out, err, _, _ = started("run", "--help")
    for name in (
        "model",
        "preset",
        "set",
        "list",
        "steps",
        "data_path",
        "xla",
        "export",
        "dry_run",
        "checkpoint_every",
    ):
        assert re.search(rf"--(\[no\])?{name}\b", out + err), name


PRIVATE = re.compile(r"^(keras\.src|tensorflow\.python|tensorflow_datasets\._?src)\b")


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path != ROOT / "zoo" / "private.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_private_names_of_keras_and_tensorflow_stand_in_one_file(path):
    private = [(line, module) for line, module, _ in imports(TREES[path]) if PRIVATE.match(module)]
    names = ("_tracker", "_untrack_variable", "_flatten_layers", "_value")
    private += [
        (node.lineno, node.attr) for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute) and node.attr in names
    ]
    assert not private

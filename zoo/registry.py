"""One registry class for models, tasks and tokenizers: a decorator and a walk over a package.

    @MODELS.register("gpt", GPTConfig)
    class GPT(LanguageModel): ...

    MODELS.names()        every registered name, from the source, nothing imported
    MODELS.config("gpt")  its config class, without importing Keras
    MODELS.get("gpt")     the class itself

The walk reads each file's syntax tree, so `--list` and a wrong flag answer at once: importing TensorFlow takes seconds.
"""

import ast
import difflib
import importlib
import importlib.util
import sys
import types
from pathlib import Path

from zoo.config import Refusal

LIGHT = ("zoo.config", "zoo.layers.forms")  # modules of the zoo's that load no Keras, so a config may import them


class Registry:
    """Names -> classes of one kind, each in a module of one package.

    Args:
        kind: the word for error messages, such as "model".
        package: dotted name of the package to walk, such as "zoo.models".
        constant: name of this registry where modules use it as a decorator, such as "MODELS".
    """

    def __init__(self, kind, package, constant):
        self.kind, self.package, self.constant = kind, package, constant
        self._classes = {}
        self._declarations = None

    def register(self, name, config=None):
        """Class decorator. `config` names the model's config class, defined in the same file."""

        def decorate(cls):
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise Refusal(f"Two {self.kind}s are registered as {name!r}: {known.__module__} and {cls.__module__}.")
            self._classes[name] = cls
            cls.registered_name = name
            if config is not None:
                cls.config_class = config
            return cls

        return decorate

    def names(self):
        """Sorted names of everything registered, without importing anything."""
        return sorted(set(self._walk()) | set(self._classes))

    def get(self, name):
        """The class registered as `name`. Raises Refusal that names the nearest one."""
        self.check(name)
        if name not in self._classes:
            try:
                importlib.import_module(self._walk()[name].module)
            except ModuleNotFoundError as error:
                raise Refusal(missing(error)) if missing(error) else error from error
        return self._classes[name]

    def config(self, name):
        """The config class declared with `name`, executed on its own: Keras stays unloaded."""
        self.check(name)
        if name in self._classes:
            return self._classes[name].config_class
        return self._walk()[name].config()

    def check(self, name):
        """Raises Refusal, naming the nearest, unless `name` is registered."""
        if name not in self.names():
            close = difflib.get_close_matches(str(name), self.names(), n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self.names())}."
            raise Refusal(f"No {self.kind} is called {name!r}; {hint}")

    def _walk(self):
        if self._declarations is None:
            folder = Path(importlib.util.find_spec(self.package).submodule_search_locations[0])
            found = {}
            for path in sorted(folder.glob("*.py")):
                for declaration in _declarations(path, f"{self.package}.{path.stem}", self.constant):
                    if declaration.name in found:
                        raise Refusal(f"Two {self.kind}s are registered as {declaration.name!r}: see {path}.")
                    found[declaration.name] = declaration
            self._declarations = found
        return self._declarations


class _Declaration:
    """One decorated class as read from source: its name, module and, on demand, its config class."""

    def __init__(self, name, module, path, tree, config_name):
        self.name, self.module, self._path, self._tree, self._config_name = name, module, path, tree, config_name
        self._config = None

    def config(self):
        """Executes the light part of the file: standard-library and zoo.config imports, constants, dataclasses."""
        if self.module in sys.modules:
            return getattr(sys.modules[self.module], self._config_name)
        if self._config is not None:
            return self._config
        light = ast.Module([node for node in self._tree.body if _is_light(node)], type_ignores=[])
        module = types.ModuleType(self.module + ".declared")
        module.__file__ = str(self._path)
        sys.modules[module.__name__] = module  # dataclasses look their module up by name
        exec(compile(light, str(self._path), "exec"), module.__dict__)
        self._config = getattr(module, self._config_name)
        return self._config


def _declarations(path, module, constant):
    tree = ast.parse(path.read_text(encoding="utf8"), str(path))
    for node in tree.body:
        for decorator in getattr(node, "decorator_list", []):
            match decorator:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="register"), args=[name, *rest]) if (
                    owner == constant
                ):
                    config_name = rest[0].id if rest else None
                    yield _Declaration(ast.literal_eval(name), module, path, tree, config_name)


def _is_light(node):
    match node:
        case ast.Import(names=names):
            return all(n.name.partition(".")[0] in sys.stdlib_module_names for n in names)
        case ast.ImportFrom(module=name):
            return name in LIGHT or name.partition(".")[0] in sys.stdlib_module_names
        case ast.ClassDef(decorator_list=decorators):
            return any("dataclass" in ast.unparse(d) for d in decorators)
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name.isupper()
    return False


def tasks_of(config):
    """Names of the tasks that a model with this config (or class of configs) can be trained and served for, its default first.

    A model that is fitted in closed form has its default task alone: a task's head is trained by gradients.
    """
    others = [] if config.fitted else [name for name in TASKS.names() if TASKS.config(name).serves(config)]
    return [config.default_task, *(name for name in others if name != config.default_task)]


MODELS = Registry("model", "zoo.models", "MODELS")
TASKS = Registry("task", "zoo.tasks", "TASKS")
TOKENIZERS = Registry("tokenizer", "zoo.tokenizers", "TOKENIZERS")

# Packages that the main path does not need -> the extra that brings them.
EXTRAS = {
    **dict.fromkeys(("gguf", "safetensors"), "convert"), **dict.fromkeys(("sentencepiece", "tensorflow_text"), "unigram"),
    "apache_beam": "beam", "dp_accounting": "privacy", "lm_eval": "harness",
    "tensorflow_serving": "playground",
}  # fmt: skip


def missing(error):
    """What to install where an import failed for want of an extra's package: a sentence, or None for any other error."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in EXTRAS:
        return None
    return f"This needs the package {package}, which is not installed: pip install -e '.[{EXTRAS[package]}]'."

"""The layout, checked: imports point down, folders are complete, layers have names.

6  dl/benchmarks/
5  dl/modules/<Category>/<Model>/  train.py and other commands
4  dl/modules/<Category>/<Model>/  model.py, task.py, data.py, convert.py, and what a category shares
3  dl/cli/, dl/__main__.py         the commands, which find models by name
---- nothing below knows that anything above exists ----
2  dl/mytorch/  trainer.py, train_step.py, large/, text/, environments/
1  dl/mytorch/  tasks.py, metrics.py, data/, checkpoint.py, shards.py, run.py, logger.py
0  dl/mytorch/  config.py, files.py, distributed.py, optim.py, layers/, plot.py ...
   beside       from_scratch/, which nothing but benchmarks use, and testing/, which tests use
"""

import ast
import functools
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import pytest

ROOT = Path(__file__).parent

LEVELS = {  # of the core
    **dict.fromkeys(["system", "progress", "events"], -1),  # know nothing, so that all may use them
    **dict.fromkeys(["config", "files", "distributed", "optim", "torchvision_compat", "introspect", "plot", "layers"], 0),
    **dict.fromkeys(["command_line", "precision", "safetensors", "float64", "lock", "state", "names", "dtensor", "mapped"], 0),
    **dict.fromkeys(["fonts", "provenance", "contract", "attribution", "gathering", "inverse"], 0),
    **dict.fromkeys(
        ["tasks", "mistakes", "metrics", "data", "checkpoint", "shards", "run", "logger", "charts", "rates", "profiling"], 1
    ),
    **dict.fromkeys(["features", "probes"], 1),
    **dict.fromkeys(["trainer", "train_step", "large", "text", "launcher", "last", "environments"], 2),
    **dict.fromkeys(["from_scratch", "testing"], 3),  # beside the levels: nothing of the core may import them
}
# The imports inside a level, from what uses to what is used.
BESIDE = {
    *(("command_line", "config"), ("distributed", "config"), ("precision", "distributed"), ("introspect", "config")),
    *(("files", "config"), ("lock", "config"), ("lock", "files"), ("state", "config"), ("state", "files")),
    *(("safetensors", "config"), ("safetensors", "files"), ("names", "config"), ("mapped", "config")),
    *(("mapped", "files"), ("contract", "config"), ("introspect", "contract")),
    *(("plot", "config"), ("plot", "fonts")),
    *(("torchvision_compat", "layers"), ("torchvision_compat", "config")),
    *(("gathering", "distributed"), ("gathering", "contract"), ("features", "data")),
    *(("tasks", "metrics"), ("tasks", "data"), ("metrics", "data"), ("data", "checkpoint")),
    *(("tasks", "mistakes"), ("mistakes", "data")),
    *(("logger", "charts"), ("charts", "run"), ("rates", "logger"), ("rates", "metrics"), ("rates", "profiling")),
    *(("checkpoint", "shards"), ("checkpoint", "run")),
    *(("trainer", "large"), ("trainer", "last"), ("trainer", "train_step"), ("train_step", "large")),
    ("launcher", "large"),
}
# Models that a paper takes from another paper: the folder, and whose model.py it imports.
TAKEN = {
    *(("Alignment/SFT", "GPT/GPT2"), ("Alignment/DPO", "Alignment/SFT"), ("Alignment/GRPO", "Alignment/SFT")),
    *(("CNN/EfficientNet", "CNN/MobileNetV2"), ("CNN/PreActResNet", "CNN/ResNet"), ("CNN/ResNeXt", "CNN/ResNet")),
    *(("CNN/WideResNet", "CNN/ResNet"), ("CNN/WideResNet", "CNN/ResNeXt")),
    *(("DataMining/ImageSearch", "CNN/ResNet"), ("DataMining/OpenSet", "CNN/ResNet")),
    ("Detection", "CNN/ResNet"),
    ("Diffusion/FlowMatching", "Diffusion/DDPM"),
    ("Generative/VQVAE", "GPT/GPT2"),
    *(("RNN/BahdanauAttention", "RNN/Seq2Seq"), ("SelfSupervised/SimCLR", "CNN/ResNet")),
    ("SelfSupervised/MAE", "Transformers/ViT"),
}


def by_text(read: Callable[[ast.Module], Iterable[Any]]) -> Callable[[Path], tuple]:
    """Make a function of a file from one of its tree, which remembers what it found: a file is parsed once, copies too."""
    found = functools.cache(lambda text: tuple(read(ast.parse(text))))
    return functools.wraps(read)(lambda path: found(path.read_text(encoding="utf-8")))


@by_text
def imports(tree: ast.Module) -> Iterator[str]:
    """The full names of what a file imports, `from a import b` as both "a" and "a.b"."""
    for_types = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    passed = {inner for node in for_types for inner in ast.walk(node)}  # which are never run
    for node in ast.walk(tree):
        if node in passed:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@by_text
def top_imports(tree: ast.Module) -> Iterator[str]:
    """The same, of imports outside of functions."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(root: Path) -> list[Path]:
    """The files that are neither tests nor what these share: test_*.py, testing.py, testing/, conftest.py."""
    tests = ("test_", "testing", "conftest")
    return [path for path in sorted(root.rglob("*.py")) if not any(part.startswith(tests) for part in path.parts[-2:])]


def imports_between_tests(root: Path) -> list[str]:
    """Imports of a test's file: what tests share is in a fixture, in a testing.py or testing/."""
    found = []
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if ".test_" in text or "import test_" in text:  # to read all trees would take a second
            modules = {name for name in imports(path) if name.split(".")[0] == root.name}
            for name in modules:
                if name.rpartition(".")[2].startswith("test_") and target(root, name).stem == name.rpartition(".")[2]:
                    found.append(f"{path.relative_to(root).as_posix()} imports {name}")
    return found


@by_text
def calls_of_the_standard_checks(tree: ast.Module) -> Iterator[ast.expr]:
    """What `test_standard` is set to."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "test_standard":
            yield node.value


def standard_checks_left_out(root: Path) -> list[str]:
    """Tests of models that do not call the standard checks, or switch one off without a reason."""
    found = []
    for path in root.glob("modules/*/*/test_model.py"):
        name, calls = path.relative_to(root).as_posix(), calls_of_the_standard_checks(path)
        if len(calls) != 1 or not isinstance(calls[0], ast.Call) or ast.unparse(calls[0].func) != "testing.standard_checks":
            found.append(f"{name} does not say test_standard = testing.standard_checks(...)")
            continue
        skip = next((keyword.value for keyword in calls[0].keywords if keyword.arg == "skip"), ast.Dict([], []))
        reasons = [ast.unparse(reason) for reason in skip.values] if isinstance(skip, ast.Dict) else [""]
        if any(len(reason.split()) < 3 for reason in reasons):
            found.append(f"{name} switches a check off without a reason")
    return found


def imports_that_point_up(root: Path) -> list[str]:
    """Imports of a file below `root` that reach a level that is not lower."""
    found = []
    for path in sources(root):
        parts = path.relative_to(root).parts
        for name in imports(path):
            if name.startswith("dl.") and level(root, path.relative_to(root)) < level(root, target(root, name)):
                found.append(f"{path.relative_to(root)} imports {name}")
            own, other = parts[1:2], name.split(".")[2:3]
            if parts[0] != "mytorch" or not name.startswith("dl.mytorch.") or other[0] not in LEVELS or len(parts) < 2:
                continue
            place = own[0].removesuffix(".py")
            if place not in ("__init__", other[0]) and (place, other[0]) not in BESIDE and LEVELS[other[0]] >= LEVELS[place]:
                found.append(f"{path.relative_to(root)} imports {name}, which is no lower")
    return found


def level(root: Path, path: Path) -> int:
    """The level of a file of `dl`, see above; that of the core is 2."""
    top = path.parts[0] if path.parts else "__init__.py"
    if top != "modules":
        return {"benchmarks": 6, "cli": 3, "__main__.py": 3}.get(top, 2)
    text = (root / path).read_text(encoding="utf-8") if (root / path).is_file() else ""
    return 5 if '__name__ == "__main__"' in text else 4


def target(root: Path, name: str) -> Path:
    """The file or folder below `root` that the import of `name` reads."""
    path = root.joinpath(*name.split(".")[1:])
    while not path.is_dir() and not path.with_suffix(".py").exists():
        path = path.parent
    return (path if path.is_dir() else path.with_suffix(".py")).relative_to(root)


def models_taken(root: Path) -> set[tuple[str, str]]:
    """Pairs of a model's folder and another one whose model.py its own files import, tests aside."""
    found = set()
    for path in sources(root / "modules"):
        own = "/".join(path.relative_to(root / "modules").parts[:-1])
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["dl", "modules"] and parts[4:5] == ["model"] and "/".join(parts[2:4]) != own:
                found.add((own, "/".join(parts[2:4])))
    return found


def folders_that_import_each_other(root: Path) -> set[tuple[str, str]]:
    """Pairs of models' folders of which neither can be read, or lifted out, without the other."""
    found = set()
    for path in sources(root / "modules"):
        own = "/".join(path.relative_to(root / "modules").parts[:-1])
        for name in imports(path):
            other = "/".join(name.split(".")[2:4])
            if name.startswith("dl.modules.") and other != own and (root / "modules" / other).is_dir() and own.count("/"):
                found.add((own, other))
    return {(a, b) for a, b in found if (b, a) in found and a < b}


def wrong_imports_of_models(root: Path) -> list[str]:
    """A model.py imports torch, the standard library, dl.mytorch.layers, another model.py, what its category shares, or parts.

    Parts are files of its folder that hold to the same.
    """
    found, queue = [], [*root.glob("modules/*/*/model.py")]
    for path in queue:  # which grows
        for name in imports(path):
            part = root.parent / Path(*name.split(".")[:5]).with_suffix(".py")
            if part.parent == path.parent and part.exists():
                queue += [part] if part not in queue else []
                continue
            top = name.split(".")[0]
            another_model = name.startswith("dl.modules.") and "model" in name.split(".")[4:5]
            shared = root.parent / Path(*name.split(".")[:4]).with_suffix(".py")
            another_model |= shared.exists() and shared.parent == path.parents[1]
            ours = another_model or name.startswith("dl.mytorch.layers")
            if top not in sys.stdlib_module_names and top != "torch" and not ours:
                if name != "dl.mytorch":  # `from dl.mytorch import layers` names both
                    found.append(f"{path.relative_to(root)} imports {name}")
    return found


@by_text
def words(tree: ast.Module) -> Iterator[tuple[int, Any]]:
    """Identifiers and strings, docstrings aside, with their lines."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            found = {node.value} if isinstance(node.value, str) and id(node) not in docstrings else set()
        else:
            found = {getattr(node, field, None) for field in ("id", "attr", "name")} - {None}
        yield from ((node.lineno, word) for word in found)


def model_names_in_the_core(root: Path) -> list[str]:
    """Identifiers and strings of the core, docstrings aside, that name a model's folder. layers/ may share such names."""
    names = {path.parent.name for path in root.glob("modules/*/*/model.py")} - {"Seq2Seq"}  # a task has this name, too
    found = []
    for path in sources(root / "mytorch"):
        if "layers" in path.parts:
            continue
        found += [f"{path.relative_to(root)}:{line} names {word}" for line, word in words(path) if word in names]
    return found


@by_text
def definitions(tree: ast.Module) -> Iterator[str]:
    """The names of functions and classes."""
    yield from (node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def missing_files(root: Path) -> list[str]:
    """What a model's folder lacks, and core files without a test beside them."""
    found = []
    for folder in (path.parent for path in root.glob("modules/*/*/model.py")):
        for name in ("__init__.py", "train.py", "test_model.py", "README.md"):
            if not (folder / name).exists():
                found.append(f"{folder.relative_to(root)} lacks {name}")
        marks = "<!-- results -->", "<!-- /results -->"
        if (folder / "README.md").exists() and not all(mark in lines(folder / "README.md") for mark in marks):
            found.append(f"{folder.relative_to(root)}/README.md lacks the lines {' and '.join(marks)}, for tables")
    for folder in root.glob("modules/*/*/__init__.py"):  # of tools: the README, and tests of whatever name
        if not (folder.with_name("model.py").exists() or folder.with_name("README.md").exists()):
            found.append(f"{folder.parent.relative_to(root)} lacks README.md")
        if not any(folder.parent.glob("test_*.py")):
            found.append(f"{folder.parent.relative_to(root)} has no tests")
    for path in sources(root / "mytorch"):
        if path.name != "__init__.py" and definitions(path) and not path.with_name(f"test_{path.name}").exists():
            found.append(f"{path.relative_to(root)} has no test beside it")
    for folder in {path.parent for path in root.rglob("*.py")}:
        if not (folder / "__init__.py").exists():
            found.append(f"{folder.relative_to(root)} lacks __init__.py")
    return found


def opened_without_encoding(root: Path) -> list[str]:
    """Text files that are read or written in the encoding of the machine: on Windows that is not UTF-8."""
    paths = [*root.glob("*.py"), *root.glob("mytorch/*.py"), *root.glob("benchmarks/*.py")]
    return [f"{path.relative_to(root)}:{line}" for path in paths for line in openings(path)]


@by_text
def openings(tree: ast.Module) -> Iterator[int]:
    """The lines that open a text file and name no encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        mode = next((a.value for a in node.args if isinstance(a, ast.Constant) and str(a.value)[:1] in "rwxa"), "r")
        opened = isinstance(node.func, ast.Name) and name == "open" and "b" not in mode
        if opened or (name == "read_text" and not node.args) or (name == "write_text" and len(node.args) == 1):
            yield node.lineno


def test_imports_point_down() -> None:
    assert imports_that_point_up(ROOT) == []


def test_a_model_is_taken_from_another_paper_where_the_paper_does() -> None:
    assert models_taken(ROOT) == TAKEN


def test_folders_do_not_import_each_other() -> None:
    both = {("Diffusion/DDPM", "Diffusion/FlowMatching")}  # a flow trains DDPM's network, and is sampled by DDPM's command
    assert folders_that_import_each_other(ROOT) == both


def test_the_training_loop_is_small() -> None:
    """What `import dl.mytorch.trainer` loads of ours, all but large/: no reader of data sets, no decoding, nothing by hand."""
    found, queue = set(), ["dl.mytorch.trainer"]  # dl/__init__.py aside, which any import of ours reads
    while queue:
        path = target(ROOT, queue.pop())
        path = path / "__init__.py" if (ROOT / path).is_dir() else path
        if path not in found:
            found |= {path, *(parent / "__init__.py" for parent in path.parents if parent.name)}
            queue += [
                name
                for name in top_imports(ROOT / path)
                if name.startswith("dl.") and name not in ("dl.print_error", "dl.shown_bytes")
            ]
    folders = ("mytorch/data/images", "mytorch/data/text", "mytorch/data/graphs", "mytorch/text", "mytorch/from_scratch")
    assert not [str(path) for path in found if path.as_posix().startswith(folders)]
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in found if "large" not in path.parts}
    assert sum(lines.values()) <= 3000
    assert lines[Path("mytorch/trainer.py")] + lines[Path("mytorch/train_step.py")] <= 460


def test_the_readme_of_the_core_names_each_of_its_files() -> None:
    text = (ROOT / "mytorch" / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in sources(ROOT / "mytorch") if path.parent.name == "mytorch"} - {"__init__.py"}
    assert {name for name in files if name not in text} == set()


def test_links_between_documents_lead_to_files() -> None:
    for path in ROOT.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.relative_to(ROOT)} links {link}"


def test_models_import_architecture_only() -> None:
    assert wrong_imports_of_models(ROOT) == []


def test_the_core_names_no_model() -> None:
    assert model_names_in_the_core(ROOT) == []


def test_paths_of_command_lines_may_begin_with_the_home_folder() -> None:
    """`type=user_path` knows ~, which `type=Path` does not."""
    assert [str(path) for path in sources(ROOT) if "type=Path" in path.read_text(encoding="utf-8")] == []


def test_folders_are_complete() -> None:
    assert missing_files(ROOT) == []


def test_no_test_file_imports_another() -> None:
    assert imports_between_tests(ROOT) == []


def test_models_call_the_standard_checks_and_switch_none_off_without_a_reason() -> None:
    assert standard_checks_left_out(ROOT) == []


def test_text_files_are_utf_8_on_every_system() -> None:
    assert opened_without_encoding(ROOT) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The house once more, to be damaged."""
    return Path(shutil.copytree(ROOT, tmp_path / "dl", ignore=shutil.ignore_patterns("__pycache__", "*.json", "*.png")))


def test_imports_that_point_up_are_found(copy: Path) -> None:
    wrong = {
        "mytorch/trainer.py": "from dl.modules.CNN.LeNet.model import LeNet",
        "mytorch/data/images/idx.py": "import dl.modules.CNN.LeNet.train",
        "mytorch/tasks.py": "from dl.mytorch import trainer",
        "mytorch/config.py": "from dl.mytorch.metrics import Mean",
        "mytorch/logger.py": "from dl.mytorch import testing",
    }
    for file, line in wrong.items():
        (copy / file).write_text(line + "\n" + (copy / file).read_text(encoding="utf-8"), encoding="utf-8")
    assert {found.split()[0] for found in imports_that_point_up(copy)} == set(wrong)


def test_other_damage_is_found(copy: Path) -> None:
    (copy / "modules/CNN/LeNet/README.md").unlink(missing_ok=True)
    (copy / "modules/CNN/NiN/README.md").write_text("# NiN\n\n<!-- results -->\n", encoding="utf-8")
    (copy / "mytorch/test_optim.py").unlink(missing_ok=True)
    (copy / "modules/DataMining/TSNE/README.md").unlink(missing_ok=True)
    for test in (copy / "modules/DataMining/OpenSet").glob("test_*.py"):
        test.unlink()
    damage = {"modules/CNN/LeNet lacks README.md", "mytorch/optim.py has no test beside it"}
    damage |= {"modules/DataMining/TSNE lacks README.md", "modules/DataMining/OpenSet has no tests"}
    damage |= {"modules/CNN/NiN/README.md lacks the lines <!-- results --> and <!-- /results -->, for tables"}
    assert damage <= set(missing_files(copy))
    tests = copy / "modules/CNN/LeNet/test_model.py"
    tests.write_text("from dl.mytorch.test_config import x\n" + tests.read_text(encoding="utf-8"), encoding="utf-8")
    assert imports_between_tests(copy) == ["modules/CNN/LeNet/test_model.py imports dl.mytorch.test_config"]
    tests.write_text(tests.read_text(encoding="utf-8").replace("test_standard =", "standard ="), encoding="utf-8")
    tests = copy / "modules/Generative/DCGAN/test_model.py"
    tests.write_text(re.sub('"of two players[^"]*"', '""', tests.read_text(encoding="utf-8")), encoding="utf-8")
    assert {
        "modules/CNN/LeNet/test_model.py does not say test_standard = testing.standard_checks(...)",
        "modules/Generative/DCGAN/test_model.py switches a check off without a reason",
    } <= set(standard_checks_left_out(copy))
    model = copy / "modules/CNN/LeNet/model.py"
    model.write_text("from dl.mytorch.tasks import Task\n" + model.read_text(encoding="utf-8"), encoding="utf-8")
    part = copy / "modules/Detection/FasterRCNN/anchors.py"
    part.write_text("from dl.mytorch.tasks import Task\n" + part.read_text(encoding="utf-8"), encoding="utf-8")
    damaged = {line.split()[0] for line in wrong_imports_of_models(copy)}
    assert damaged == {"modules/CNN/LeNet/model.py", "modules/Detection/FasterRCNN/anchors.py"}
    tsne = copy / "modules/DataMining/TSNE/tsne.py"
    tsne.write_text(
        "from dl.modules.DataMining.ImageSearch import index\n" + tsne.read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert ("DataMining/ImageSearch", "DataMining/TSNE") in folders_that_import_each_other(copy)
    trainer = copy / "mytorch/trainer.py"
    trainer.write_text(trainer.read_text(encoding="utf-8") + '\nSPECIAL = "LeNet"\n', encoding="utf-8")
    assert model_names_in_the_core(copy)
    (copy / "doctor.py").write_text("x.read_text()\nopen(x)\nopen(x, 'rb')\nopen(x, 'w')\n", encoding="utf-8")
    assert opened_without_encoding(copy) == ["doctor.py:1", "doctor.py:2", "doctor.py:4"]

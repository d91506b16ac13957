"""The documentation is true: its Python runs, its commands parse, its links resolve, and its tables hold the whole registry.

All pages run in one process of their own, so that the parts that they define stay out of the registry of the other tests. The model
`mini` is stood in for by a tiny untrained one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import yaml

from doc_blocks import blocks, check_command, commands, links
from inkwash.io.find import MODELS
from inkwash.value import alias_table, registry

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]

RUNNER = """
import sys, traceback, warnings
from pathlib import Path
from doc_blocks import blocks

warnings.simplefilter("ignore")
model, failed = sys.argv[1], False
for name in sys.argv[2:]:
    space = {"__name__": "page"}
    for number, code in enumerate(blocks(Path(name), "python"), 1):
        try:
            exec(compile(code.replace('"mini"', repr(model)), f"{name}, block {number}", "exec"), space)
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            failed = True
            break
sys.exit(failed)
"""


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_python_blocks_run(tiny_model: Path, tmp_path: Path) -> None:
    pages = [str(page) for page in PAGES if blocks(page, "python")]
    assert len(pages) >= 8
    work = tmp_path / "work"
    work.mkdir()
    found = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", RUNNER, str(tiny_model), *pages], cwd=work, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}"


@pytest.mark.parametrize(("page", "command"), [(page.name, command) for page in PAGES for command in commands(page)])
def test_every_command_is_understood(page: str, command: str) -> None:
    check_command(command)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_paths(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home|Users)/", text), "a path of somebody's machine"
    assert not [target for target in links(text) if not (page.parent / target).exists()]


def test_every_page_is_in_the_navigation() -> None:
    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [name for part in parts for name in files(part)]  # type: ignore[attr-defined]

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(files(config["nav"])) == sorted(NAMES)
    assert config["theme"]["font"] is False, "fonts would come from the network"


def test_tables_hold_the_whole_registry(hooks: ModuleType) -> None:
    page = (DOCS / "reference" / "registries.md").read_text("utf-8")
    for kind, base in hooks.kinds().items():
        assert f"{{{{ registry {kind} }}}}" in page
        table = hooks.registry_table(kind)
        for name in registry(base):
            assert f"`{name}(" in table
        for name, value in alias_table(base).items():
            assert f"| `{name}` | `{value!r}` |" in table
        assert len({line.count(" | ") for line in table.replace("\\|", "").splitlines()}) == 1, "a cell with a bar in it"


def test_settings_say_what_is_written_there(hooks: ModuleType) -> None:
    told = hooks.settings_table("DataConfig") + hooks.settings_table("OptimizerConfig") + hooks.settings_table("SampleConfig")
    for row in ("| `rewrite` | list of [regular expression, text] |", "| `leave_out` | list of regular expressions |",
                "| `repeat` | mapping of regular expression to whole number > 0 |", "| `betas` | [number >= 0 and &lt; 1, number >= 0 and &lt; 1] |",
                "| `size` | whole number > 0 and &lt;= 4096 |", "| `seeds` | list of whole numbers |"):
        assert row in told


def test_samplers_and_guidances_have_a_source(hooks: ModuleType) -> None:
    classical = {"AdamsBashforth", "RK4", "NoGuidance"}
    for kind in ("samplers", "guidances"):
        for name, cls in registry(hooks.kinds()[kind]).items():
            assert name in classical or re.search(r"\b(19|20)\d\d[a-z]?\b", hooks.source_of(cls)), f"{name} cites nothing"


def test_bibliography_names_what_exists(hooks: ModuleType) -> None:
    papers = hooks.bibliography()
    assert len(papers) > 30
    assert len({paper.arxiv for paper in papers}) == len(papers)
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    classes = set(re.findall(r"^class (\w+)", source, re.M))
    assert not {part for paper in papers for part in paper.parts} - classes
    cited = set(re.findall(r"(?:arXiv:? ?|\()(\d{4}\.\d{5})", source))
    missing = cited - {paper.arxiv for paper in papers}
    assert not missing, f"the code cites papers that docs/reference/bibliography.md lacks: {sorted(missing)}"


def test_every_mark_is_known(hooks: ModuleType) -> None:
    marks = [mark for page in PAGES for mark in re.findall(r"\{\{ (\w+)", page.read_text("utf-8"))]
    assert set(marks) == set(hooks.MARKS)
    assert "| 4 | `CheckpointError` |" in hooks.error_table()
    assert "`mini-autoencoder`" in hooks.recipe_table()
    assert ("| parameters |" in hooks.model_table("mini")) == (MODELS / "mini" / "inkwash.json").is_file()


def test_settings_tables_tell_every_key(hooks: ModuleType) -> None:
    from inkwash.train import config

    page = (DOCS / "reference" / "recipes.md").read_text("utf-8")
    for cls in (config.OptimizerConfig, config.DataConfig, config.SampleConfig, config.RunConfig):
        assert f"{{{{ settings {cls.__name__} }}}}" in page
        table = hooks.settings_table(cls.__name__)
        assert all(f"| `{key}` |" in table for key in set(cls.model_fields) - {"optimizer", "data", "sample"})
    tasks = hooks.tasks_text()  # imports every task
    for cls in config.RunConfig.__subclasses__():
        [name] = get_args(cls.model_fields["task"].annotation)
        section = tasks.partition(f"### task: {name}\n")[2].partition("###")[0]
        assert all(f"| `{key}` |" in section for key in set(cls.model_fields) - set(config.RunConfig.model_fields))


def test_model_table_tells_every_part(hooks: ModuleType, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inkwash.io.find.MODELS", tiny_model.parent)
    table = hooks.model_table(tiny_model.name)
    for part in ("conditioner", "text_encoder", "unet", "vae"):
        assert f"| part `{part}` |" in table
    assert "| process | `Cosine()` |" in table
    assert "| prediction | `V()` |" in table


def test_generated_sources_are_links(hooks: ModuleType) -> None:
    assert "[arXiv 2010.02502](https://arxiv.org/abs/2010.02502)" in hooks.registry_table("samplers")

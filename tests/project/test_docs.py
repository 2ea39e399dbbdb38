"""The pages keep their word: examples run, links lead somewhere, public names are listed."""

import re
import sys
import types

import pytest
import torch

import gaussreg_fast
from bench import ROOT
from gaussreg_fast import latent

GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?```python\n(?P<code>.*?)```", re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def examples(page):
    """The Python blocks of a page, and the reasons why some are not run."""
    blocks = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
    return [b["code"] for b in blocks if not b["reason"]], [b["reason"] for b in blocks]


def with_examples():
    return [page for page in (ROOT / "README.md", *GUIDE) if examples(page)[0]]


def loop_names():
    """Stand-ins for what a page asks its reader to have: a decoder and a reward."""
    return {"decode": torch.tanh, "reward": lambda images: images.flatten(1).mean(1)}


def personalisation_names():
    model = torch.nn.Linear(8, 4)
    return {
        "model": model,
        "data": torch.randn(2, 3, 8),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_of": lambda model, batch: model(batch).square().mean(),
    }


def no_names():
    return {}


def digits_names():
    pytest.importorskip("diffusers")
    return {}


def sampler_names():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(5)
    weight = torch.tensor(0.7, requires_grad=True)
    return loop_names() | {
        "scheduler": scheduler, "x": torch.randn(3, 4, 8, 8), "alpha": 0.1,
        "unet": lambda x, t: weight * x, "base": lambda x, t: 0.5 * x,
        "scorer": lambda images, prompts: torch.randn(64), "images": None, "prompts": None,
    }  # fmt: skip


NAMES = {
    "README.md": loop_names,
    "guard-my-loop.md": loop_names,
    "project-gradients.md": loop_names,
    "personalise.md": personalisation_names,
    "fine-tune-on-rewards.md": sampler_names,
    "optimise-noise.md": digits_names,
}


@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    """The examples run in order and in one namespace, like those of a reader who types them."""
    monkeypatch.chdir(tmp_path)
    project = types.ModuleType("my_project")  # the reader's own
    project.optimise_step = torch.tanh
    monkeypatch.setitem(sys.modules, "my_project", project)
    torch.manual_seed(0)
    names = {"__name__": "example"} | NAMES.get(page.name, no_names)()
    for number, code in enumerate(examples(page)[0], 1):
        exec(compile(code, f"{page.name}, example {number}", "exec"), names)


def test_an_example_is_left_out_only_with_a_reason(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: needs a GPU -->\n\n```python\n1 / 0\n```\n\n```python\n2\n```\n")
    assert examples(page) == (["2\n"], ["needs a GPU", None])
    assert sum(len(examples(page)[0]) for page in GUIDE) >= 10
    left_out = [reason for page in GUIDE for reason in examples(page)[1] if reason]
    assert len(left_out) <= 2


def commands():
    """The `gaussreg-fast` commands of shell blocks: (command, its options)."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *GUIDE))
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).replace("\\\n", " ")
    found = re.findall(r"(?:gaussreg-fast|-m gaussreg_fast\S*) (\w+)(.*)", shell)
    return [(command, re.findall(r"(?<=\s)--[a-z-]+", rest)) for command, rest in found]


def test_the_commands_of_the_pages_have_the_options_they_use(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert len(commands()) >= 6
    helps = {command: cli(command, "--help").stdout for command, _ in commands()}
    unknown = [(c, o) for c, options in commands() for o in options if f"{o} " not in helps[c]]
    assert not unknown, unknown


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), ROOT / "bench" / "NOTES.md", *(ROOT / "kernels").rglob("*.md")],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_of_pages_outside_the_site_lead_somewhere(page):
    """Those within docs/ are checked where the site is built."""
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
    missing = [t for t in targets if t and "://" not in t and not (page.parent / t).exists()]
    assert not missing, missing


def tree(text):
    """The paths of CONTRIBUTING's tree: a line for each, indented by two spaces a level."""
    found, parents = [], []
    for line in re.search(r"```text\n(.*?)```", text, re.S)[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], line.split()[0]]
        found.append("".join(parents))
    return found


def test_every_path_of_the_tree_exists():
    paths = tree((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(paths) > 30
    missing = {path for path in paths if not (ROOT / path).is_dir()}
    assert not missing, missing


def test_the_map_of_the_cpu_kernels_names_every_file():
    folder = ROOT / "kernels" / "cpu"
    words = set(re.findall(r"\w+", (folder / "README.md").read_text(encoding="utf-8")))
    files = {path.stem for ending in ("h", "cpp") for path in folder.rglob(f"*.{ending}")}
    assert len(files) > 30
    assert files <= words, files - words


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    lists = re.findall(r"::: (\S+)\n    options:\n      members: \[(.*?)\]", text, re.S)
    for module in (gaussreg_fast, latent):
        members = " ".join(names for owner, names in lists if owner == module.__name__)
        missing = set(module.__all__) - {"__version__"} - set(re.findall(r"\w+", members))
        assert not missing, missing


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 88
    assert sum(line.startswith("![") for line in lines) == 1
    assert max(line.count("|") for line in lines) <= 8  # seven columns

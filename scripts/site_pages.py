"""What mkdocs cannot know of this repository: pages that lie above `docs/`, links out of it, and pages of the API.

mkdocs calls the functions named `on_…` (mkdocs.yml, `hooks`). The pages stay as GitHub shows them; here, while the site
is built,

- `CHANGELOG.md` and others of `ABOVE` become pages;
- a link to another file of the repository leads to a copy in the site: source code as a page with numbered lines;
- a link whose text is the name of a page shows that page's title;
- `api/NAME.md`, named in mkdocs.yml, is made from the `__all__` of the module NAME;
- a row of `equations.md` links its file and its name to the line that defines it.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# pages that lie above docs/, and their names in the site
ABOVE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "acmix/ops/README.md": "operators.md",
    "benchmarks/README.md": "benchmarks.md",
}
# pages that a search shows earlier or later than others
BOOST = {"start.md": 2, "concepts.md": 2, "faq.md": 2, "changelog.md": 0.3, "LOG.md": 0.3, "contributing.md": 0.5}
API = "api/"
SOURCE = "source/"
# shown as they are
COPIED = {".png", ".svg", ".csv"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".sbatch": "bash"}
# the target of a link or a picture in Markdown, up to its anchor; none within code
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(?=[)#\s])")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", flags=re.MULTILINE | re.DOTALL)
# a link to a page that shows the page's file
NAMED = re.compile(r"\[([\w/]+\.md)\](?=\(([^)#\s]+))")
LINE = re.compile(r'<a id="__codelineno-[^>]*></a>')
ROW = re.compile(r"<td><code>(acmix/[\w/]+\.py)</code></td>(\s*)<td><code>([\w.]+)</code></td>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/, and every file that a page links to."""
    for origin, name in ABOVE.items():
        files.append(File.generated(config, name, content=(ROOT / origin).read_text(encoding="utf-8")))
    for name in api_pages(config.nav):
        files.append(File.generated(config, name, content=api_page(name.removeprefix(API).removesuffix(".md"))))
    linked = {target for file in files.documentation_pages() for target in targets(file)}
    equations = (Path(config.docs_dir) / "equations.md").read_text(encoding="utf-8")
    linked |= set(re.findall(r"`(acmix/[\w/]+\.py)`", equations))
    for target in sorted(linked):
        name = name_in_site(target)
        if files.get_file_from_path(name) is None and (ROOT / target).is_file():
            files.append(copy_of(target, name, config))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links between files of the repository into links between files of the site."""
    here = page.file.src_uri
    if here.startswith((API, SOURCE)):
        return markdown
    if here in BOOST:
        page.meta["search"] = {"boost": BOOST[here]}
    if here == "README.md":
        page.meta["hide"] = ["navigation"]

    def moved(match: re.Match[str]) -> str:
        target = name_in_site(in_repository(match[1], origin_of(here)))
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    def titled(match: re.Match[str]) -> str:
        target = in_repository(match[2], origin_of(here))
        # a link that leads nowhere stays, for mkdocs to name
        named = target.endswith(match[1]) and (ROOT / target).is_file()
        return f"[{title_of(target)}]" if named else match[0]

    parts = CODE.split(markdown)
    # every second part is code
    return "".join(part if index % 2 else LINK.sub(moved, NAMED.sub(titled, part)) for index, part in enumerate(parts))


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Links the rows of the equations to the lines that define them; numbers no lines but those of sources."""
    if page.file.src_uri.startswith(SOURCE):
        return content
    content = LINE.sub("", content)
    return ROW.sub(row_with_links, content) if page.file.src_uri == "equations.md" else content


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Names the language of the Chinese page."""
    return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1) if page.file.src_uri == "zh.md" else output


def targets(file: File) -> Iterator[str]:
    """The files that a page links to, by their places in the repository."""
    origin = origin_of(file.src_uri)
    for part in CODE.split(file.content_string)[::2]:
        yield from (in_repository(target, origin) for target in LINK.findall(part))


def origin_of(name: str) -> str:
    """Where a page of the site lies in the repository."""
    return next((origin for origin, other in ABOVE.items() if other == name), f"docs/{name}")


def in_repository(target: str, origin: str) -> str:
    """The file that a link in `origin` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def name_in_site(target: str) -> str:
    """What a file of the repository is called in the site's folder of sources."""
    if target in ABOVE:
        return ABOVE[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"{SOURCE}{target}" if Path(target).suffix in COPIED else f"{SOURCE}{target}.md"


def title_of(target: str) -> str:
    """The heading of a page of the repository."""
    first = (ROOT / target).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ").strip()


def copy_of(target: str, name: str, config: MkDocsConfig) -> File:
    """A file as it is, or the page of a source."""
    path = ROOT / target
    inclusion = InclusionLevel.NOT_IN_NAV
    if path.suffix in COPIED:
        return File.generated(config, name, abs_src_path=str(path), inclusion=inclusion)
    text = path.read_text(encoding="utf-8")
    language = LANGUAGES.get(path.suffix, "text")
    head = "---\nsearch: {exclude: true}\nhide: [navigation, toc]\n---"
    fence = "`" * 5
    page = f'{head}\n# {target}\n\n{fence}{{.{language} linenums="1"}}\n{text}\n{fence}\n'
    return File.generated(config, name, content=page, inclusion=inclusion)


def api_pages(nav: Any) -> Iterator[str]:
    """The pages of the API that the navigation names."""
    if isinstance(nav, str):
        yield from [nav] if nav.startswith(API) else []
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav or []:
            yield from api_pages(entry)


def api_page(module: str) -> str:
    """A page for mkdocstrings: a module's own words, then each public name that no page above it shows."""
    top = [name for name, home in homes("acmix").items() if home == module != "acmix"]
    lines = [
        f"# {module}",
        "",
        f"::: {module}",
        *options(show_root_heading="false", show_root_toc_entry="false", members="false"),
        "",
    ]
    names = public_names(module)
    if elsewhere := [name for name in names if name in top]:
        links = ", ".join(f"[`{name}`][acmix.{name}]" for name in elsewhere)
        lines += [f"On the page of [acmix](acmix.md): {links}.", ""]
    for name in names:
        if name not in top and not is_module(f"{module}.{name}"):
            lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)


def homes(package: str) -> dict[str, str]:
    """The modules that a package takes its names from."""
    tree = ast.parse(file_of(package).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def options(**values: str) -> list[str]:
    """Options of one mkdocstrings block."""
    return ["    options:", *(f"      {name}: {value}" for name, value in values.items())]


def public_names(module: str) -> list[str]:
    """A module's `__all__`, read without importing it; else its public functions and classes."""
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return ast.literal_eval(node.value)
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in found if not name.startswith("_")]


def file_of(module: str) -> Path:
    """Where a module is written."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def is_module(name: str) -> bool:
    """Whether a public name is a module, which has a page of its own, rather than a function of the same name."""
    return name == "acmix.ops"


def row_with_links(match: re.Match[str]) -> str:
    """A file and a name of the equations, with links to the file's page and the name's line in it."""
    file, between, name = match.groups()
    page = f"{SOURCE}{file}.html"
    line = f"{page}#__codelineno-0-{line_of(ROOT / file, name)}"
    cells = (
        f'<td><a href="{target}"><code>{breakable(text)}</code></a></td>'
        for target, text in ((page, file), (line, name))
    )
    return between.join(cells)


def breakable(text: str) -> str:
    """A name that may be broken behind a slash, a dot or an underscore."""
    return re.sub(r"(?<=[/._])", "<wbr>", html.escape(text))


def line_of(path: Path, name: str) -> int:
    """The line where a function, a class or a method is defined; the first if there is none."""
    scope: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    line = 1
    for part in name.split("."):
        inner = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", None) == part]
        if not inner:
            break
        scope, line = inner[0], getattr(inner[0], "lineno", line)
    return line

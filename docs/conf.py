"""Sphinx settings of the site. `docs/build.py` lays its sources and calls Sphinx."""

import re

from docutils import nodes

from m2f_helpers import export

project = "Mask2Former, from a bare machine to a model you understand"
author = "the m2f-helpers project"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

nb_execution_mode = "off"  # the notebooks come executed
nb_ipywidgets_js = {}  # their widgets come as static twins
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing", "myst.header", "mystnb.unknown_mime_type", "mystnb.lexer"]

default_role = "code"  # docstrings write `name`, as notebooks do
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they stand in the docstrings, in words
add_module_names = False
napoleon_google_docstring = True

html_theme = "sphinx_book_theme"
html_title = "Mask2Former tutorial"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_domain_indices = False
html_context = {"default_mode": "auto"}  # light or dark as the reader's system has it
html_theme_options = {
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_sidenotes": False,
    "navbar_persistent": [],  # the search field stands in the side bar
    "show_toc_level": 2,
    "home_page_in_toc": True,
}


def _math(translator, node: nodes.Node) -> None:
    """A formula as MathML: no script, no font, no other host."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(export.formula(node.astext(), display))
    raise nodes.SkipNode


def _sections(app, what, name, thing, options, lines: list[str]) -> None:
    """`Returns: text` on one line, as our docstrings have it, becomes a field; napoleon knows only the longer form."""
    inside = False
    for k, line in enumerate(lines):
        start = re.match(r"(Returns|Raises|Yields): (.*)", line)
        inside = bool(line.strip()) and (inside or bool(start))
        if start:
            lines[k] = f":{start[1]}: {start[2]}"
        elif inside:
            lines[k] = f"    {line.strip()}"


def setup(app) -> None:
    """Register the drawing of formulas and our form of docstrings."""
    app.connect("autodoc-process-docstring", _sections, priority=100)  # before napoleon
    app.add_html_math_renderer("mathml", inline_renderers=(_math, None), block_renderers=(_math, None))

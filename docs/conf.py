"""Sphinx configuration: Markdown pages and the docstrings of the installed package."""

import scanlib

project = "scanlib"
author = "the scanlib authors"
version = release = scanlib.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
autodoc_typehints = "none"
napoleon_google_docstring = False
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_static_path: list[str] = []

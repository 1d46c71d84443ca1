"""The site: `python -m sphinx -W --keep-going docs docs/_build`, then open `docs/_build/index.html`."""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Sphinx takes nothing from outside of this folder, and the links of the notebooks are to each other.
shutil.copytree(
    ROOT / "notebooks", ROOT / "docs" / "notebooks", ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True
)
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

project = "learner-callbacks"
author = "the authors"
project_copyright = "the authors"
release = version = re.search(r'__version__ = "(.*?)"', (ROOT / "learner/__init__.py").read_text())[1]

extensions = [
    "myst_nb",  # pages in Markdown, and the notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "callback_table",
    "docstrings",
    "public_names",
    "repository_page",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

myst_heading_anchors = 3
nb_execution_mode = "off"  # they are committed with their outputs, which the tests compare

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as they are written: `<class ...>` is no code
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
add_module_names = False
python_maximum_signature_line_length = 88
default_role = "literal"  # what stands between single backticks is code
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reads", "Writes", "Shapes", "Source"]
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "learner-callbacks"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}

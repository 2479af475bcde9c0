"""Configuration of the documentation: ``sphinx-build -nW -b html docs docs/_build/html``.

Nothing is fetched from the network.
"""

import importlib
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import graph_pes

logger = logging.getLogger(__name__)

PUBLIC_MODULES = [
    "graph_pes.analysis",
    "graph_pes.atomic_graph",
    "graph_pes.data",
    "graph_pes.drivers",
    "graph_pes.models",
    "graph_pes.testing",
]

project = "graph-pes"
author = "The graph-pes authors"
copyright = "2026, The graph-pes authors"
release = version = graph_pes.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"graph-pes {version}"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 88

# types of parameters are in the signatures; docstrings give shapes and units
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_preprocess_types = False

# `name` in a docstring is a link where there is something to link to
default_role = "py:obj"

# examples in docstrings are run by pytest, those in pages by sphinx
doctest_test_doctest_blocks = ""

nitpick_ignore_regex = [
    # other packages: the build does not use the network to resolve them
    (
        r"py:.*",
        r"(abc|ase|collections|data2objects|e3nn|ipi|np|numpy|os|pathlib|pl|torch|torch_sim|types|typing)\..*",
    ),
    (r"py:.*", r"(nn|pytorch_lightning|rich|torchmetrics)\..*"),
    (
        r"py:class",
        r"(lammps|Any|Callable|Irreps|Iterable|Iterator|Literal|Mapping|Path|Sequence|TypeVar)",
    ),
    (
        r"py:class",
        r"(Atoms|Axes|Dataset|DataLoader|Figure|LightningModule|Line2D|Module|Tensor|Trainer)",
    ),
    # type variables, aliases and private base classes
    (
        r"py:class",
        r"(graph_pes\..*\.)?(_\w+|Batcher|Blocks|EnergyMACE|LossComponent|Method|Model|SeededItems"
        r"|TensorOffset|Transform)",
    ),
    (r"py:obj", r".*"),
]


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Element | None:
    """Link ``graph_pes.models.base.GraphPESModel`` to ``graph_pes.models.GraphPESModel``.

    Annotations name the module that defines an object, the pages document it under the
    module that users import it from. The last part of the name decides, if it is unique.
    """
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    domain = env.domains.python_domain
    public = [full for full in domain.objects if full.rpartition(".")[2] == name]
    classes = [full for full in public if domain.objects[full].objtype == "class"]
    matches = classes if node["reftype"] == "class" else public
    if len(matches) != 1:
        return None
    found: Any = domain.objects[matches[0]]
    refnode = nodes.reference("", "", internal=True)
    refnode["refuri"] = app.builder.get_relative_uri(node["refdoc"], found.docname)
    refnode["refuri"] += f"#{found.node_id}"
    refnode += contnode
    return refnode


def skip_tuple_fields(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool:
    """Leave out "Alias for field number 0": the docstring of the class describes fields."""
    return skip or type(obj).__name__ == "_tuplegetter"


def check_complete(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page documents, so that a new model needs its entry."""
    for module in PUBLIC_MODULES:
        for name in getattr(importlib.import_module(module), "__all__", ()):
            if f"{module}.{name}" not in env.domains.python_domain.objects:
                logger.warning("no page documents %s.%s", module, name)


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("missing-reference", resolve_public_name)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("env-check-consistency", check_complete)

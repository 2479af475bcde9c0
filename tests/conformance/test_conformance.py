"""Every model passes every check of the public conformance suite."""

from __future__ import annotations

import pytest

from graph_pes.testing import CHECKS, check_model

from .models import MODELS, Row


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_model(row: Row, check: str) -> None:
    check_model(row.factory, elements=row.elements, checks=[check], **row.options)

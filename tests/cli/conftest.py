"""The outer time limit of the integration tests holds here, too."""

from integration.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]

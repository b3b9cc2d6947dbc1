"""The services: their options, and the processes that `twistd` makes of them."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.processes")

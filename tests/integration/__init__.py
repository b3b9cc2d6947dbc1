"""Tests over real sockets, with real peers where there are any. All traffic is on loopback."""

import pytest

for _module in ("interop", "origins", "peers", "proxies", "raw"):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")

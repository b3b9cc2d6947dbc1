"""Tests over real sockets, with real peers where there are any. All traffic is on loopback."""

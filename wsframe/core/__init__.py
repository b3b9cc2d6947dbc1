"""The protocol rules of wsframe, without any I/O: no Twisted, no socket, no clock, no logging."""

"""Autobahn's testsuite against wsframe: `make conformance`; see docs/conformance.md."""

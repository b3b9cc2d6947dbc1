"""Autobahn's fuzzing client or server, for the Python 2.7 that it needs.

    python2.7 fuzzer.py client|server SPEC

SPEC is a file as `wstest --spec` takes it, and may have "messages": how many messages each of the
cases 12 and 13 exchanges, which are 1000 in themselves. `wstest` itself takes no port 0 and listens
on every interface; this listens on a free port of 127.0.0.1, and prints it.
"""

import json
import socket
import sys

import autobahntestsuite.choosereactor  # noqa: F401  # installs the reactor that the rest takes
from autobahntestsuite import fuzzing
from autobahntestsuite.case import Case12_X_X, Case13_X_X
from twisted.internet import reactor


def listen(spec):
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(50)
    listening.setblocking(False)  # the reactor accepts until there is nothing more
    port = str(listening.getsockname()[1])
    spec["url"] = "ws://127.0.0.1:" + port  # the Host of every request is compared with it
    factory = fuzzing.FuzzingServerFactory(spec)
    reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, factory)
    listening.close()
    sys.stdout.write("listening on " + port + "\n")
    sys.stdout.flush()


role, path = sys.argv[1:]
with open(path) as file:  # noqa: PTH123  # pathlib is younger than this Python
    given = json.load(file)
if "messages" in given:
    for case in Case12_X_X + Case13_X_X:
        case.COUNT = given["messages"]
if role == "client":
    fuzzing.startClient(given)
else:
    listen(given)
reactor.run()

/* Connections that do nothing but answer pings. */

#include <stdio.h>
#include <stdlib.h>

#include "load.h"

#define WARM_UP 100 /* connections that come and go before, so that what a server loads late is there */

static bool collected, told_to_end;

static void answered(struct connection *connection) {
    (void)connection;
    collected = true;
}

static void line(const char *text) {
    (void)text;
    told_to_end = true;
}

/* Has the server collect its garbage, on a connection of its own: "/collect" does, and echoes. */
static void collect(void) {
    struct connection asking = {0};
    uint8_t message[256];
    size_t size = frame_write(message, BINARY, false, expected.bytes, expected.size);
    open_all(&asking, 1, "/collect");
    collected = false;
    connection_send(&asking, message, size);
    while (!collected) turn();
    connection_reset(&asking);
}

void run_idle(void) {
    struct connection *connections = allocate(sizeof *connections * (size_t)settings.connections);
    int before = settings.connections < WARM_UP ? settings.connections : WARM_UP;
    settings.size = 64;
    expected = make_payload();
    check_all = true;
    hooks.message = answered;
    hooks.line = line;
    open_all(connections, before, "/echo");
    for (int i = 0; i < before; i++) connection_reset(&connections[i]);
    collect();
    say_ready();
    double start = now();
    open_all(connections, settings.connections, "/echo");
    double seconds = now() - start;
    collect();
    say_done((uint64_t)settings.connections, seconds);
    listen_to_input();
    patience = -1; /* until we are told to end */
    while (!told_to_end) turn();
    for (int i = 0; i < settings.connections; i++) connection_reset(&connections[i]);
}

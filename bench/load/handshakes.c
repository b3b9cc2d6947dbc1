/* Opening handshakes, some at a time: of connections that stay, or that are closed at once. */

#include "load.h"

static double deadline;
static uint64_t closed_in_order;
static int busy;
static uint8_t close_frame[FRAME_HEAD + 2];
static size_t close_size;

static void unexpected(struct connection *connection) {
    fail("connection %d: a message that nobody asked for", connection->index);
}

void run_opening(void) {
    int before = settings.connections / 10 + 1;
    struct connection *connections = allocate(sizeof *connections * (size_t)settings.connections);
    hooks.message = unexpected;
    open_all(connections, before, "/echo");
    for (int i = 0; i < before; i++) connection_reset(&connections[i]);
    say_ready();
    double start = now();
    open_all(connections, settings.connections, "/echo");
    say_done((uint64_t)settings.connections, now() - start);
    for (int i = 0; i < settings.connections; i++) connection_reset(&connections[i]);
}

static void say_goodbye(struct connection *connection) {
    connection_send(connection, close_frame, close_size);
}

static void answered(struct connection *connection) {
    if ((connection->head[0] & 15) != CLOSE) fail("the server closed without a Close frame");
    connection_close(connection);
    closed_in_order++;
    if (now() < deadline) {
        connection_open(connection, "/echo");
    } else {
        busy--;
    }
}

static double open_and_close(struct connection *connections, double seconds) {
    double start = now();
    deadline = start + seconds;
    closed_in_order = 0;
    busy = settings.concurrent;
    for (int i = 0; i < settings.concurrent; i++) connection_open(&connections[i], "/echo");
    while (busy) turn();
    return now() - start;
}

void run_closing(void) {
    struct connection *connections = allocate(sizeof *connections * (size_t)settings.concurrent);
    for (int i = 0; i < settings.concurrent; i++) connections[i].index = i;
    close_size = frame_write(close_frame, CLOSE, false, (const uint8_t *)"\x03\xe8", 2);
    hooks = (struct hooks){.opened = say_goodbye, .message = unexpected, .closed = answered};
    open_and_close(connections, settings.warm_up);
    say_ready();
    double seconds = open_and_close(connections, settings.seconds);
    say_done(closed_in_order, seconds);
}

/* Bursts of messages on every connection; each has to come back before the next burst goes. */

#include <stdio.h>

#include "load.h"

static uint8_t *burst;
static size_t burst_size;
static double deadline;
static uint64_t messages;
static int busy;

static void send_burst(struct connection *connection) {
    connection->awaiting = settings.push ? 1 : settings.in_flight;
    connection_send(connection, burst, burst_size);
}

static void received(struct connection *connection) {
    if (--connection->awaiting > 0) return;
    if (connection->awaiting < 0) fail("connection %d: a message too many", connection->index);
    messages += (uint64_t)settings.in_flight;
    if (now() < deadline) {
        send_burst(connection);
    } else {
        busy--;
    }
}

static double exchange(struct connection *connections, double seconds) {
    double start = now();
    deadline = start + seconds;
    messages = 0;
    busy = settings.connections;
    for (int i = 0; i < settings.connections; i++) send_burst(&connections[i]);
    while (busy) turn();
    return now() - start;
}

void run_echo(void) {
    struct connection *connections = allocate(sizeof *connections * (size_t)settings.connections);
    expected = make_payload();
    burst = allocate((expected.sent_size + FRAME_HEAD) * (size_t)settings.in_flight);
    for (int i = 0; i < settings.in_flight; i++) {
        bool text = settings.text && (!settings.push || i == settings.in_flight - 1);
        burst_size += frame_write(burst + burst_size, text ? TEXT : BINARY, settings.deflate,
                                  expected.sent, expected.sent_size);
    }
    hooks.message = received;
    if (settings.server) {
        printf("%d\n", listen_on_loopback());
        fflush(stdout);
    }
    open_all(connections, settings.connections, "/echo");
    check_all = true;
    exchange(connections, settings.warm_up);
    check_all = false;
    say_ready();
    double seconds = exchange(connections, settings.seconds);
    say_done(messages, seconds);
    for (int i = 0; i < settings.connections; i++) connection_reset(&connections[i]);
}

/* One connection publishes; all the others have to receive it before it publishes again. */

#include <unistd.h>

#include "load.h"

static uint8_t *message;
static size_t message_size;
static int missing;

static void received(struct connection *connection) {
    if (--connection->awaiting < 0) fail("connection %d: a message too many", connection->index);
    missing--;
}

/* Returns the number of deliveries. */
static uint64_t publish(struct connection *subscribers, struct connection *publisher, double seconds) {
    uint64_t deliveries = 0;
    double deadline = now() + seconds;
    do {
        missing = settings.connections;
        for (int i = 0; i < settings.connections; i++) subscribers[i].awaiting = 1;
        connection_send(publisher, message, message_size);
        while (missing) turn();
        deliveries += (uint64_t)settings.connections;
    } while (now() < deadline);
    return deliveries;
}

void run_fanout(void) {
    struct connection *subscribers = allocate(sizeof *subscribers * (size_t)settings.connections);
    struct connection publisher = {0};
    expected = make_payload();
    message = allocate(expected.size + FRAME_HEAD);
    message_size = frame_write(message, BINARY, false, expected.sent, expected.sent_size);
    hooks.message = received;
    open_all(subscribers, settings.connections, "/subscribe");
    open_all(&publisher, 1, "/publish");
    publisher.index = -1;
    usleep(200 * 1000); /* what a server does after its answer, such as starting a task, is done */
    check_all = true;
    publish(subscribers, &publisher, settings.warm_up);
    check_all = false;
    say_ready();
    double start = now();
    uint64_t deliveries = publish(subscribers, &publisher, settings.seconds);
    say_done(deliveries, now() - start);
    for (int i = 0; i < settings.connections; i++) connection_reset(&subscribers[i]);
    connection_reset(&publisher);
}

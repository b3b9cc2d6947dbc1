/* The load generator of the data path: what its parts have in common. */

#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>
#include <zlib.h>

enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

/* What the command line says. */
struct settings {
    int port;
    int connections;
    int concurrent;  /* opening handshakes at a time */
    size_t size;     /* bytes of a message */
    int in_flight;   /* messages sent at once on a connection, before their answers are awaited */
    double seconds;  /* of what is measured */
    double warm_up;  /* seconds before that */
    bool tls, deflate, text, server;
    bool push; /* only the last of the messages in flight is answered; it is the one in text */
};
extern struct settings settings;

/* --- frames.c ----------------------------------------------------------------------------------- */

#define FRAME_HEAD 14 /* bytes of the longest */

size_t frame_head(uint8_t *head, int opcode, bool compressed, uint64_t length, bool masked);
/* Appends a whole frame, masked when we are the client; returns its bytes. */
size_t frame_write(uint8_t *out, int opcode, bool compressed, const uint8_t *payload, size_t length);
void mask(uint8_t *bytes, size_t length, const uint8_t key[4], size_t offset);

/* What is sent, and what therefore has to come back: `settings.size` bytes. */
struct payload {
    uint8_t *bytes;
    size_t size;
    uint8_t *sent; /* the same, or compressed */
    size_t sent_size;
};
struct payload make_payload(void);

/* --- connection.c ------------------------------------------------------------------------------- */

enum stage { UNUSED, CONNECTING, TLS_HANDSHAKE, UPGRADING, OPEN };

struct connection {
    int fd, index;
    enum stage stage;
    SSL *ssl;
    bool wants_write;
    const char *path;
    const uint8_t *out; /* what is being sent; belongs to the sender, is never copied */
    size_t out_left;
    uint8_t control[FRAME_HEAD + 125]; /* a pong behind it */
    size_t control_left;
    char *http; /* the head of a handshake, while it lasts */
    size_t http_length;
    /* the frame that is being received */
    uint8_t head[FRAME_HEAD];
    size_t head_length;
    bool in_payload, masked;
    uint8_t key[4];
    uint64_t frame_left, frame_size;
    uint8_t received_control[125];
    /* the message of which it is a part */
    bool in_message, text, compressed, checking;
    uint64_t message_size;
    /* the first compressed messages, taken apart */
    z_stream *inflating;
    int inflated;
    uint64_t inflated_size;
    int awaiting; /* messages, in the terms of the mode */
};

/* What a mode does when something happens; without `closed` a closed connection is an error. */
struct hooks {
    void (*opened)(struct connection *);
    void (*message)(struct connection *);
    void (*closed)(struct connection *);
    void (*line)(const char *); /* from our standard input, when it is listened to */
};
extern struct hooks hooks;
extern struct payload expected; /* what a checked message has to be */
extern bool check_all;          /* every message is compared, not every sixteenth */
extern int patience;            /* seconds without anything after which the peer is stuck; -1: never */

void network_start(void);
void connection_open(struct connection *connection, const char *path);
void connection_send(struct connection *connection, const uint8_t *bytes, size_t length);
void connection_close(struct connection *connection); /* in order */
void connection_reset(struct connection *connection); /* leaves no port in TIME_WAIT */
void turn(void);                                      /* waits for something, and does it */
void listen_to_input(void);
int listen_on_loopback(void); /* returns the port */

/* Opens so many, some at a time, in `at`; returns when all are open. */
void open_all(struct connection *at, int count, const char *path);

double now(void);
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *allocate(size_t size);

/* --- load.c ------------------------------------------------------------------------------------- */

void say_ready(void);                            /* and wait to be told to go */
void say_done(uint64_t count, double seconds); /* what was measured */

/* --- the modes ---------------------------------------------------------------------------------- */

void run_echo(void);
void run_fanout(void);
void run_opening(void);
void run_closing(void);
void run_idle(void);

#endif

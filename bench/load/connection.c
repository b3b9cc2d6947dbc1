/* Connections: sockets, TLS, opening handshakes, and frames in, each of them compared. */

#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

#define HTTP_HEAD 8192          /* bytes of the head of a handshake */
#define SOURCES 200             /* addresses that connections come from */
#define INFLATED 3              /* compressed messages of a connection that are taken apart */

/* The example of RFC 6455 section 1.3. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

struct hooks hooks;
struct payload expected;
bool check_all;
int patience = 60;

static int epoll = -1, listener = -1;
static SSL_CTX *tls;
static struct connection *accepted; /* where the next client of ours goes, when we are the server */
static uint8_t buffer[1 << 18];
static uint64_t messages_begun;

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

_Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

void *allocate(size_t size) {
    void *memory = calloc(1, size);
    if (!memory) fail("out of memory");
    return memory;
}

void network_start(void) {
    epoll = epoll_create1(0);
    if (epoll < 0) fail("epoll: %s", strerror(errno));
    if (settings.tls) {
        tls = SSL_CTX_new(TLS_client_method());
        if (!tls) fail("cannot set TLS up");
        SSL_CTX_set_verify(tls, SSL_VERIFY_NONE, NULL); /* the servers' certificate is the bench's own */
        SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    }
}

static void forget(struct connection *connection) {
    if (connection->ssl) SSL_free(connection->ssl);
    if (connection->inflating) {
        inflateEnd(connection->inflating);
        free(connection->inflating);
    }
    free(connection->http);
    close(connection->fd);
    int index = connection->index;
    *connection = (struct connection){.fd = -1, .index = index};
}

void connection_close(struct connection *connection) {
    if (connection->ssl) SSL_shutdown(connection->ssl);
    forget(connection);
}

void connection_reset(struct connection *connection) {
    struct linger now_and_hard = {.l_onoff = 1};
    setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &now_and_hard, sizeof now_and_hard);
    forget(connection);
}

static void lost(struct connection *connection, const char *why) {
    if (!hooks.closed) {
        fail("the peer closed connection %d in stage %d: %s", connection->index, connection->stage, why);
    }
    hooks.closed(connection);
}

/* --- out ---------------------------------------------------------------------------------------- */

static void watch(struct connection *connection, bool for_writing) {
    if (connection->wants_write == for_writing) return;
    connection->wants_write = for_writing;
    struct epoll_event event = {.events = EPOLLIN | (for_writing ? EPOLLOUT : 0), .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

/* Returns the bytes taken, 0 when there is no room, -1 when the connection is lost. */
static ssize_t write_some(struct connection *connection, const uint8_t *bytes, size_t length) {
    if (!connection->ssl) {
        ssize_t count = send(connection->fd, bytes, length, MSG_NOSIGNAL);
        return count >= 0 ? count : errno == EAGAIN ? 0 : -1;
    }
    ERR_clear_error();
    int count = SSL_write(connection->ssl, bytes, length > 1 << 20 ? 1 << 20 : (int)length);
    if (count > 0) return count;
    int error = SSL_get_error(connection->ssl, count);
    return error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ ? 0 : -1;
}

static void flush(struct connection *connection) {
    while (connection->out_left) {
        ssize_t count = write_some(connection, connection->out, connection->out_left);
        if (count < 0) {
            lost(connection, "while sending");
            return;
        }
        if (count == 0) {
            watch(connection, true);
            return;
        }
        connection->out += count;
        connection->out_left -= (size_t)count;
        if (!connection->out_left && connection->control_left) {
            connection->out = connection->control;
            connection->out_left = connection->control_left;
            connection->control_left = 0;
        }
    }
    watch(connection, false);
}

void connection_send(struct connection *connection, const uint8_t *bytes, size_t length) {
    if (connection->out_left) fail("connection %d: still sending", connection->index);
    connection->out = bytes;
    connection->out_left = length;
    flush(connection);
}

static void answer_ping(struct connection *connection) {
    if (connection->control_left) return; /* one pong for several pings is enough (section 5.5.3) */
    connection->control_left = frame_write(connection->control, PONG, false,
                                           connection->received_control, connection->frame_size);
    if (!connection->out_left) {
        connection->out = connection->control;
        connection->out_left = connection->control_left;
        connection->control_left = 0;
        flush(connection);
    }
}

/* --- the opening handshake ---------------------------------------------------------------------- */

static void opened(struct connection *connection) {
    free(connection->http);
    connection->http = NULL;
    connection->stage = OPEN;
    hooks.opened(connection);
}

static void request_upgrade(struct connection *connection) {
    connection->stage = UPGRADING;
    connection->http = allocate(HTTP_HEAD);
    char *request = connection->http;
    int length = snprintf(request, HTTP_HEAD,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\n"
                          "Sec-WebSocket-Version: 13\r\n%s\r\n",
                          connection->path, settings.port,
                          settings.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; "
                                             "client_no_context_takeover\r\n"
                                           : "");
    if (write_some(connection, (uint8_t *)request, (size_t)length) != length) {
        lost(connection, "the request did not go out");
    }
}

static void begin(struct connection *connection) {
    int one = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!tls) {
        request_upgrade(connection);
        return;
    }
    if (connection->stage == CONNECTING) {
        connection->stage = TLS_HANDSHAKE;
        connection->ssl = SSL_new(tls);
        if (!connection->ssl || !SSL_set_fd(connection->ssl, connection->fd)) fail("cannot begin TLS");
        SSL_set_connect_state(connection->ssl);
    }
    ERR_clear_error();
    int done = SSL_do_handshake(connection->ssl);
    if (done == 1) {
        watch(connection, false);
        request_upgrade(connection);
        return;
    }
    int error = SSL_get_error(connection->ssl, done);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        watch(connection, error == SSL_ERROR_WANT_WRITE);
    } else {
        lost(connection, "TLS");
    }
}

static void check_answer(struct connection *connection) {
    if (strncmp(connection->http, "HTTP/1.1 101", 12) || !strstr(connection->http, ACCEPT)) {
        fail("the server answered %s", connection->http);
    }
    if (settings.deflate) {
        if (!strstr(connection->http, "permessage-deflate")) fail("the server does not compress");
        connection->inflating = allocate(sizeof *connection->inflating);
        if (inflateInit2(connection->inflating, -15) != Z_OK) fail("zlib");
    }
}

static void answer_upgrade(struct connection *connection) {
    static const char NAME[] = "sec-websocket-key:";
    char *key = connection->http;
    while (key && strncasecmp(key, NAME, sizeof NAME - 1)) {
        key = strchr(key, '\n');
        if (key) key++;
    }
    if (!key) fail("a client asked for no WebSocket: %s", connection->http);
    key += sizeof NAME - 1;
    key += strspn(key, " ");
    char joined[64];
    unsigned char digest[SHA_DIGEST_LENGTH], accept[32];
    snprintf(joined, sizeof joined, "%.24s" GUID, key);
    SHA1((unsigned char *)joined, strlen(joined), digest);
    EVP_EncodeBlock(accept, digest, sizeof digest);
    char answer[256];
    int length = snprintf(answer, sizeof answer,
                          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                          (char *)accept);
    if (write_some(connection, (uint8_t *)answer, (size_t)length) != length) {
        lost(connection, "the answer did not go out");
    }
}

/* Takes what belongs to the head of the handshake; returns how much that is. */
static size_t feed_http(struct connection *connection, const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (connection->http_length + 1 >= HTTP_HEAD) fail("the head of the handshake does not end");
        connection->http[connection->http_length++] = (char)bytes[i];
        connection->http[connection->http_length] = 0;
        if (bytes[i] == '\n' && connection->http_length >= 4 &&
            !memcmp(connection->http + connection->http_length - 4, "\r\n\r\n", 4)) {
            if (settings.server) {
                answer_upgrade(connection);
            } else {
                check_answer(connection);
            }
            opened(connection);
            return i + 1;
        }
    }
    return length;
}

/* --- in ----------------------------------------------------------------------------------------- */

static void wrong(const struct connection *connection, const char *what) {
    fail("connection %d: a message came back %s", connection->index, what);
}

static void inflate_piece(struct connection *connection, const uint8_t *piece, size_t length) {
    z_stream *stream = connection->inflating;
    uint8_t out[4096];
    stream->next_in = (uint8_t *)piece;
    stream->avail_in = (uInt)length;
    do {
        stream->next_out = out;
        stream->avail_out = sizeof out;
        int result = inflate(stream, Z_SYNC_FLUSH);
        if (result != Z_OK && result != Z_BUF_ERROR) wrong(connection, "with a broken compression");
        size_t count = sizeof out - stream->avail_out;
        if (connection->inflated_size + count > expected.size ||
            memcmp(out, expected.bytes + connection->inflated_size, count)) {
            wrong(connection, "with another content, compressed");
        }
        connection->inflated_size += count;
    } while (stream->avail_in || !stream->avail_out);
}

static void payload_piece(struct connection *connection, const uint8_t *piece, size_t length) {
    if (connection->head[0] & 8) {
        uint64_t offset = connection->frame_size - connection->frame_left;
        memcpy(connection->received_control + offset, piece, length);
        if (connection->masked) {
            mask(connection->received_control + offset, length, connection->key, offset);
        }
        return;
    }
    uint64_t offset = connection->message_size;
    connection->message_size += length;
    if (connection->compressed) {
        if (connection->inflating) inflate_piece(connection, piece, length);
        return;
    }
    if (connection->message_size > expected.size) wrong(connection, "longer");
    if (!connection->checking) return;
    uint8_t plain[1024];
    if (!connection->masked) {
        if (memcmp(piece, expected.bytes + offset, length)) wrong(connection, "with another content");
        return;
    }
    uint64_t in_frame = connection->frame_size - connection->frame_left;
    for (size_t done = 0; done < length; done += sizeof plain) {
        size_t part = length - done < sizeof plain ? length - done : sizeof plain;
        memcpy(plain, piece + done, part);
        mask(plain, part, connection->key, in_frame + done);
        if (memcmp(plain, expected.bytes + offset + done, part)) wrong(connection, "with another content");
    }
}

static void message_begins(struct connection *connection) {
    int opcode = connection->head[0] & 15;
    if (opcode == CONTINUATION) {
        if (!connection->in_message) wrong(connection, "without its beginning");
        return;
    }
    if (connection->in_message || (opcode != TEXT && opcode != BINARY)) wrong(connection, "in disorder");
    connection->in_message = true;
    connection->text = opcode == TEXT;
    connection->compressed = connection->head[0] & 0x40;
    connection->message_size = connection->inflated_size = 0;
    connection->checking = check_all || ++messages_begun % 16 == 0;
    if (connection->text != settings.text) wrong(connection, "with another opcode");
    if (connection->compressed != settings.deflate) {
        wrong(connection, settings.deflate ? "uncompressed" : "compressed");
    }
    if (connection->masked != settings.server) wrong(connection, "with the wrong masking");
}

static void message_ends(struct connection *connection) {
    if (connection->compressed && connection->inflating) {
        inflate_piece(connection, (const uint8_t *)"\0\0\xff\xff", 4);
        if (connection->inflated_size != expected.size) wrong(connection, "shorter, compressed");
        if (++connection->inflated == INFLATED) {
            inflateEnd(connection->inflating);
            free(connection->inflating);
            connection->inflating = NULL;
        }
    } else if (connection->compressed && !connection->message_size) {
        wrong(connection, "empty");
    } else if (!connection->compressed && connection->message_size != expected.size) {
        wrong(connection, "shorter");
    }
    connection->in_message = false;
    hooks.message(connection);
}

static void frame_ends(struct connection *connection) {
    connection->in_payload = false;
    connection->head_length = 0;
    int opcode = connection->head[0] & 15;
    if (opcode == PING) {
        answer_ping(connection);
    } else if (opcode == CLOSE) {
        lost(connection, "with a Close frame");
    } else if (opcode != PONG && connection->head[0] & 0x80) {
        message_ends(connection);
    }
}

/* Adds to the head of a frame; returns whether it is complete. */
static bool feed_head(struct connection *connection, const uint8_t **bytes, size_t *length) {
    size_t needed = 2;
    for (;;) {
        if (connection->head_length >= 2) {
            int said = connection->head[1] & 127;
            needed = 2u + (said == 126 ? 2 : said == 127 ? 8 : 0) + (connection->head[1] & 128 ? 4 : 0);
            if (connection->head_length == needed) break;
        }
        if (!*length) return false;
        connection->head[connection->head_length++] = *(*bytes)++;
        --*length;
    }
    const uint8_t *at = connection->head + 2;
    uint64_t size = connection->head[1] & 127;
    int longer = size == 126 ? 2 : size == 127 ? 8 : 0;
    if (longer) size = 0;
    for (int i = 0; i < longer; i++) size = size << 8 | *at++;
    connection->masked = connection->head[1] & 128;
    if (connection->masked) memcpy(connection->key, at, 4);
    connection->frame_size = connection->frame_left = size;
    connection->in_payload = true;
    if (connection->head[0] & 8) {
        if (size > 125) fail("connection %d: a control frame that is too long", connection->index);
    } else {
        message_begins(connection);
    }
    return true;
}

static void feed(struct connection *connection, const uint8_t *bytes, size_t length) {
    if (connection->stage == UPGRADING) {
        size_t taken = feed_http(connection, bytes, length);
        bytes += taken;
        length -= taken;
    }
    while (connection->stage == OPEN) {
        if (!connection->in_payload && !feed_head(connection, &bytes, &length)) return;
        size_t piece = connection->frame_left < length ? (size_t)connection->frame_left : length;
        if (piece) payload_piece(connection, bytes, piece);
        connection->frame_left -= piece;
        bytes += piece;
        length -= piece;
        if (connection->frame_left) return;
        frame_ends(connection);
    }
}

static void readable(struct connection *connection) {
    for (;;) {
        ssize_t count;
        if (connection->ssl) {
            ERR_clear_error();
            count = SSL_read(connection->ssl, buffer, sizeof buffer);
            if (count <= 0) {
                int error = SSL_get_error(connection->ssl, (int)count);
                if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return;
                lost(connection, "TLS ended");
                return;
            }
        } else {
            count = recv(connection->fd, buffer, sizeof buffer, 0);
            if (count < 0 && errno == EAGAIN) return;
            if (count <= 0) {
                lost(connection, count ? strerror(errno) : "TCP ended");
                return;
            }
        }
        int fd = connection->fd;
        feed(connection, buffer, (size_t)count);
        if (connection->fd != fd || connection->stage != OPEN) return; /* it ended meanwhile */
        if (!connection->ssl && (size_t)count < sizeof buffer) return;
    }
}

/* --- sockets ------------------------------------------------------------------------------------ */

static void add(struct connection *connection, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    connection->wants_write = events & EPOLLOUT;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event)) fail("epoll: %s", strerror(errno));
}

void connection_open(struct connection *connection, const char *path) {
    static unsigned made;
    int one = 1;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) fail("socket: %s (open files: ulimit -n)", strerror(errno));
    connection->path = path;
    connection->stage = CONNECTING;
    /* One address has too few ports for tens of thousands of connections within a minute. */
    setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + made++ % SOURCES);
    if (bind(connection->fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
    to.sin_port = htons((uint16_t)settings.port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!connect(connection->fd, (struct sockaddr *)&to, sizeof to)) {
        add(connection, EPOLLIN);
        begin(connection);
    } else if (errno == EINPROGRESS) {
        add(connection, EPOLLIN | EPOLLOUT);
    } else {
        fail("connect: %s", strerror(errno));
    }
}

static void connected(struct connection *connection) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) fail("connect: %s", strerror(error));
    watch(connection, false);
    begin(connection);
}

int listen_on_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 4096) || getsockname(listener, (struct sockaddr *)&address, &length)) {
        fail("listen: %s", strerror(errno));
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    return ntohs(address.sin_port);
}

static void accept_clients(void) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (accepted->stage != UNUSED) fail("more clients than were asked for");
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        accepted->fd = fd;
        accepted->stage = UPGRADING;
        accepted->http = allocate(HTTP_HEAD);
        add(accepted++, EPOLLIN);
    }
}

/* --- the loop ----------------------------------------------------------------------------------- */

static void read_input(void) {
    static char line[64];
    ssize_t count = read(STDIN_FILENO, line, sizeof line - 1);
    if (count <= 0) exit(0); /* whoever started us is gone */
    line[count] = 0;
    hooks.line(line);
}

void listen_to_input(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &buffer};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event)) fail("epoll: %s", strerror(errno));
}

void turn(void) {
    struct epoll_event events[512];
    int count = epoll_wait(epoll, events, 512, patience < 0 ? -1 : patience * 1000);
    if (count == 0) fail("nothing came for %d s", patience);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == &listener) {
            accept_clients();
            continue;
        }
        if (events[i].data.ptr == &buffer) {
            read_input();
            continue;
        }
        struct connection *connection = events[i].data.ptr;
        if (connection->stage == UNUSED) continue;
        if (connection->stage == CONNECTING) {
            connected(connection);
        } else if (connection->stage == TLS_HANDSHAKE) {
            begin(connection);
        } else {
            int fd = connection->fd;
            if (events[i].events & EPOLLOUT) flush(connection);
            if (connection->fd != fd) continue;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(connection);
        }
    }
}

static int to_open, being_opened, are_open;
static struct connection *next_to_open;
static const char *path_to_open;

static void open_next(struct connection *connection) {
    (void)connection;
    are_open++;
    being_opened--;
}

void open_all(struct connection *at, int count, const char *path) {
    struct hooks before = hooks;
    hooks.opened = open_next;
    to_open = count;
    being_opened = are_open = 0;
    next_to_open = at;
    path_to_open = path;
    for (int i = 0; i < count; i++) at[i].index = i;
    if (settings.server) accepted = at;
    while (are_open < count) {
        while (!settings.server && being_opened < settings.concurrent && to_open) {
            being_opened++;
            to_open--;
            connection_open(next_to_open++, path_to_open);
        }
        turn();
    }
    hooks = before;
}

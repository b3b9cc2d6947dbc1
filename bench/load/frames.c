/* Frames out, and the payload of which they are made. */

#include <stdlib.h>
#include <string.h>

#include "load.h"

static const uint8_t KEY[4] = {0x91, 0x2f, 0xc4, 0x5a};

size_t frame_head(uint8_t *head, int opcode, bool compressed, uint64_t length, bool masked) {
    size_t end = 2;
    head[0] = (uint8_t)(0x80 | (compressed ? 0x40 : 0) | opcode);
    if (length < 126) {
        head[1] = (uint8_t)length;
    } else if (length < 65536) {
        head[1] = 126;
        head[end++] = (uint8_t)(length >> 8);
        head[end++] = (uint8_t)length;
    } else {
        head[1] = 127;
        for (int shift = 56; shift >= 0; shift -= 8) head[end++] = (uint8_t)(length >> shift);
    }
    if (masked) {
        head[1] |= 0x80;
        memcpy(head + end, KEY, 4);
        end += 4;
    }
    return end;
}

void mask(uint8_t *bytes, size_t length, const uint8_t key[4], size_t offset) {
    for (size_t i = 0; i < length; i++) bytes[i] ^= key[(offset + i) & 3];
}

size_t frame_write(uint8_t *out, int opcode, bool compressed, const uint8_t *payload, size_t length) {
    size_t head = frame_head(out, opcode, compressed, length, !settings.server);
    memcpy(out + head, payload, length);
    if (!settings.server) mask(out + head, length, KEY, 0);
    return head + length;
}

/* Readings of many sensors, which compress as such messages do: to about a third. */
static void fill_with_json(uint8_t *bytes, size_t size) {
    size_t length = 0;
    char entry[96];
    for (unsigned i = 0; length < size; i++) {
        int written = snprintf(entry, sizeof entry,
                               "%c{\"sensor\":%u,\"value\":%u.%03u,\"unit\":\"mm\",\"at\":17%08u}",
                               i ? ',' : '[', 40 + i * 7 % 19, i * 2654435761u % 900,
                               i * 40503u % 1000, i * 97u + i * 2246822519u % 89);
        size_t piece = (size_t)written < size - length ? (size_t)written : size - length;
        memcpy(bytes + length, entry, piece);
        length += piece;
    }
    bytes[size - 1] = ']';
}

struct payload make_payload(void) {
    struct payload payload = {.size = settings.size, .sent_size = settings.size};
    payload.bytes = payload.sent = allocate(settings.size + 1);
    if (settings.text) {
        fill_with_json(payload.bytes, payload.size);
    } else {
        uint32_t state = 1;
        for (size_t i = 0; i < payload.size; i++) {
            state = state * 1664525 + 1013904223;
            payload.bytes[i] = (uint8_t)(state >> 24);
        }
    }
    if (!settings.deflate) return payload;
    z_stream stream = {0};
    if (deflateInit2(&stream, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK) fail("zlib");
    size_t room = deflateBound(&stream, payload.size) + 16;
    payload.sent = allocate(room);
    stream.next_in = payload.bytes;
    stream.avail_in = (uInt)payload.size;
    stream.next_out = payload.sent;
    stream.avail_out = (uInt)room;
    if (deflate(&stream, Z_SYNC_FLUSH) != Z_OK) fail("zlib");
    payload.sent_size = room - stream.avail_out - 4; /* without 00 00 ff ff (RFC 7692 section 7.2.1) */
    deflateEnd(&stream);
    return payload;
}

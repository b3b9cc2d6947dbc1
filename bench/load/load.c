/* Speaks with a WebSocket server (or, as the server, with clients) and counts what comes back.
 *
 *     load MODE [--port P] [--connections N] [--size BYTES] [--in-flight N] [--seconds S] ...
 *
 * It says "ready" when all is set up and warm, waits for a line, does what is measured, and says in
 * JSON how much that was. Whoever started it reads the server's clock before and after. Anything that
 * comes back in another length, opcode or order, or, where it is looked at, with another content, ends
 * it with a message. */

#include "load.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/prctl.h>
#include <sys/resource.h>

struct settings settings = {
    .connections = 100, .concurrent = 64, .size = 128, .in_flight = 1, .seconds = 1, .warm_up = 0.1};

static const struct mode {
    const char *name, *does;
    void (*run)(void);
    bool server;
} MODES[] = {
    {"echo", "sends, and awaits the same back, as often as it can", run_echo, false},
    {"serve", "the same as the server, to clients that echo", run_echo, true},
    {"fanout", "publishes on one connection, and counts what the others receive", run_fanout, false},
    {"opening", "opens all connections", run_opening, false},
    {"closing", "opens connections and closes them again, as often as it can", run_closing, false},
    {"idle", "opens all connections and answers pings until it is told to end", run_idle, false},
};

static double before;

static double own_time(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void say_ready(void) {
    char line[64];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) exit(0);
    before = own_time();
}

void say_done(uint64_t count, double seconds) {
    printf("{\"count\": %llu, \"seconds\": %.6f, \"load CPU\": %.6f}\n", (unsigned long long)count,
           seconds, own_time() - before);
    fflush(stdout);
}

static const char *value(char **arguments, int *at, int count) {
    if (++*at == count) fail("%s needs a value", arguments[*at - 1]);
    return arguments[*at];
}

static void usage(void) {
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++) {
        fprintf(stderr, "load %-8s %s\n", MODES[i].name, MODES[i].does);
    }
    exit(2);
}

int main(int count, char **arguments) {
    const struct mode *mode = NULL;
    for (size_t i = 0; count > 1 && i < sizeof MODES / sizeof *MODES; i++) {
        if (!strcmp(arguments[1], MODES[i].name)) mode = &MODES[i];
    }
    if (!mode) usage();
    settings.server = mode->server;
    for (int i = 2; i < count; i++) {
        const char *name = arguments[i];
        if (!strcmp(name, "--port")) settings.port = atoi(value(arguments, &i, count));
        else if (!strcmp(name, "--connections")) settings.connections = atoi(value(arguments, &i, count));
        else if (!strcmp(name, "--concurrent")) settings.concurrent = atoi(value(arguments, &i, count));
        else if (!strcmp(name, "--size")) settings.size = strtoul(value(arguments, &i, count), NULL, 10);
        else if (!strcmp(name, "--in-flight")) settings.in_flight = atoi(value(arguments, &i, count));
        else if (!strcmp(name, "--seconds")) settings.seconds = atof(value(arguments, &i, count));
        else if (!strcmp(name, "--warm-up")) settings.warm_up = atof(value(arguments, &i, count));
        else if (!strcmp(name, "--tls")) settings.tls = true;
        else if (!strcmp(name, "--deflate")) settings.deflate = true;
        else if (!strcmp(name, "--text")) settings.text = true;
        else if (!strcmp(name, "--push")) settings.push = settings.text = true;
        else fail("unknown: %s", name);
    }
    if (settings.connections < 1 || settings.in_flight < 1 || settings.concurrent < 1 || !settings.size) {
        fail("counts and sizes are at least 1");
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left of a bench that was killed */
    signal(SIGPIPE, SIG_IGN);         /* OpenSSL writes without MSG_NOSIGNAL */
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdin, NULL, _IONBF, 0); /* what `idle` reads must not be here already */
    network_start();
    mode->run();
    return 0;
}

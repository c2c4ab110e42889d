/* Load for the benchmarks: many HTTP/1.1 connections from one thread, what comes back counted and timed.
 *
 * Why a program of our own, and in C. Load and candidate share the machine, so what the load costs is taken
 * from the candidate: a client in Python costs more for each event than the fastest candidates do. wrk and
 * h2load are as light as this, but count responses: neither counts the events of a stream, nor knows when an
 * event was due, holds thousands of silent streams, or reads slowly. It knows nothing of the product or its
 * peers: what it sends is a file that the harness has written, so that one load drives every candidate.
 *
 * Each connection sends a request, reads its whole answer, and sends the next. In the request each run of
 * ten `#` becomes the number of a session, which no other connection uses at that time. Three phases:
 * opening, until every connection has the first byte of an answer (or --open-within has passed); warm-up; and
 * the window, in which all is counted. Tells each on its standard output as it comes: `open N`, `begin`,
 * `end`, then one JSON object. All durations in it are milliseconds, but for `seconds` and `cpu`. Then it
 * keeps its connections until its standard input ends, so that the harness can look at the candidate's memory.
 *
 * An event is a line that begins with `data:`. With --stamps it holds `@` and the time it was due, in
 * nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share; its latency counts from there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define TICK (SECOND / 1000)        /* how often the connections that wait for a time are looked at */
#define RETRY_AFTER (SECOND / 100)  /* after a refused or cut connection; not a busy loop */
#define DIGITS 10                   /* of a session's number */
#define MARK "##########"
#define MAX_MARKS 8
#define MAX_HEAD 8192               /* bytes of an answer's head; servers refuse longer ones of requests */
#define MAX_STAMP (1000 * SECOND)   /* an `@` that is no stamp gives nonsense, which is longer ago */

static struct {
    int port, connections;
    int64_t sessions, base, requests, read_rate;  /* read_rate: bytes a second of each connection, 0: all */
    int64_t seconds, warm_up, ramp, think, open_within;  /* ns */
    bool stamps, reconnect;
} options = {.connections = 1, .seconds = SECOND, .open_within = 20 * SECOND};

/* -- what is counted ------------------------------------------------------------------------ */

/* Buckets of a width of 1/64 of their value: a quantile is off by 1.6 % at most. */
#define STEPS 64
struct histogram {
    uint64_t buckets[64 * STEPS], count;
    int64_t most;
};

static struct {
    uint64_t requests, events, bytes, failed_connects, cut, refused;  /* refused: a status that is not 2xx */
    struct histogram request, first, event;
} seen;

static void record(struct histogram *h, int64_t value)
{
    uint64_t v = value < 0 ? 0 : (uint64_t)value;
    size_t shift = v < STEPS ? 0 : (size_t)(57 - __builtin_clzll(v));  /* v >> shift is below 128 */
    h->buckets[shift * STEPS + (v >> shift)]++;
    h->count++;
    if (value > h->most)
        h->most = value;
}

/* The middle of the bucket in which the quantile lies, in ms. */
static double quantile(const struct histogram *h, double q)
{
    uint64_t rank = (uint64_t)(q * (double)h->count), below = 0;
    for (size_t i = 0; i < 64 * STEPS; i++) {
        below += h->buckets[i];
        if (below > rank) {
            size_t shift = i < 2 * STEPS ? 0 : i / STEPS - 1;
            double low = (double)((i - shift * STEPS) << shift);
            return (low + (double)(UINT64_C(1) << shift) / 2) / 1e6;
        }
    }
    return 0;
}

/* -- connections ---------------------------------------------------------------------------- */

enum state {
    RESTING,     /* not connected, or between two requests; `due` says when it goes on */
    CONNECTING,
    SENDING,
    HEAD,
    CHUNK_SIZE,  /* of the body from here on */
    CHUNK,
    CHUNK_END,
    TRAILER,     /* after the last chunk; its first bytes are `pattern` of an empty line */
    LENGTH,
    TO_THE_END,  /* a body without framing ends with its connection */
};

struct connection {
    int fd;                 /* -1: none */
    enum state state;
    int64_t due, began;
    int64_t session;
    uint64_t sent;          /* requests */
    uint64_t left;          /* bytes of the body or chunk; of a request: bytes that are sent already */
    int64_t allowance;      /* bytes that a slow reader may read, by `since` */
    int64_t since;
    int64_t stamp;          /* as far as it is read; -1: none is being read */
    bool line_start, has_first, answered, served, closes;
    size_t head_size;
    char *head;
};

static struct connection *connections;
static int poller, open_count, served_count;
static bool measuring;
static int64_t now;
static char *request;
static size_t request_size, marks[MAX_MARKS], mark_count;

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t read_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void rest(struct connection *c, int64_t until)
{
    c->state = RESTING;
    c->due = until;
}

static void drop(struct connection *c, int64_t until)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    rest(c, until);
}

static void watch(struct connection *c, uint32_t events, int how)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, how, c->fd, &e) < 0)
        die("epoll_ctl");
}

/* A slow reader's data is looked for by the clock, not by epoll. */
static uint32_t readable(void)
{
    return options.read_rate ? 0 : EPOLLIN;
}

static void go_on_sending(struct connection *c)
{
    char digits[DIGITS + 1];
    snprintf(digits, sizeof digits, "%0*lld", DIGITS, (long long)c->session);
    for (size_t i = 0; i < mark_count; i++)
        memcpy(request + marks[i], digits, DIGITS);
    ssize_t n = send(c->fd, request + c->left, request_size - c->left, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {  /* closed between two requests: no failure, if none was sent of this one */
        seen.cut += measuring && c->left > 0;
        drop(c, now);
        return;
    }
    c->left += n > 0 ? (uint64_t)n : 0;
    if (c->left < request_size) {
        watch(c, EPOLLOUT, EPOLL_CTL_MOD);
        return;
    }
    watch(c, readable(), EPOLL_CTL_MOD);
    c->state = HEAD;
    c->head_size = 0;
}

static void start_request(struct connection *c)
{
    int64_t index = c - connections;
    int64_t each = options.sessions / options.connections;  /* sessions that this connection takes in turn */
    c->session = options.base + index + options.connections * (int64_t)(c->sent++ % (uint64_t)each);
    c->left = 0;
    c->began = c->since = now;
    c->allowance = 0;
    c->state = SENDING;
    c->line_start = true;
    c->has_first = c->closes = false;
    c->stamp = -1;
    go_on_sending(c);
}

static void start_connection(struct connection *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1, small = 4096;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (options.read_rate)  /* the kernel must not read for it */
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        seen.failed_connects += measuring;
        drop(c, now + RETRY_AFTER);
        return;
    }
    c->state = CONNECTING;
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void finish(struct connection *c)
{
    if (measuring) {
        seen.requests++;
        record(&seen.request, now - c->began);
        served_count += !c->served;
        c->served = true;
    }
    if (c->closes || options.reconnect)
        drop(c, now + options.think);
    else if (options.think)
        rest(c, now + options.think);
    else
        start_request(c);
}

/* -- answers -------------------------------------------------------------------------------- */

static void find_stamps(struct connection *c, const char *p, const char *end)
{
    while (p < end) {
        if (c->stamp < 0) {
            p = memchr(p, '@', (size_t)(end - p));
            if (!p)
                return;
            c->stamp = 0;
            p++;
        } else if (*p >= '0' && *p <= '9' && c->stamp < INT64_MAX / 16) {
            c->stamp = c->stamp * 10 + (*p++ - '0');
        } else {
            if (measuring && now - c->stamp < MAX_STAMP)
                record(&seen.event, now - c->stamp);
            c->stamp = -1;
        }
    }
}

static void take_body(struct connection *c, const char *p, size_t size)
{
    const char *end = p + size;
    seen.bytes += measuring ? size : 0;
    if (options.stamps)
        find_stamps(c, p, end);
    while (p < end) {
        if (c->line_start && *p == 'd') {
            seen.events += measuring;
            if (!c->has_first && measuring)
                record(&seen.first, now - c->began);
            c->has_first = true;
        }
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        c->line_start = newline != NULL;
        p = newline ? newline + 1 : end;
    }
}

/* Adds to the head; returns how many bytes of `p` belong to it. `c->state` is another once it is whole. */
static size_t take_head(struct connection *c, const char *p, size_t size)
{
    size_t room = MAX_HEAD - 1 - c->head_size, taken = size < room ? size : room, before = c->head_size;
    memcpy(c->head + before, p, taken);
    c->head[c->head_size += taken] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (c->head_size == MAX_HEAD - 1) {
            errno = EMSGSIZE;
            die("head of an answer");
        }
        return taken;
    }
    end[2] = 0;
    int status = c->head_size > 12 ? atoi(c->head + 9) : 0;
    seen.refused += measuring && (status < 200 || status > 299);
    c->closes = strcasestr(c->head, "\r\nconnection: close") != NULL;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) {
        c->state = CHUNK_SIZE;
        c->left = 0;
    } else if (length) {
        c->state = LENGTH;
        c->left = strtoull(length + strlen("\r\ncontent-length:"), NULL, 10);
    } else {
        c->state = TO_THE_END;
    }
    return (size_t)(end + 4 - c->head) - before;
}

static int hex_digit(char c)
{
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

/* Takes what has come. One request at a time is open, so nothing may follow the end of its answer. */
static void take(struct connection *c, const char *p, size_t size)
{
    const char *end = p + size;
    while (p < end) {
        size_t have = (size_t)(end - p), part = have < c->left ? have : c->left;
        switch (c->state) {
        case HEAD:
            p += take_head(c, p, have);
            if (c->state == LENGTH && c->left == 0) {
                finish(c);
                return;
            }
            break;
        case CHUNK_SIZE:
            if (*p == '\n')
                c->state = c->left ? CHUNK : TRAILER;
            else if (*p != '\r')
                c->left = c->left * 16 + (uint64_t)hex_digit(*p);
            p++;
            break;
        case CHUNK:
            take_body(c, p, part);
            p += part;
            if ((c->left -= part) == 0)
                c->state = CHUNK_END;
            break;
        case CHUNK_END:
            if (*p++ == '\n')
                c->state = CHUNK_SIZE;
            break;
        case TRAILER:  /* none of the candidates has trailers: an empty line is all that follows */
            if (*p++ == '\n') {
                finish(c);
                return;
            }
            break;
        case LENGTH:
            take_body(c, p, part);
            p += part;
            if ((c->left -= part) == 0) {
                finish(c);
                return;
            }
            break;
        case TO_THE_END:
            take_body(c, p, have);
            p = end;
            break;
        default:  /* something came that was not asked for */
            seen.cut += measuring;
            drop(c, now + RETRY_AFTER);
            return;
        }
    }
}

/* Reads once, at most `limit` bytes; returns how many came. */
static size_t read_some(struct connection *c, size_t limit)
{
    static char buffer[256 * 1024];
    ssize_t n = recv(c->fd, buffer, limit < sizeof buffer ? limit : sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0) {
        bool whole = n == 0 && c->state == TO_THE_END;
        if (whole) {
            c->closes = true;
            finish(c);
        } else {
            bool idle = c->state == RESTING || (c->state == HEAD && c->head_size == 0 && c->sent > 1);
            seen.cut += measuring && !idle;  /* a kept connection may be closed before the next answer */
            drop(c, now + RETRY_AFTER);
        }
        return 0;
    }
    if (!c->answered) {
        c->answered = true;
        open_count++;
    }
    take(c, buffer, (size_t)n);
    return (size_t)n;
}

static void on_ready(struct connection *c)
{
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            seen.failed_connects += measuring;
            drop(c, now + RETRY_AFTER);
        } else {
            start_request(c);
        }
    } else if (c->state == SENDING) {
        go_on_sending(c);
    } else {
        read_some(c, SIZE_MAX);
    }
}

/* What goes by the clock: pauses, retries, the gradual opening, slow readers. */
static void tick(int64_t started)
{
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = connections + i;
        if (c->state == RESTING) {
            if (now >= c->due && now >= started + options.ramp * i / options.connections)
                c->fd < 0 ? start_connection(c) : start_request(c);
        } else if (options.read_rate && c->state >= HEAD && now - c->since >= SECOND / 100) {
            c->allowance += (now - c->since) * options.read_rate / SECOND;
            c->since = now;
            c->allowance -= c->allowance > 0 ? (int64_t)read_some(c, (size_t)c->allowance) : 0;
        }
    }
}

/* -- the run -------------------------------------------------------------------------------- */

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec)
        + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void tell_latency(const char *name, const struct histogram *h)
{
    printf(", \"%s\": {\"count\": %llu, \"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"most\": %.4f}", name,
        (unsigned long long)h->count, quantile(h, 0.5), quantile(h, 0.9), quantile(h, 0.99),
        (double)h->most / 1e6);
}

/* How long the request has waited that has waited longest: what has no answer is in no histogram. */
static int64_t longest_wait(void)
{
    int64_t longest = 0;
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = connections + i;
        if (c->state >= SENDING && now - c->began > longest)
            longest = now - c->began;
    }
    return longest;
}

static void tell(double seconds, double cpu)
{
    printf("{\"seconds\": %.6f, \"cpu\": %.6f, \"open\": %d, \"served\": %d, \"requests\": %llu, "
        "\"events\": %llu, \"bytes\": %llu, \"failed_connects\": %llu, \"cut\": %llu, \"refused\": %llu, "
        "\"longest_wait\": %.4f",
        seconds, cpu, open_count, served_count, (unsigned long long)seen.requests,
        (unsigned long long)seen.events, (unsigned long long)seen.bytes,
        (unsigned long long)seen.failed_connects, (unsigned long long)seen.cut,
        (unsigned long long)seen.refused, (double)longest_wait() / 1e6);
    tell_latency("request", &seen.request);
    tell_latency("first", &seen.first);
    tell_latency("event", &seen.event);
    printf("}\n");
}

static void run(void)
{
    struct epoll_event ready[512];
    int64_t started = now = read_clock(), last_tick = 0, opened = 0, began = 0;
    double cpu = 0;
    for (;;) {
        int n = epoll_wait(poller, ready, sizeof ready / sizeof *ready, 1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        now = read_clock();
        for (int i = 0; i < n; i++)
            on_ready(ready[i].data.ptr);
        if (now - last_tick >= TICK) {
            last_tick = now;
            tick(started);
        }
        if (!opened && (open_count == options.connections || now - started > options.open_within)) {
            opened = now;
            printf("open %d\n", open_count);
        }
        if (opened && !began && now - opened >= options.warm_up) {
            puts("begin");
            measuring = true;
            cpu = cpu_seconds();
            began = now;
        }
        bool all_sent = options.requests && seen.requests >= (uint64_t)options.requests;
        if (began && (all_sent || now - began >= options.seconds)) {
            measuring = false;
            puts("end");
            tell((double)(now - began) / SECOND, cpu_seconds() - cpu);
            return;
        }
    }
}

/* -- the start ------------------------------------------------------------------------------ */

static void read_request(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path);
    size_t room = 1 << 20;  /* bytes; more than any scenario sends */
    request = malloc(room + 1);
    request_size = fread(request, 1, room, file);
    request[request_size] = 0;
    fclose(file);
    for (char *p = request; (p = strstr(p, MARK)) && mark_count < MAX_MARKS; p += DIGITS)
        marks[mark_count++] = (size_t)(p - request);
}

static int64_t in_ns(const char *seconds)
{
    return (int64_t)(strtod(seconds, NULL) * SECOND);
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, 0, 'p'},        {"request", required_argument, 0, 'f'},
        {"connections", required_argument, 0, 'c'}, {"sessions", required_argument, 0, 'n'},
        {"base", required_argument, 0, 'b'},        {"seconds", required_argument, 0, 's'},
        {"requests", required_argument, 0, 'q'},    {"warm-up", required_argument, 0, 'w'},
        {"ramp", required_argument, 0, 'r'},        {"think", required_argument, 0, 't'},
        {"open-within", required_argument, 0, 'o'}, {"read-rate", required_argument, 0, 'd'},
        {"stamps", no_argument, 0, 'm'},            {"reconnect", no_argument, 0, 'x'},
        {0},
    };
    for (int option; (option = getopt_long_only(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'f': read_request(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 'n': options.sessions = atoll(optarg); break;
        case 'b': options.base = atoll(optarg); break;
        case 's': options.seconds = in_ns(optarg); break;
        case 'q': options.requests = atoll(optarg); break;
        case 'w': options.warm_up = in_ns(optarg); break;
        case 'r': options.ramp = in_ns(optarg); break;
        case 't': options.think = in_ns(optarg); break;
        case 'o': options.open_within = in_ns(optarg); break;
        case 'd': options.read_rate = atoll(optarg); break;
        case 'm': options.stamps = true; break;
        case 'x': options.reconnect = true; break;
        default: exit(2);
        }
    }
    if (options.sessions == 0)
        options.sessions = options.connections;
    if (!request || options.port <= 0 || options.connections <= 0 || options.sessions % options.connections) {
        fprintf(stderr, "load: --port, --request and --connections are needed; --sessions is a multiple of the "
            "last, so that no two connections share one\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)options.connections, sizeof *connections);
    char *heads = malloc((size_t)options.connections * MAX_HEAD);
    if (poller < 0 || !connections || !heads)
        die("start");
    for (int i = 0; i < options.connections; i++) {
        connections[i].fd = -1;
        connections[i].head = heads + (size_t)i * MAX_HEAD;
    }
    run();
    while (getchar() != EOF)
        ;
    return 0;
}

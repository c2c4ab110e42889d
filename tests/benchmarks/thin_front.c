/* The thinnest front that a worker can have: HTTP/1.1 of the benchmarks' load on one side, frames of the link
 * to one worker on the other. "The worker alone" of the benchmarks: what is missing between this and a server
 * is what the product's supervisor does.
 *
 *     thin_front LISTENING-DESCRIPTOR LINK-DESCRIPTOR
 *
 * The harness has listened, started the worker, greeted it, and waited until it was ready. Here turns go out
 * and events come back, nothing else: no ids but a number, no limits, no ledger, nothing kept, no errors but
 * an ended connection. A client that reads slowly stops its own stream by its credit, and one that leaves
 * cancels its turn, since scenarios measure both. What is read in one turn of the loop leaves in one write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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
#include <unistd.h>

#define HEADER 21                  /* bytes of a frame before its payload; see agentscope_protocol.codec */
#define CREDIT_STEP (64 * 1024)    /* bytes that a client has taken before the worker is told */
#define MAX_READ (256 * 1024)
#define STREAMS (1 << 17)          /* places for open streams; a power of two */
#define SESSION "X-Session-Id: "

enum tag { OPEN = 2, DATA = 3, END = 4, FAIL = 5, CANCEL = 6, CREDIT = 7 };
enum { CLIENT_GONE = 1 };

struct bytes {
    char *at;
    size_t size, room;
};

struct client {
    int fd;
    uint64_t stream;               /* of the turn under way; 0: none */
    bool begun, dirty, blocked, ending;
    size_t owed;                   /* bytes of events that the worker has no credit for yet */
    struct bytes in, out;
};

static struct client **clients;    /* by descriptor */
static struct client *streams[STREAMS];  /* by the lowest bits of the stream */
static uint64_t last_stream;
static int poller, link_fd;
static struct bytes from_worker, to_worker;
static struct client **dirty;      /* have bytes to write when this turn of the loop is over */
static size_t dirty_count;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static char *grow(struct bytes *b, size_t more)
{
    if (b->size + more > b->room) {
        b->room = 2 * (b->size + more);
        b->at = realloc(b->at, b->room);
        if (b->at == NULL)
            die("memory");
    }
    b->size += more;
    return b->at + b->size - more;
}

static void add(struct bytes *b, const void *data, size_t size)
{
    memcpy(grow(b, size), data, size);
}

static void drop(struct bytes *b, size_t size)
{
    b->size -= size;
    memmove(b->at, b->at + size, b->size);
}

/* -- the link ------------------------------------------------------------------------------- */

static void put(char *at, uint64_t value, int size)
{
    for (int i = 0; i < size; i++)
        at[i] = (char)(value >> (8 * (size - 1 - i)));
}

static uint64_t get(const char *at, int size)
{
    uint64_t value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | (unsigned char)at[i];
    return value;
}

static char *frame(enum tag tag, uint64_t stream, uint64_t number, size_t length)
{
    char *at = grow(&to_worker, HEADER + length);
    at[0] = (char)0x94;
    at[1] = (char)tag;
    at[2] = (char)0xcf;
    put(at + 3, stream, 8);
    at[11] = (char)0xce;
    put(at + 12, number, 4);
    at[16] = (char)0xc6;
    put(at + 17, length, 4);
    return at + HEADER;
}

static void open_turn(struct client *c, const char *session, size_t session_size, const char *body, size_t size)
{
    do
        last_stream++;
    while (streams[last_stream % STREAMS] != NULL);
    c->stream = last_stream;
    c->begun = false;
    c->owed = 0;
    streams[last_stream % STREAMS] = c;
    /* [session_id, run_id, body, {}] in msgpack */
    char *at = frame(OPEN, c->stream, 0, 1 + 3 + session_size + 2 + 32 + 5 + size + 1);
    *at++ = (char)0x94;
    *at++ = (char)0xda;
    put(at, session_size, 2);
    memcpy(at + 2, session, session_size);
    at += 2 + session_size;
    *at++ = (char)0xd9;
    *at++ = 32;
    char run[33];
    snprintf(run, sizeof run, "%032llx", (unsigned long long)c->stream);
    memcpy(at, run, 32);
    at += 32;
    *at++ = (char)0xc6;
    put(at, size, 4);
    memcpy(at + 4, body, size);
    at[4 + size] = (char)0x80;
}

static void write_link(void)
{
    for (size_t done = 0; done < to_worker.size;) {  /* it blocks: the worker always reads */
        ssize_t n = write(link_fd, to_worker.at + done, to_worker.size - done);
        if (n < 0 && errno != EINTR)
            die("link");
        done += n > 0 ? (size_t)n : 0;
    }
    to_worker.size = 0;
}

/* -- clients -------------------------------------------------------------------------------- */

static void mark(struct client *c)
{
    if (!c->dirty) {
        c->dirty = true;
        dirty[dirty_count++] = c;
    }
}

static void leave(struct client *c)
{
    if (c->stream) {
        frame(CANCEL, c->stream, CLIENT_GONE, 0);
        streams[c->stream % STREAMS] = NULL;
    }
    close(c->fd);
    clients[c->fd] = NULL;
    c->fd = -1;
    mark(c);  /* freed when its turn comes: it may be in the list already */
}

static void watch(struct client *c, bool blocked)
{
    struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.fd = c->fd};
    if (c->blocked != blocked && epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event))
        die("epoll_ctl");
    c->blocked = blocked;
}

/* Whether the client is still there. */
static bool flush(struct client *c)
{
    size_t done = 0;
    while (done < c->out.size) {
        ssize_t n = send(c->fd, c->out.at + done, c->out.size - done, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n < 0 && errno != EINTR)
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    drop(&c->out, done);
    watch(c, c->out.size > 0);
    if (c->out.size == 0 && c->stream && c->owed >= CREDIT_STEP) {
        frame(CREDIT, c->stream, c->owed, 0);
        c->owed = 0;
    }
    return true;
}

static void chunk(struct client *c, const char *data, size_t size)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                               "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    char length[24];
    if (!c->begun)
        add(&c->out, head, sizeof head - 1);
    c->begun = true;
    add(&c->out, length, (size_t)snprintf(length, sizeof length, "%zx\r\n", size));
    add(&c->out, data, size);
    add(&c->out, "\r\n", 2);
    mark(c);
}

/* The value of a header that the load writes in just these letters, up to its line's end. */
static const char *value_of(const char *head, const char *end, const char *name, size_t *size)
{
    const char *at = memmem(head, (size_t)(end - head), name, strlen(name));
    if (at == NULL)
        return NULL;
    at += strlen(name);
    *size = (size_t)((const char *)memchr(at, '\r', (size_t)(end - at)) - at);
    return at;
}

/* Answer or begin what has come whole. Whether the client may stay. */
static bool take(struct client *c)
{
    while (c->stream == 0) {
        const char *end = memmem(c->in.at, c->in.size, "\r\n\r\n", 4);
        if (end == NULL)
            return true;
        end += 4;
        size_t digits = 0, session_size = 0;
        const char *length = value_of(c->in.at, end, "Content-Length: ", &digits);
        const char *session = value_of(c->in.at, end, SESSION, &session_size);
        size_t size = length ? strtoul(length, NULL, 10) : 0, whole = (size_t)(end - c->in.at) + size;
        if (c->in.size < whole)
            return true;
        if (memcmp(c->in.at, "GET ", 4) == 0) {
            char answer[160], body[40];
            int n = snprintf(body, sizeof body, "{\"pid\":%d}", (int)getpid());
            n = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                         "Content-Length: %d\r\n\r\n%s", n, body);
            add(&c->out, answer, (size_t)n);
            mark(c);
        } else if (session != NULL) {
            open_turn(c, session, session_size, end, size);
        } else {
            return false;
        }
        drop(&c->in, whole);
    }
    return true;
}

static void read_client(struct client *c)
{
    static char buffer[MAX_READ];
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        leave(c);
        return;
    }
    add(&c->in, buffer, (size_t)n);
    if (!take(c))
        leave(c);
}

static void read_worker(void)
{
    static const char done[] = "event: done\ndata: {}\n\n";
    ssize_t n = read(link_fd, grow(&from_worker, MAX_READ), MAX_READ);
    if (n < 0 && errno != EINTR)
        die("link");
    if (n == 0)
        exit(0);  /* the worker has ended */
    from_worker.size -= MAX_READ - (n > 0 ? (size_t)n : 0);
    size_t at = 0;
    while (from_worker.size - at >= HEADER) {
        const char *head = from_worker.at + at;
        size_t length = get(head + 17, 4);
        if (from_worker.size - at < HEADER + length)
            break;
        uint64_t stream = get(head + 3, 8);
        struct client *c = streams[stream % STREAMS];
        if (c != NULL && c->stream == stream) {
            if (head[1] == DATA) {
                chunk(c, head + HEADER, length);
                c->owed += length;
            } else if (head[1] == END) {
                chunk(c, done, sizeof done - 1);
                add(&c->out, "0\r\n\r\n", 5);
                streams[stream % STREAMS] = NULL;
                c->stream = 0;
            } else if (head[1] == FAIL) {
                streams[stream % STREAMS] = NULL;
                c->stream = 0;
                c->ending = true;
                mark(c);
            }
        }
        at += HEADER + length;
    }
    drop(&from_worker, at);
}

static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct client *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (c == NULL || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
            die("a client");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        clients[fd] = c;
    }
}

static void release(struct client *c)
{
    free(c->in.at);
    free(c->out.at);
    free(c);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: thin_front LISTENING-DESCRIPTOR LINK-DESCRIPTOR\n");
        return 2;
    }
    int listener = atoi(argv[1]);
    link_fd = atoi(argv[2]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    clients = calloc(files.rlim_cur, sizeof *clients);
    dirty = calloc(2 * files.rlim_cur, sizeof *dirty);  /* one that left, and another with its descriptor */
    poller = epoll_create1(EPOLL_CLOEXEC);
    fcntl(link_fd, F_SETFL, fcntl(link_fd, F_GETFL) & ~O_NONBLOCK);
    fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = link_fd;
    epoll_ctl(poller, EPOLL_CTL_ADD, link_fd, &event);
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
            } else if (fd == link_fd) {
                read_worker();
            } else if (clients[fd] != NULL) {
                if (events[i].events & EPOLLOUT)
                    mark(clients[fd]);
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                    read_client(clients[fd]);
            }
        }
        for (size_t i = 0; i < dirty_count; i++) {  /* which may grow meanwhile */
            struct client *c = dirty[i];
            if (c->fd >= 0 && (c->ending || !flush(c) || !take(c))) {
                c->dirty = true;  /* it is released just below */
                leave(c);
            }
            c->dirty = false;
            if (c->fd < 0)
                release(c);
        }
        dirty_count = 0;
        write_link();
    }
}

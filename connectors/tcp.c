/*
 * The TCP source: records from a server we connect to (as Spark's NetworkWordCount does) or from
 * clients of a listening socket, over TCP or a Unix socket. One receiver thread polls all
 * connections; a full inlet stops reading until there is room. With `acknowledged` clients speak
 * the protocol of docs/tcp.md: numbered lines, acknowledged when durable.
 *
 * A line ends at \n (a \r before it is dropped); with a length before each record any bytes will
 * do. A record longer than line_max, or one that the other side leaves unfinished, is reported and
 * its connection is closed: nothing is cut silently. The name of a listening Unix socket is removed
 * when it closes; one that nobody listens on any more, as a crash leaves it, is taken over.
 */
#define _GNU_SOURCE /* EAI_ codes and accept4 */
#include "connectors/tcp_internal.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- sockets ---- */

static int resolve(const struct tcp *t, struct addrinfo **ret, struct levee_error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = t->listen ? AI_PASSIVE : 0};
    int rc = getaddrinfo(t->host[0] ? t->host : NULL, t->port, &hints, ret);

    if (rc) {
        err_set(err, LEVEE_ECONNECTION, "cannot resolve %s: %s", t->name, gai_strerror(rc));
        return LEVEE_ECONNECTION;
    }
    return LEVEE_OK;
}

static int cannot(const struct tcp *t, struct levee_error *err)
{
    return err_sys(err, LEVEE_ECONNECTION, errno, "%s %s",
                   t->listen ? "cannot listen on" : "cannot connect to", t->name);
}

static int unix_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

/* A name that a dead listener has left; false: somebody answers there, or it is no socket. */
static bool is_stale(const struct sockaddr_un *a)
{
    int fd = unix_socket();
    bool refused =
        fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) != 0 && errno == ECONNREFUSED;

    if (fd >= 0) {
        (void)close(fd);
    }
    return refused;
}

static int open_unix(struct tcp *t, int *ret, struct levee_error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const struct sockaddr *to = (const struct sockaddr *)&a;
    int fd = unix_socket();

    memcpy(a.sun_path, t->path, sizeof t->path);
    bool ok = fd >= 0 && (t->listen ? bind(fd, to, sizeof a) : connect(fd, to, sizeof a)) == 0;
    int why = errno;
    if (!ok && fd >= 0 && t->listen && why == EADDRINUSE && is_stale(&a)) {
        (void)t->io->ops->unlink(t->io, t->path, NULL); /* bind tells how that went */
        ok = bind(fd, to, sizeof a) == 0;
        why = errno;
    }
    if (ok && t->listen) {
        ok = listen(fd, 128) == 0;
        why = errno;
    }
    if (ok) {
        *ret = fd;
        return LEVEE_OK;
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    errno = why;
    return cannot(t, err);
}

static int open_socket(struct tcp *t, int *ret, struct levee_error *err)
{
    if (t->path[0]) {
        return open_unix(t, ret, err);
    }
    struct addrinfo *list = NULL;
    int one = 1, fd = -1, code = resolve(t, &list, err);

    for (const struct addrinfo *a = list; a && code == LEVEE_OK && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            continue;
        }
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        bool ok = t->listen ? bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 128) == 0
                            : connect(fd, a->ai_addr, a->ai_addrlen) == 0;
        if (!ok) {
            (void)cannot(t, err);
            (void)close(fd);
            fd = -1;
        }
    }
    if (list) {
        freeaddrinfo(list);
    }
    *ret = fd;
    return fd >= 0 ? LEVEE_OK : code ? code : LEVEE_ECONNECTION;
}

static void note_port(struct tcp *t)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char port[16];

    if (getsockname(t->listener, (struct sockaddr *)&a, &n) == 0 &&
        getnameinfo((struct sockaddr *)&a, n, NULL, 0, port, sizeof port, NI_NUMERICSERV) == 0) {
        atomic_store(&t->bound, (unsigned)strtoul(port, NULL, 10));
    }
}

/* ---- connections ---- */

static struct tcp_connection *add_connection(struct tcp *t, int fd)
{
    struct tcp_connection *c = t->count < t->connections_max ? mem_zalloc(sizeof *c) : NULL;

    if (!c || !mem_grow((void **)&t->connections, &t->cap, t->count + 1,
                        sizeof(struct tcp_connection *))) {
        mem_free(c);
        (void)close(fd);
        return NULL;
    }
    c->fd = fd;
    t->connections[t->count++] = c;
    return c;
}

static void close_connection(struct tcp *t, size_t i)
{
    struct tcp_connection *c = t->connections[i];

    (void)close(c->fd);
    buf_release(&c->in);
    mem_free(c);
    t->connections[i] = t->connections[--t->count];
}

/* The other side has closed: what is unfinished? true: a last line without newline. */
static bool last_words(struct tcp *t, struct tcp_connection *c)
{
    struct levee_error err = {0};

    if (c->in.len == c->used || t->acknowledged) {
        return false;
    }
    if (t->framing == LEVEE_LINES) {
        buf_u8(&c->in, '\n');
        return true;
    }
    (void)err_set(&err, LEVEE_EPROTOCOL, "%s: a connection ended inside a record", t->name);
    levee_inlet_report(t->inlet, &err);
    return false;
}

/* Reads what is there; false: the connection ends. */
static bool serve(struct tcp *t, struct tcp_connection *c)
{
    if (t->framing == LEVEE_LINES && c->in.len - c->used > t->line_max) {
        struct levee_error err;
        (void)err_set(&err, LEVEE_ERECORD_TOO_LONG, "a line is longer than %u bytes", t->line_max);
        levee_inlet_report(t->inlet, &err);
        return false;
    }
    if (!buf_reserve(&c->in, 65536)) {
        c->in.failed = false;
        return false;
    }
    ssize_t n = recv(c->fd, c->in.data + c->in.len, 65536, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n > 0) {
        c->in.len += (size_t)n;
    } else {
        c->ended = last_words(t, c);
        return c->ended;
    }
    return true;
}

static void poll_once(struct tcp *t, struct pollfd *fds)
{
    nfds_t n = 0;

    if (t->listener >= 0) {
        fds[n++] = (struct pollfd){t->listener, POLLIN, 0};
    }
    for (size_t i = 0; i < t->count; i++) {
        struct tcp_connection *c = t->connections[i];
        fds[n++] = (struct pollfd){c->fd, c->full || c->ended ? 0 : POLLIN, 0};
    }
    (void)poll(fds, n, 20); /* short: acknowledgements and stop are looked at in between */
    size_t first = t->listener >= 0;
    for (size_t i = t->count; i-- > 0;) {
        struct tcp_connection *c = t->connections[i];
        bool readable = (fds[first + i].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
        bool alive = c->ended || c->full || !readable || serve(t, c);
        alive = tcp_take_lines(t, c) && alive && tcp_acknowledge(t, c);
        if (!alive || (c->ended && !c->full && c->used == c->in.len)) {
            close_connection(t, i);
        }
    }
    if (first && (fds[0].revents & POLLIN)) {
        int fd = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            (void)add_connection(t, fd);
        }
    }
}

static void *receive(void *arg)
{
    struct tcp *t = arg;
    struct pollfd *fds = mem_alloc((t->connections_max + 1u) * sizeof *fds);

    while (fds && !atomic_load(&t->stop)) {
        poll_once(t, fds);
        if (!t->listen && t->count == 0) {
            struct levee_error err;
            if (levee_inlet_stop_at_end(t->inlet)) {
                levee_inlet_end(t->inlet);
            } else {
                (void)err_set(&err, LEVEE_ECONNECTION, "%s closed the connection", t->name);
                levee_inlet_fail(t->inlet, &err, false);
            }
            break;
        }
    }
    mem_free(fds);
    return NULL;
}

/* ---- the receiver ---- */

static int tcp_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct tcp *t = self;
    int fd = -1, code = open_socket(t, &fd, err);

    t->inlet = inlet;
    atomic_store(&t->stop, false);
    t->listener = -1;
    if (code) {
        return code;
    }
    if (t->listen) {
        t->listener = fd;
        if (!t->path[0]) {
            note_port(t);
        }
    } else if (!add_connection(t, fd)) {
        return err_nomem(err, sizeof(struct tcp_connection));
    }
    if (pthread_create(&t->thread, NULL, receive, t) != 0) {
        return err_set(err, LEVEE_ETHREAD, "cannot start the receiver's thread");
    }
    t->running = true;
    return LEVEE_OK;
}

static void tcp_stop(void *self)
{
    struct tcp *t = self;

    atomic_store(&t->stop, true);
    if (t->running) {
        (void)pthread_join(t->thread, NULL);
        t->running = false;
    }
    while (t->count) {
        close_connection(t, t->count - 1);
    }
    if (t->listener >= 0) {
        (void)close(t->listener);
        t->listener = -1;
        if (t->path[0]) { /* else a client would wait for an answer that never comes */
            (void)t->io->ops->unlink(t->io, t->path, NULL);
        }
    }
}

static void tcp_durable(void *self, uint64_t ticket)
{
    atomic_store(&((struct tcp *)self)->durable, ticket);
}

static void tcp_destroy(void *self)
{
    struct tcp *t = self;

    mem_free(t->connections);
    mem_free(t);
}

static const struct levee_receiver_ops tcp_ops = {.version = 1,
                                                  .start = tcp_start,
                                                  .stop = tcp_stop,
                                                  .durable = tcp_durable,
                                                  .destroy = tcp_destroy};

static bool parse_path(struct tcp *t, const char *path)
{
    size_t n = strlen(path);

    if (n == 0 || n >= sizeof t->path) {
        return false;
    }
    memcpy(t->path, path, n + 1);
    (void)snprintf(t->name, sizeof t->name, "%s", path);
    return true;
}

static bool parse_address(struct tcp *t, const char *address)
{
    const char *colon = address ? strrchr(address, ':') : NULL;
    size_t n = colon ? (size_t)(colon - address) : 0;

    if (!colon || n >= sizeof t->host || strlen(colon + 1) >= sizeof t->port || !colon[1]) {
        return false;
    }
    memcpy(t->host, address, n);
    t->host[n] = 0;
    memcpy(t->port, colon + 1, strlen(colon + 1) + 1);
    (void)snprintf(t->name, sizeof t->name, "%s", address);
    return true;
}

levee_stream *levee_tcp_source_at(levee_context *ctx, const char *uid,
                                  const struct levee_tcp_options *o, const char *file, int line)
{
    struct rt_graph *g = rt_context_graph(ctx);
    struct tcp *t = g ? mem_zalloc(sizeof *t) : NULL;

    if (!t) {
        return NULL;
    }
    if (!o || (o->path != NULL) == (o->address != NULL) ||
        !(o->path ? parse_path(t, o->path) : parse_address(t, o->address))) {
        mem_free(t);
        return rt_graph_fail(g, file, line, LEVEE_EINVALID,
                             "tcp source %s: it needs an address, host:port, or else a path of at "
                             "most 107 bytes",
                             uid ? uid : "");
    }
    if ((o->acknowledged && (!o->listen || o->framing != LEVEE_LINES)) ||
        (unsigned)o->framing > LEVEE_LENGTH) {
        mem_free(t);
        return rt_graph_fail(g, file, line, LEVEE_EINVALID,
                             "tcp source %s: acknowledged needs listen, and lines", uid ? uid : "");
    }
    t->io = rt_context_io(ctx);
    t->framing = o->framing;
    t->listen = o->listen;
    t->acknowledged = o->acknowledged;
    t->line_max = o->line_max ? o->line_max : 1u << 20;
    t->connections_max = o->connections_max ? o->connections_max : 256;
    t->listener = -1;
    struct levee_receiver_options r = {
        .partitions = 1, .reliable = o->acknowledged, .replayable = o->acknowledged};
    levee_stream *s = levee_receiver_source_at(ctx, uid, &r, &tcp_ops, t, file, line);
    if (!s) {
        mem_free(t);
    }
    return s;
}

uint16_t levee_tcp_port(levee_stream *source)
{
    struct levee_inlet *in = rt_stream_inlet(source);

    return in && in->ops == &tcp_ops ? (uint16_t)atomic_load(&((struct tcp *)in->self)->bound) : 0;
}

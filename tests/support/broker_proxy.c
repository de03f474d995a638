#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */ /* NOLINT(bugprone-reserved-identifier) */
#include "tests/support/broker_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAIRS      64
#define WAITING    512 /* requests of one connection without a reply */
#define FRAME_MAX  (64u << 20)
#define READ_BYTES 65536

/* What the test and the proxy share. The rule is written before `armed`, read after it. */
struct proxy_shared {
    struct proxy_rule rule;
    int armed, struck;
    int victim;
    unsigned seen[PROXY_APIS];
};

struct stream { /* bytes of one direction that are not a whole frame yet */
    uint8_t *data;
    size_t len, cap;
};
struct asked {
    int16_t api, version;
    bool marked; /* the rule is about its reply */
};
struct pair {
    int client, broker; /* descriptors; client -1: a free place */
    bool stalled;       /* what the broker says is not listened to */
    struct stream from_client, from_broker;
    struct asked asked[WAITING];
    size_t first, count;
};

static struct {
    struct proxy_shared *shared;
    struct sockaddr_in broker;
    int listening;
    struct pair pairs[PAIRS];
} px;

/* ---- bytes ---- */

static uint32_t get(const uint8_t *p, size_t bytes)
{
    uint32_t v = 0;

    for (size_t i = 0; i < bytes; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

static void put(uint8_t *p, size_t bytes, uint32_t v)
{
    for (size_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
    }
}

static bool send_all(int fd, const uint8_t *data, size_t len)
{
    while (len) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* ---- what is done to a frame ---- */

static bool strikes(enum proxy_api api)
{
    struct proxy_shared *s = px.shared;
    unsigned n = __atomic_add_fetch(&s->seen[api], 1, __ATOMIC_SEQ_CST);

    return __atomic_load_n(&s->armed, __ATOMIC_SEQ_CST) && s->rule.api == api &&
           (s->rule.nth == n || s->rule.action == PROXY_HIDE);
}

static void struck(void)
{
    __atomic_store_n(&px.shared->armed, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&px.shared->struck, 1, __ATOMIC_SEQ_CST);
}

static void kill_victim(void)
{
    int pid;

    while ((pid = __atomic_load_n(&px.shared->victim, __ATOMIC_SEQ_CST)) == 0) {
        (void)poll(NULL, 0, 1); /* it is being said */
    }
    struck(); /* first, for whoever sees it dead */
    (void)kill(pid, SIGKILL);
}

/* Where the error lies in a reply (from its correlation id on), 0: unknown. Of replies about
 * several partitions: the last one's. */
static size_t error_at(const struct asked *a, size_t len)
{
    switch (a->api) {
    case PROXY_INIT_PRODUCER_ID:
        return a->version >= 2 ? 9 : 8;
    case PROXY_FIND_COORDINATOR:
    case PROXY_ADD_OFFSETS_TO_TXN:
    case PROXY_END_TXN:
        return a->version <= 2 ? 8 : 0;
    case PROXY_ADD_PARTITIONS_TO_TXN:
        return a->version <= 2 ? len - 2 : 0;
    case PROXY_TXN_OFFSET_COMMIT:
        return a->version >= 3 ? len - 5 : len - 2;
    case PROXY_PRODUCE: /* offset, two times and the throttle time come behind it */
        return a->version >= 5 && a->version <= 7 ? len - 30 : 0;
    case PROXY_OFFSET_FETCH: /* of the partition: the whole's lies behind it */
        return a->version >= 6 ? len - 7 : 0;
    default:
        return 0;
    }
}

/* A reply of our own; false: not of this kind. */
static bool answer(int client, const struct asked *a, const uint8_t *request)
{
    uint8_t out[4 + 64] = {0}, *p = out + 4;
    bool compact = a->api == PROXY_INIT_PRODUCER_ID && a->version >= 2;

    if (a->api != PROXY_INIT_PRODUCER_ID && a->api != PROXY_ADD_OFFSETS_TO_TXN &&
        a->api != PROXY_END_TXN) {
        return false;
    }
    memcpy(p, request + 4 + 4, 4); /* the correlation id */
    p += 4 + compact + 4;          /* tags, throttle time */
    put(p, 2, (uint32_t)px.shared->rule.error & 0xffff);
    p += 2;
    if (a->api == PROXY_INIT_PRODUCER_ID) {
        memset(p, 0xff, 10); /* no id, no epoch */
        p += 10 + compact;
    }
    put(out, 4, (uint32_t)(p - out) - 4);
    return send_all(client, out, (size_t)(p - out));
}

/* A whole request, length and all. false: the connection is over. */
static bool on_request(struct pair *c, const uint8_t *frame, size_t len)
{
    struct asked a = {.api = (int16_t)get(frame + 4, 2), .version = (int16_t)get(frame + 6, 2)};

    if (a.api >= 0 && a.api < PROXY_APIS && strikes((enum proxy_api)a.api)) {
        switch (px.shared->rule.action) {
        case PROXY_LOSE_REQUEST:
            struck();
            return false;
        case PROXY_KILL_AT_REQUEST:
            kill_victim();
            return false;
        case PROXY_ANSWER:
            if (!answer(c->client, &a, frame)) {
                return false;
            }
            struck();
            return true;
        case PROXY_LOSE_REPLY:
        case PROXY_STALL:
        case PROXY_HIDE:
        case PROXY_KILL_AT_REPLY:
        case PROXY_FORGE:
        default:
            a.marked = true;
            break;
        }
    }
    if (c->count == WAITING) {
        return false;
    }
    c->asked[(c->first + c->count++) % WAITING] = a;
    return send_all(c->broker, frame, len);
}

/* Gives the kind another number, in the list of 7 bytes each (version 3) that begins behind the
 * correlation id, the error and the list's length. */
static void hide(uint8_t *reply, size_t len)
{
    for (size_t at = 7; at + 7 <= len; at += 7) {
        if (get(reply + at, 2) == (uint32_t)px.shared->rule.error) {
            put(reply + at, 2, 9999);
            return;
        }
    }
}

static bool on_reply(struct pair *c, uint8_t *frame, size_t len)
{
    if (c->count == 0) {
        return false;
    }
    struct asked a = c->asked[c->first];
    c->first = (c->first + 1) % WAITING;
    c->count--;
    if (!a.marked) {
        return send_all(c->client, frame, len);
    }
    size_t at = error_at(&a, len - 4);
    switch (px.shared->rule.action) {
    case PROXY_FORGE:
        if (!at || at + 2 > len - 4) {
            return false; /* and the rule has not struck */
        }
        put(frame + 4 + at, 2, (uint32_t)px.shared->rule.error & 0xffff);
        struck();
        return send_all(c->client, frame, len);
    case PROXY_HIDE:
        hide(frame + 4, len - 4);
        __atomic_store_n(&px.shared->struck, 1, __ATOMIC_SEQ_CST);
        return send_all(c->client, frame, len);
    case PROXY_STALL:
        c->stalled = true;
        struck();
        return true;
    case PROXY_KILL_AT_REPLY:
        kill_victim();
        return false;
    case PROXY_LOSE_REPLY:
    case PROXY_LOSE_REQUEST:
    case PROXY_KILL_AT_REQUEST:
    case PROXY_ANSWER:
    default:
        struck();
        return false;
    }
}

/* ---- connections ---- */

static void drop(struct pair *c)
{
    close(c->client);
    close(c->broker);
    free(c->from_client.data);
    free(c->from_broker.data);
    *c = (struct pair){.client = -1, .broker = -1};
}

/* What has come, as whole frames; false: the connection is over. */
static bool forward(struct pair *c, bool request)
{
    struct stream *s = request ? &c->from_client : &c->from_broker;
    bool goes_on = true;

    if (s->cap - s->len < READ_BYTES) {
        s->cap = 2 * s->cap + READ_BYTES;
        s->data = realloc(s->data, s->cap);
        if (!s->data) {
            abort();
        }
    }
    ssize_t n = read(request ? c->client : c->broker, s->data + s->len, READ_BYTES);
    if (n <= 0) {
        return n < 0 && errno == EINTR;
    }
    s->len += (size_t)n;
    size_t at = 0;
    while (goes_on && s->len - at >= 4) {
        size_t len = (size_t)get(s->data + at, 4) + 4;
        if (len < 12 || len > FRAME_MAX) {
            return false;
        }
        if (s->len - at < len) {
            break;
        }
        goes_on = request ? on_request(c, s->data + at, len) : on_reply(c, s->data + at, len);
        at += len;
    }
    memmove(s->data, s->data + at, s->len - at);
    s->len -= at;
    return goes_on;
}

static void take(void)
{
    int client = accept(px.listening, NULL, NULL), one = 1;
    int to = socket(AF_INET, SOCK_STREAM, 0);
    struct pair *c = NULL;

    for (size_t i = 0; i < PAIRS && !c; i++) {
        c = px.pairs[i].client < 0 ? &px.pairs[i] : NULL;
    }
    if (client < 0 || to < 0 || !c ||
        connect(to, (struct sockaddr *)&px.broker, sizeof px.broker) != 0) {
        close(client);
        close(to);
        return;
    }
    (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    *c = (struct pair){.client = client, .broker = to};
}

/* Does not return. */
static void serve(void)
{
    for (size_t i = 0; i < PAIRS; i++) {
        px.pairs[i].client = px.pairs[i].broker = -1;
    }
    for (;;) {
        struct pollfd fds[1 + 2 * PAIRS] = {{.fd = px.listening, .events = POLLIN}};
        for (size_t i = 0; i < PAIRS; i++) {
            fds[1 + 2 * i] = (struct pollfd){.fd = px.pairs[i].client, .events = POLLIN};
            fds[2 + 2 * i] = (struct pollfd){.fd = px.pairs[i].stalled ? -1 : px.pairs[i].broker,
                                             .events = POLLIN};
        }
        if (poll(fds, 1 + 2 * PAIRS, -1) < 0) {
            continue;
        }
        for (size_t i = 0; i < PAIRS; i++) {
            struct pair *c = &px.pairs[i];
            if (c->client >= 0 && ((fds[1 + 2 * i].revents && !forward(c, true)) ||
                                   (fds[2 + 2 * i].revents && !forward(c, false)))) {
                drop(c);
            }
        }
        if (fds[0].revents) {
            take();
        }
    }
}

/* ---- the test's side ---- */

static enum broker_code listen_somewhere(struct proxy *p, struct broker *b)
{
    struct sockaddr_in me = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof me;

    px.listening = socket(AF_INET, SOCK_STREAM, 0);
    if (px.listening < 0 || bind(px.listening, (struct sockaddr *)&me, sizeof me) != 0 ||
        listen(px.listening, 64) != 0 ||
        getsockname(px.listening, (struct sockaddr *)&me, &len) != 0) {
        b->failure.code = BROKER_SYSTEM;
        (void)snprintf(b->failure.what, sizeof b->failure.what, "proxy: %s", strerror(errno));
        return BROKER_SYSTEM;
    }
    (void)snprintf(p->address, sizeof p->address, "127.0.0.1:%u", (unsigned)ntohs(me.sin_port));
    return BROKER_OK;
}

/* The node's ports: of its clients, of other brokers. */
static enum broker_code ports_of(struct broker *b, unsigned *ret_client, unsigned *ret_broker)
{
    char path[600];

    (void)snprintf(path, sizeof path, "%s/ports", b->directory);
    FILE *f = fopen(path, "r");
    int n = f ? fscanf(f, "%u %u", ret_client, ret_broker) : 0; /* NOLINT(cert-err34-c): a port */
    if (f) {
        fclose(f);
    }
    if (n != 2) {
        b->failure.code = BROKER_SYSTEM;
        (void)snprintf(b->failure.what, sizeof b->failure.what, "%s: no ports", path);
        return BROKER_SYSTEM;
    }
    return BROKER_OK;
}

enum broker_code proxy_start(struct proxy *p, struct broker *b)
{
    char advertised[160];
    const char *const properties[] = {advertised, NULL};
    unsigned client, other;
    enum broker_code code;

    *p = (struct proxy){.pid = 0};
    if (!b->address[0]) {
        return BROKER_OK;
    }
    if ((code = ports_of(b, &client, &other)) != BROKER_OK ||
        (code = listen_somewhere(p, b)) != BROKER_OK) {
        return code;
    }
    p->shared =
        mmap(NULL, sizeof *p->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(p->shared != MAP_FAILED);
    px.shared = p->shared;
    px.broker = (struct sockaddr_in){.sin_family = AF_INET,
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                     .sin_port = htons((uint16_t)client)};
    p->pid = fork();
    MUST(p->pid >= 0);
    if (p->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve();
    }
    close(px.listening);
    (void)snprintf(advertised, sizeof advertised,
                   "advertised.listeners=CLIENT://%s,BROKER://127.0.0.1:%u", p->address, other);
    code = broker_restart(b, BROKER_ALL, properties);
    (void)snprintf(b->address, sizeof b->address, "%s", p->address);
    return code;
}

void proxy_stop(struct proxy *p)
{
    if (p->pid > 0) {
        (void)kill(p->pid, SIGKILL);
        (void)waitpid(p->pid, NULL, 0);
        p->pid = 0;
    }
}

void proxy_arm(struct proxy *p, const struct proxy_rule *rule)
{
    proxy_disarm(p);
    p->shared->rule = *rule;
    for (size_t i = 0; i < PROXY_APIS; i++) {
        __atomic_store_n(&p->shared->seen[i], 0, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&p->shared->struck, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&p->shared->victim, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&p->shared->armed, 1, __ATOMIC_SEQ_CST);
}

void proxy_victim(struct proxy *p, pid_t pid)
{
    __atomic_store_n(&p->shared->victim, (int)pid, __ATOMIC_SEQ_CST);
}

void proxy_disarm(struct proxy *p)
{
    __atomic_store_n(&p->shared->armed, 0, __ATOMIC_SEQ_CST);
}

bool proxy_struck(const struct proxy *p)
{
    return __atomic_load_n(&p->shared->struck, __ATOMIC_SEQ_CST) != 0;
}

unsigned proxy_seen(const struct proxy *p, enum proxy_api api)
{
    return __atomic_load_n(&p->shared->seen[api], __ATOMIC_SEQ_CST);
}

/* What bytes mean: records as they are, lines or with a length before them, or the acknowledged
 * protocol of docs/tcp.md. */
#include <stdio.h>
#include <stdlib.h>

#include "connectors/tcp_internal.h"

#define LINES_MAX 256u

static bool answer(struct tcp_connection *c, const char *text)
{
    return send(c->fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

static bool refuse(struct tcp_connection *c, const struct levee_error *err)
{
    char line[700];

    (void)snprintf(line, sizeof line, "ERROR %s %s; found: %s\n", levee_error_name(err->code),
                   err->what, err->found);
    (void)answer(c, line);
    return false;
}

/* The next whole line behind *at; false: none yet. */
static bool next_line(const struct tcp_connection *c, size_t *at, struct levee_slice *ret)
{
    const uint8_t *from = c->in.data + *at;
    const uint8_t *nl = c->in.len > *at ? memchr(from, '\n', c->in.len - *at) : NULL;

    if (!nl) {
        return false;
    }
    size_t n = (size_t)(nl - from);
    *at += n + 1;
    *ret = slice_of(from, n && from[n - 1] == '\r' ? n - 1 : n);
    return true;
}

/* The same of a record with its length before it. *ret_wrong: it is longer than allowed. */
static bool next_framed(const struct tcp *t, const struct tcp_connection *c, size_t *at,
                        struct levee_slice *ret, bool *ret_wrong)
{
    const uint8_t *p = c->in.data + *at;
    size_t have = c->in.len - *at;

    if (have < 4) {
        return false;
    }
    uint32_t n = get_be32(p);
    *ret_wrong = n > t->line_max;
    if (*ret_wrong || have - 4 < n) {
        return false;
    }
    *at += 4 + (size_t)n;
    *ret = slice_of(p + 4, n);
    return true;
}

static bool too_long(struct tcp *t)
{
    struct levee_error err = {0};

    (void)err_set(&err, LEVEE_ERECORD_TOO_LONG, "%s: a record is longer than %u bytes", t->name,
                  t->line_max);
    levee_inlet_report(t->inlet, &err);
    return false;
}

/* *ret_alive false: the connection ends. */
static bool take_plain(struct tcp *t, struct tcp_connection *c, bool *ret_alive)
{
    struct levee_record r[LINES_MAX];
    struct levee_append a = {.records = r};
    struct levee_slice line;
    struct levee_error err = {0};
    size_t at = c->used;
    uint64_t ticket;

    bool wrong = false;
    while (a.count < LINES_MAX &&
           (t->framing == LEVEE_LENGTH ? next_framed(t, c, &at, &line, &wrong)
                                       : next_line(c, &at, &line))) {
        r[a.count++] = (struct levee_record){.value = line};
    }
    if (a.count == 0) {
        *ret_alive = !wrong || too_long(t);
        return false;
    }
    int code = levee_inlet_append(t->inlet, &a, &ticket, &err);
    c->full = code == LEVEE_EFULL;
    if (code == LEVEE_OK) {
        c->used = at;
    } else if (!c->full && code != LEVEE_ESTOPPED) {
        levee_inlet_report(t->inlet, &err);
        c->used = at;
    }
    return code == LEVEE_OK;
}

static bool hello(struct tcp *t, struct tcp_connection *c, struct levee_slice id)
{
    struct levee_error err = {0};
    char text[64];
    uint64_t durable;

    if (id.len == 0 || id.len > LEVEE_PRODUCER_MAX) {
        (void)err_set(&err, LEVEE_EPROTOCOL, "HELLO needs an id of 1 to %d bytes",
                      LEVEE_PRODUCER_MAX);
        return refuse(c, &err);
    }
    memcpy(c->producer, id.data, id.len);
    c->producer[id.len] = 0;
    if (levee_inlet_hello(t->inlet, id, &durable, &c->connection, &err) != LEVEE_OK) {
        return refuse(c, &err);
    }
    c->told = durable;
    (void)snprintf(text, sizeof text, "OK %llu\n", (unsigned long long)durable);
    return answer(c, text);
}

static void note_ticket(struct tcp_connection *c, uint64_t number, uint64_t ticket)
{
    size_t n = c->waiting_count;

    if (n && (c->waiting[n - 1].ticket == ticket || n == ARRAY_LEN(c->waiting))) {
        n--; /* one entry for all of a ticket; when there are very many, the newest stands for the
                rest */
    } else {
        c->waiting_count++;
    }
    c->waiting[n].number = number;
    c->waiting[n].ticket = ticket;
}

/* One line of the protocol. *ret_again: no room; the same line comes again. */
static bool take_numbered(struct tcp *t, struct tcp_connection *c, struct levee_slice line,
                          bool *ret_again)
{
    struct levee_error err = {0};
    char number[24];
    uint64_t ticket = 0;

    *ret_again = false;
    if (line.len > 6 && memcmp(line.data, "HELLO ", 6) == 0) {
        return hello(t, c, slice_of(line.data + 6, line.len - 6));
    }
    if (!c->producer[0]) {
        (void)err_set(&err, LEVEE_EPROTOCOL, "the first line must be HELLO <id>");
        return refuse(c, &err);
    }
    if (line.len == 3 && memcmp(line.data, "BYE", 3) == 0) {
        (void)levee_inlet_bye(t->inlet, levee_text(c->producer), c->connection, &ticket, &err);
        return false;
    }
    const uint8_t *space = line.len ? memchr(line.data, ' ', line.len < 21 ? line.len : 21) : NULL;
    size_t n = space ? (size_t)(space - line.data) : 0;
    if (n == 0 || n >= sizeof number) {
        (void)err_set(&err, LEVEE_EPROTOCOL, "a line must be <number> <text>");
        return refuse(c, &err);
    }
    memcpy(number, line.data, n);
    number[n] = 0;
    struct levee_record r = {.value = slice_of(space + 1, line.len - n - 1)};
    struct levee_append a = {.producer = levee_text(c->producer),
                             .connection = c->connection,
                             .first_sequence = strtoull(number, NULL, 10),
                             .records = &r,
                             .count = 1};
    int code = levee_inlet_append(t->inlet, &a, &ticket, &err);
    if (code == LEVEE_EFULL) {
        *ret_again = true;
        return true;
    }
    if (code) {
        return refuse(c, &err);
    }
    note_ticket(c, a.first_sequence, ticket);
    return true;
}

bool tcp_take_lines(struct tcp *t, struct tcp_connection *c)
{
    bool alive = true;

    c->full = false;
    if (!t->acknowledged) {
        while (take_plain(t, c, &alive)) {
        }
    } else {
        struct levee_slice line;
        size_t at = c->used;
        while (alive && !c->full && next_line(c, &at, &line)) {
            alive = take_numbered(t, c, line, &c->full);
            c->used = c->full ? c->used : at;
        }
    }
    if (c->used) {
        memmove(c->in.data, c->in.data + c->used, c->in.len - c->used);
        c->in.len -= c->used;
        c->used = 0;
    }
    return alive;
}

bool tcp_acknowledge(struct tcp *t, struct tcp_connection *c)
{
    uint64_t durable = atomic_load(&t->durable), number = 0;
    size_t done = 0;

    while (done < c->waiting_count && c->waiting[done].ticket <= durable) {
        number = c->waiting[done++].number;
    }
    if (done) {
        memmove(c->waiting, c->waiting + done, (c->waiting_count - done) * sizeof *c->waiting);
        c->waiting_count -= done;
    }
    if (number > c->told) {
        char text[64];
        c->told = number;
        (void)snprintf(text, sizeof text, "ACK %llu\n", (unsigned long long)number);
        return answer(c, text);
    }
    return true;
}

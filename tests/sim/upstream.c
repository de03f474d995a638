#include "tests/sim/upstream.h"

#include <stdio.h>

#include "base/base.h"
#include "tests/sim/events.h"

#define SENDER         "sender"
#define AWAY_PER_MILLE 200

/* The same at every reading. */
static struct levee_record record_of(const struct upstream *u, uint64_t seq,
                                     char text[UPSTREAM_LINE])
{
    size_t len = (size_t)snprintf(text, 24, " %s ", world_word(u->words[seq - 1]));

    ASSERT(len + u->padding <= UPSTREAM_LINE);
    memset(text + len, ' ', u->padding);
    return (struct levee_record){.value = slice_of(text, len + u->padding),
                                 .time_ms = events_time((uint32_t)(seq - 1))};
}

static int up_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct upstream *u = self;
    uint64_t connection;

    u->inlet = inlet;
    u->pending_count = 0;
    u->durable_ticket = 0;
    return levee_inlet_hello(inlet, levee_text(SENDER), &u->durable, &connection, err);
}

static void up_stop(void *self)
{
    (void)self;
}

static void up_durable(void *self, uint64_t ticket)
{
    struct upstream *u = self;
    size_t done = 0;

    u->durable_ticket = ticket;
    for (; done < u->pending_count && u->pending[done].ticket <= ticket; done++) {
        u->durable = u->pending[done].last;
    }
    u->pending_count -= done;
    memmove(u->pending, u->pending + done, u->pending_count * sizeof *u->pending);
}

static int up_read(void *self, levee_inlet *inlet, const struct levee_range *range,
                   levee_reread_fn add, void *arg, struct levee_error *err)
{
    struct upstream *u = self;
    int code = LEVEE_OK;

    (void)inlet;
    for (uint64_t seq = range->first; seq <= range->last && code == LEVEE_OK; seq++) {
        static char text[UPSTREAM_LINE];
        if (rng_next(&u->rng) % 1000 < AWAY_PER_MILLE / range->count) {
            return err_set(err, LEVEE_ECONNECTION, "upstream is away");
        }
        struct levee_record r = record_of(u, seq, text);
        code = add(arg, &r, seq);
        u->reread++;
    }
    return code;
}

static const struct levee_receiver_ops ops = {
    .version = 1, .start = up_start, .stop = up_stop, .durable = up_durable, .read = up_read};

levee_stream *upstream_source(levee_context *ctx, const char *uid, struct upstream *u)
{
    return levee_receiver_source(
        ctx, uid,
        &(struct levee_receiver_options){
            .partitions = 2, .reliable = true, .replayable = true, .positions = u->positions},
        &ops, u);
}

int upstream_push(struct upstream *u, uint64_t first, uint64_t n, struct levee_error *err)
{
    struct levee_record r[16];
    static char text[16][UPSTREAM_LINE];
    uint64_t ticket = 0;

    ASSERT(n <= ARRAY_LEN(r) && u->pending_count < UPSTREAM_PENDING);
    for (uint64_t i = 0; i < n; i++) {
        r[i] = record_of(u, first + i, text[i]);
    }
    for (uint32_t p = 0; p < 2; p++) {
        uint64_t from = p * n / 2, to = (p + 1) * n / 2;
        struct levee_append a = {.producer = levee_text(SENDER),
                                 .first_sequence = first + from,
                                 .partition = p,
                                 .records = r + from,
                                 .count = (size_t)(to - from)};
        int code = to > from ? levee_inlet_append(u->inlet, &a, &ticket, err) : LEVEE_OK;
        if (code) {
            return code;
        }
    }
    if (ticket <= u->durable_ticket) {
        u->durable = first + n - 1;
    } else {
        u->pending[u->pending_count].ticket = ticket;
        u->pending[u->pending_count++].last = first + n - 1;
    }
    return LEVEE_OK;
}

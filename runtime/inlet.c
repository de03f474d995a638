/*
 * The inlet: where receivers' records become blocks, and the only place that can tell a receiver
 * "durable".
 *
 * An append is checked against its producer's sequence, copied once into the producer's open block
 * and given a ticket. Tickets are generations: all blocks open at the moment the log is ready for
 * more (rt_inlet_gather) are sealed together and end the generation; it is durable when the last of
 * its frames is. Under load the log is busy and blocks grow; when it is idle a block leaves at
 * once. Invariants: I1  a source's waiting queue is in LSN order: sealing, wal_append and queueing
 * happen under its mutex. I2  ops->durable(ticket) is called only after every frame of generations
 * <= ticket is durable. I3  a numbered record is taken once: sequence <= taken is dropped, and
 * taken survives restarts (log + checkpoint).
 */
#include "runtime/context.h"

#define BLOCK_OVERHEAD 256u /* header, producer id and one record's lengths, generously */

/* ---- sealing ---- */

static void block_account(levee_context *ctx, const struct rt_block *b)
{
    uint64_t now =
        atomic_fetch_add(&ctx->buffered, b->payload.cap + sizeof *b) + b->payload.cap + sizeof *b;
    uint64_t max = atomic_load(&ctx->buffered_max);

    while (now > max && !atomic_compare_exchange_weak(&ctx->buffered_max, &max, now)) {
    }
}

/* On the log lane: one block is durable (or the log has failed, which the context hears by itself).
 */
static void block_done(struct wal_frame *frame, int code)
{
    struct rt_block *b = CONTAINER_OF(frame, struct rt_block, frame);
    struct levee_inlet *in = frame->owner;
    uint64_t tell = 0;

    if (code != LEVEE_OK) {
        return;
    }
    crash_at(in->ctx->io, CP_WAL_BEFORE_ACK);
    pthread_mutex_lock(&in->mutex);
    if (b->flags & RT_BLOCK_NUMBERED) {
        struct rt_producer *p = rt_producer_find(in, b->producer);
        if (p && (b->flags & RT_BLOCK_BYE)) {
            p->durable = 0;
        } else if (p && p->durable < b->last_seq) {
            p->durable = b->last_seq;
        }
    }
    in->durable_lsn = frame->lsn;
    while (in->closing_count && in->closing[0].lsn <= in->durable_lsn) {
        tell = in->durable_ticket = in->closing[0].ticket;
        memmove(in->closing, in->closing + 1, --in->closing_count * sizeof *in->closing);
    }
    pthread_mutex_unlock(&in->mutex);
    if (tell && in->ops->durable) {
        in->ops->durable(in->self, tell);
    }
}

/* Mutex held. The block leaves for the log; on failure it is freed and the context is failing. */
static int queue_block(struct levee_inlet *in, struct rt_block *b, struct levee_error *err)
{
    rt_block_seal(b);
    b->frame.stream = in->table;
    b->frame.done = block_done;
    b->frame.owner = in;
    b->ticket = in->ticket;
    if (in->options.positions && !(b->flags & (RT_BLOCK_BYE | RT_BLOCK_GAP)) &&
        !rt_block_seal_range(b, in->options.identity ? rt_block_last_hash(b) : 0)) {
        rt_block_free(b);
        return err_nomem(err, BLOCK_OVERHEAD);
    }
    crash_at(in->ctx->io, CP_BLOCK_BEFORE_APPEND);
    int code = wal_append(in->ctx->wal, &b->frame, err);
    if (code) {
        rt_block_free(b);
        return code;
    }
    crash_at(in->ctx->io, CP_BLOCK_AFTER_APPEND);
    block_account(in->ctx, b);
    b->lsn = b->frame.lsn;
    in->last_lsn = b->lsn;
    in->size_hint = b->payload.len;
    fifo_push(&in->waiting, &b->link);
    in->waiting_records += b->count;
    counter_add(&in->ctx->count.blocks, 1);
    return LEVEE_OK;
}

static int seal_open(struct levee_inlet *in, struct rt_block **open, struct levee_error *err)
{
    struct rt_block *b = *open;

    if (!b) {
        return LEVEE_OK;
    }
    *open = NULL;
    in->open_blocks--;
    return queue_block(in, b, err);
}

/* Mutex held: seals everything that is open and closes the generation. */
static int close_generation(struct levee_inlet *in, uint64_t *ret_tell, struct levee_error *err)
{
    *ret_tell = 0;
    if (!in->generation_used) {
        return LEVEE_OK;
    }
    if (!mem_grow((void **)&in->closing, &in->closing_cap, in->closing_count + 1,
                  sizeof *in->closing)) {
        return err_nomem(err, sizeof *in->closing);
    }
    for (size_t i = 0; i < in->producer_count && in->open_blocks; i++) {
        int code = seal_open(in, &in->producers[i]->open, err);
        if (code) {
            return code;
        }
    }
    for (size_t i = 0; i < in->options.partitions && in->open_blocks; i++) {
        int code = seal_open(in, &in->anonymous[i], err);
        if (code) {
            return code;
        }
    }
    ASSERT(in->open_blocks == 0);
    in->generation_used = false;
    if (in->last_lsn <= in->durable_lsn) {
        *ret_tell = in->durable_ticket = in->ticket;
    } else {
        in->closing[in->closing_count].ticket = in->ticket;
        in->closing[in->closing_count++].lsn = in->last_lsn;
    }
    in->ticket++;
    return LEVEE_OK;
}

void rt_inlet_gather(void *arg)
{
    levee_context *ctx = arg;
    uint64_t interval = (uint64_t)ctx->opt.block_interval_ms * 1000000u;
    bool queued = false;

    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        struct levee_inlet *in = &ctx->graph->sources[i]->source->inlet;
        struct levee_error err = {0};
        uint64_t tell = 0;
        int code = LEVEE_OK;

        atomic_store(&in->kicked, false);
        pthread_mutex_lock(&in->mutex);
        if (in->generation_used) {
            uint64_t now = interval ? ctx->io->ops->now_ns(ctx->io) : 0;
            if (!interval || !in->taking || in->ended || now >= in->open_since_ns + interval) {
                code = close_generation(in, &tell, &err);
                queued = true;
            } else if (!atomic_exchange(&in->kick_timed, true)) {
                ctx->io->ops->lane_post_at(ctx->loop, &in->kick_task, in->open_since_ns + interval);
            }
        }
        pthread_mutex_unlock(&in->mutex);
        if (code) {
            rt_fail(ctx, &err);
        }
        if (tell && in->ops->durable) {
            in->ops->durable(in->self, tell);
        }
    }
    if (queued) {
        rt_pump_soon(ctx);
    }
}

/* ---- append ---- */

static size_t record_bytes(const struct levee_record *r)
{
    return r->key.len + r->value.len + 40;
}

/* Drops what was taken already; *ret_skip is how many of the first records that is. */
static int check_sequence(struct levee_inlet *in, const struct levee_append *a,
                          const struct rt_producer *p, size_t *ret_skip, struct levee_error *err)
{
    uint64_t taken = p ? p->taken : 0;
    bool holes = in->options.holes;
    size_t skip = 0;

    if (p && a->connection && a->connection != p->connection) {
        err_set(err, LEVEE_EPRODUCER_STALE, "source %s: producer %.*s has a newer connection",
                in->node->uid, (int)a->producer.len, (const char *)a->producer.data);
        return LEVEE_EPRODUCER_STALE;
    }
    if (a->sequences) {
        while (skip < a->count && a->sequences[skip] <= taken) {
            skip++;
        }
        *ret_skip = skip;
        return LEVEE_OK;
    }
    if (a->first_sequence <= taken) {
        uint64_t n = taken - a->first_sequence + 1;
        skip = n < a->count ? (size_t)n : a->count;
    } else if (a->first_sequence > taken + 1 && !holes) {
        bool unknown = taken == 0;
        int code = unknown ? LEVEE_EPRODUCER_UNKNOWN : LEVEE_EDATA_MISSING;
        err_set(err, code, "source %s: producer %.*s %s", in->node->uid, (int)a->producer.len,
                (const char *)a->producer.data,
                unknown ? "is not known and does not begin at 1" : "left out a range");
        err_expected(err, "sequence %llu", (unsigned long long)taken + 1);
        err_found(err, "%llu: missing %llu to %llu", (unsigned long long)a->first_sequence,
                  (unsigned long long)taken + 1, (unsigned long long)a->first_sequence - 1);
        return code;
    }
    *ret_skip = skip;
    return LEVEE_OK;
}

static int check_sizes(struct levee_inlet *in, const struct levee_append *a, size_t skip,
                       size_t *ret_bytes, struct levee_error *err)
{
    size_t max = wal_payload_max(in->ctx->opt.segment_bytes) - BLOCK_OVERHEAD - a->producer.len;

    *ret_bytes = 0;
    for (size_t i = skip; i < a->count; i++) {
        size_t n = record_bytes(&a->records[i]);
        if (n > max) {
            err_set(err, LEVEE_ERECORD_TOO_LONG,
                    "source %s: a record does not fit into a log segment", in->node->uid);
            err_expected(err, "at most %zu bytes (segment_bytes %llu)", max,
                         (unsigned long long)in->ctx->opt.segment_bytes);
            err_found(err, "%zu", n);
            return LEVEE_ERECORD_TOO_LONG;
        }
        *ret_bytes += n;
    }
    return LEVEE_OK;
}

/* Room in the buffer and in the rate? FULL leaves a wish behind: ready is called. */
static int check_room(struct levee_inlet *in, size_t bytes, size_t records, struct levee_error *err)
{
    levee_context *ctx = in->ctx;
    uint64_t held = atomic_load(&ctx->buffered);

    if (held && held + bytes > ctx->opt.buffer_bytes) {
        in->want_ready = true;
        return err_set(err, LEVEE_EFULL, "source %s: %llu bytes wait to be processed",
                       in->node->uid, (unsigned long long)held);
    }
    uint64_t rate = ctx->opt.max_rate;
    if (rate) {
        uint64_t now = ctx->io->ops->now_ns(ctx->io);
        uint64_t burst = rate / 10 ? rate / 10 : 1;
        uint64_t fresh = (now - in->rate_refill_ns) / 1000 * rate / 1000000;
        if (fresh) {
            in->rate_refill_ns = now;
            in->rate_tokens += (int64_t)fresh;
            if (in->rate_tokens > (int64_t)burst) {
                in->rate_tokens = (int64_t)burst;
            }
        }
        if (in->rate_tokens <= 0) {
            if (!in->ready_timed) {
                in->ready_timed = true;
                ctx->io->ops->lane_post_at(ctx->loop, &in->ready_task, now + 10000000u);
            }
            return err_set(err, LEVEE_EFULL, "source %s: max_rate reached", in->node->uid);
        }
        in->rate_tokens -= (int64_t)records;
    }
    return LEVEE_OK;
}

/* Mutex held: one record into the open block, which is replaced when it is full or cannot hold it.
 */
static int take(struct levee_inlet *in, const struct levee_append *a, struct rt_block **open,
                const struct levee_record *r, uint64_t seq, struct levee_error *err)
{
    struct rt_block *b = *open;
    uint8_t need = (uint8_t)((r->key.data ? RT_BLOCK_KEYS : 0) | (r->time_ms ? RT_BLOCK_TIMES : 0) |
                             (seq ? RT_BLOCK_NUMBERED : 0));

    if (b && b->count && seq && seq != b->last_seq + 1) {
        need |= RT_BLOCK_HOLES;
    }
    if (b && ((need & ~b->flags) || b->partition != a->partition ||
              b->payload.len + record_bytes(r) > in->ctx->opt.block_bytes)) {
        need |= b->flags & (RT_BLOCK_HOLES | RT_BLOCK_KEYS | RT_BLOCK_TIMES);
        int code = seal_open(in, open, err);
        if (code) {
            return code;
        }
        b = NULL;
    }
    if (!b) {
        size_t hint = in->size_hint > record_bytes(r) ? in->size_hint : record_bytes(r);
        b = rt_block_new(in->ordinal, (uint16_t)a->partition, need, a->producer, hint);
        if (!b) {
            return err_nomem(err, hint);
        }
        if (!in->generation_used) {
            in->open_since_ns =
                in->ctx->opt.block_interval_ms ? in->ctx->io->ops->now_ns(in->ctx->io) : 0;
        }
        *open = b;
        in->open_blocks++;
        in->generation_used = true;
    }
    return rt_block_add(b, r, seq) ? LEVEE_OK : err_nomem(err, record_bytes(r));
}

static int append_locked(struct levee_inlet *in, const struct levee_append *a, uint64_t *ret_ticket,
                         struct levee_error *err)
{
    bool numbered = a->producer.len != 0;
    struct rt_producer *p = numbered ? rt_producer_find(in, a->producer) : NULL;
    size_t skip = 0, bytes = 0;
    int code = LEVEE_OK;

    if (!in->taking) {
        return err_set(err, LEVEE_ESTOPPED, "source %s takes nothing any more", in->node->uid);
    }
    if (a->partition >= in->options.partitions || (!numbered && in->options.positions) ||
        (numbered && !a->sequences && a->first_sequence == 0)) {
        err_set(err, LEVEE_EINVALID, "source %s: partition or sequence out of range",
                in->node->uid);
        err_found(err, "partition %u of %u, sequence %llu", a->partition, in->options.partitions,
                  (unsigned long long)a->first_sequence);
        return LEVEE_EINVALID;
    }
    if (numbered && (code = check_sequence(in, a, p, &skip, err)) != LEVEE_OK) {
        return code;
    }
    counter_add(&in->ctx->count.duplicate, skip);
    if (skip == a->count) {
        *ret_ticket = p ? p->ticket : in->durable_ticket;
        return LEVEE_OK;
    }
    if ((code = check_sizes(in, a, skip, &bytes, err)) ||
        (code = check_room(in, bytes, a->count - skip, err))) {
        return code;
    }
    if (numbered && (code = rt_producer_get(in, a->producer, &p, err)) != LEVEE_OK) {
        return code;
    }
    if (numbered) {
        p->taken_hash = 0; /* until all of it is taken */
    }
    struct rt_block **open = numbered ? &p->open : &in->anonymous[a->partition];
    for (size_t i = skip; i < a->count; i++) {
        uint64_t seq = !numbered ? 0 : a->sequences ? a->sequences[i] : a->first_sequence + i;
        code = take(in, a, open, &a->records[i], seq, err);
        if (code) {
            return code;
        }
        if (numbered) {
            p->taken = seq;
            p->ticket = in->ticket;
            p->gone = false;
        }
    }
    if (numbered && in->options.identity) {
        p->taken_hash = levee_record_hash(&a->records[a->count - 1]);
    }
    counter_add(&in->ctx->count.received, a->count - skip);
    counter_add(&in->ctx->count.bytes_received, bytes);
    *ret_ticket = in->ticket;
    return LEVEE_OK;
}

static void kick(struct levee_inlet *in)
{
    if (!atomic_exchange(&in->kicked, true)) {
        wal_kick(in->ctx->wal);
    }
}

int levee_inlet_append(levee_inlet *in, const struct levee_append *a, uint64_t *ret_ticket,
                       struct levee_error *err)
{
    int code = io_check_fork(in->ctx->io, err);

    if (code) {
        return code;
    }
    pthread_mutex_lock(&in->mutex);
    code = append_locked(in, a, ret_ticket, err);
    bool open = in->generation_used;
    pthread_mutex_unlock(&in->mutex);
    if (open) {
        kick(in);
    }
    return code;
}

int levee_inlet_hello(levee_inlet *in, struct levee_slice producer, uint64_t *ret_durable,
                      uint64_t *ret_connection, struct levee_error *err)
{
    struct rt_producer *p = NULL;
    int code;

    pthread_mutex_lock(&in->mutex);
    code = rt_producer_get(in, producer, &p, err);
    if (code == LEVEE_OK && p) {
        p->connection = ++in->next_connection;
        *ret_connection = p->connection;
        *ret_durable = p->durable;
    }
    pthread_mutex_unlock(&in->mutex);
    return code;
}

/* Mutex held: a block without records, behind everything of the producer. */
static int queue_mark(struct levee_inlet *in, struct rt_producer *p, uint8_t flag,
                      uint32_t partition, uint64_t first, uint64_t last, struct levee_error *err)
{
    struct rt_block *b = rt_block_new(in->ordinal, (uint16_t)partition,
                                      (uint8_t)(flag | RT_BLOCK_NUMBERED), p->id, 0);

    if (!b) {
        return err_nomem(err, sizeof *b);
    }
    in->generation_used = true;
    b->first_seq = first;
    b->last_seq = last;
    int code = seal_open(in, &p->open, err);
    if (code) {
        rt_block_free(b);
        return code;
    }
    return queue_block(in, b, err);
}

int levee_inlet_bye(levee_inlet *in, struct levee_slice producer, uint64_t connection,
                    uint64_t *ret_ticket, struct levee_error *err)
{
    int code = LEVEE_OK;

    pthread_mutex_lock(&in->mutex);
    struct rt_producer *p = rt_producer_find(in, producer);
    if (!in->taking) {
        code = err_set(err, LEVEE_ESTOPPED, "source %s takes nothing any more", in->node->uid);
    } else if (!p || p->gone) {
        *ret_ticket = in->durable_ticket;
    } else if (connection && connection != p->connection) {
        code = err_set(err, LEVEE_EPRODUCER_STALE, "source %s: bye from an older connection",
                       in->node->uid);
    } else {
        code = queue_mark(in, p, RT_BLOCK_BYE, 0, p->taken, p->taken, err);
        if (code == LEVEE_OK) {
            p->gone = true;
            p->taken = 0;
            *ret_ticket = in->ticket;
        }
    }
    pthread_mutex_unlock(&in->mutex);
    kick(in);
    return code;
}

int levee_inlet_gap(levee_inlet *in, struct levee_slice producer, uint32_t partition,
                    uint64_t first, uint64_t last, uint64_t *ret_ticket, struct levee_error *err)
{
    struct rt_producer *p = NULL;
    int code;

    pthread_mutex_lock(&in->mutex);
    code = rt_producer_get(in, producer, &p, err);
    if (code == LEVEE_OK && p &&
        (!in->options.holes || partition >= in->options.partitions || first <= p->taken ||
         last < first)) {
        err_set(err, LEVEE_EINVALID, "source %s: this is no gap behind what was taken",
                in->node->uid);
        err_expected(err, "a source with holes, and sequences above %llu",
                     (unsigned long long)p->taken);
        err_found(err, "%llu to %llu", (unsigned long long)first, (unsigned long long)last);
        code = LEVEE_EINVALID;
    }
    if (code == LEVEE_OK && p) {
        code = queue_mark(in, p, RT_BLOCK_GAP, partition, first, last, err);
    }
    if (code == LEVEE_OK && p) {
        p->taken = last;
        p->taken_hash = 0; /* of a record that nobody has seen */
        p->ticket = *ret_ticket = in->ticket;
        p->gone = false;
    }
    pthread_mutex_unlock(&in->mutex);
    kick(in);
    return code;
}

uint64_t levee_inlet_position(levee_inlet *in, struct levee_slice producer)
{
    pthread_mutex_lock(&in->mutex);
    struct rt_producer *p = rt_producer_find(in, producer);
    uint64_t taken = p ? p->taken : 0;
    pthread_mutex_unlock(&in->mutex);
    return taken;
}

uint64_t levee_inlet_last_hash(levee_inlet *in, struct levee_slice producer)
{
    pthread_mutex_lock(&in->mutex);
    struct rt_producer *p = rt_producer_find(in, producer);
    uint64_t hash = p ? p->taken_hash : 0;
    pthread_mutex_unlock(&in->mutex);
    return hash;
}

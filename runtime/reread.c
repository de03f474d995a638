/*
 * Positions mode: the log holds where a block's records are, and what they hash to; after a restart
 * their source reads them again.
 *
 * While a process lives its blocks are in memory, as any other, and this file does nothing. After a
 * restart they come back without records. Before a batch that needs them opens, a lane of the
 * source's own asks the source for the same range again; what comes must be, byte for byte, what
 * the log's hash was taken of: as many records, with the same sequences. A source that is away is
 * no answer and no error: the batch waits, receivers go on within the buffer.
 *
 * Invariants. P1  a batch opens only over blocks whose records are in memory and verified. P2 while
 * a source's lane is at work nothing is taken from its queue: the loop opens no batch meanwhile.
 */
#include "runtime/context.h"

#define BACKOFF_FIRST_MS 50u
#define BACKOFF_MAX_MS   5000u

/* ---- on the source's lane ---- */

struct filling {
    struct rt_block *block; /* new, of the same shape */
    uint64_t last;          /* sequence given so far */
    bool differs, no_memory;
};

/* What rt_block_add would leave out or could not say belongs to another block. */
static bool fits(const struct filling *f, const struct levee_record *r, uint64_t seq)
{
    const struct rt_block *b = f->block;
    uint8_t need = (uint8_t)((r->key.data ? RT_BLOCK_KEYS : 0) | (r->time_ms ? RT_BLOCK_TIMES : 0));

    if (b->count && seq != b->last_seq + 1) {
        need |= RT_BLOCK_HOLES;
    }
    return (need & ~b->flags) == 0 && seq > f->last;
}

static int fill(void *arg, const struct levee_record *r, uint64_t seq)
{
    struct filling *f = arg;

    if (!fits(f, r, seq)) {
        f->differs = true; /* the rest is not needed, but counts for nothing either */
        return LEVEE_ETOPIC_CHANGED;
    }
    f->last = seq;
    f->no_memory = !rt_block_add(f->block, r, seq);
    return f->no_memory ? LEVEE_ENOMEM : LEVEE_OK;
}

static int changed(const struct levee_inlet *in, const struct rt_block *b,
                   const struct rt_block *found, struct levee_error *err)
{
    err_set(err, LEVEE_ETOPIC_CHANGED, "source %s does not hold what was received from it",
            in->node->uid);
    err_where(err, "producer %.*s, sequences %llu to %llu, LSN %llu", (int)b->producer.len,
              (const char *)b->producer.data, (unsigned long long)b->first_seq,
              (unsigned long long)b->last_seq, (unsigned long long)b->lsn);
    err_expected(err, "%u records, hash %016llx", b->count, (unsigned long long)b->records_hash);
    err_found(err, "%u records, hash %016llx", found->count,
              (unsigned long long)rt_block_records_hash(found));
    return LEVEE_ETOPIC_CHANGED;
}

/* One block's records from the source, verified, into the block. */
static int reread(struct levee_inlet *in, struct rt_block *b, struct levee_error *err)
{
    struct filling f = {.block = rt_block_new(b->source, b->partition, b->flags, b->producer,
                                              (size_t)b->records_len)};
    struct levee_range range = {b->producer, b->partition, b->first_seq, b->last_seq, b->count};

    if (!f.block) {
        return err_nomem(err, (size_t)b->records_len);
    }
    int code = in->ops->read(in->self, in, &range, fill, &f, err);

    if (code == LEVEE_OK || f.differs) {
        const struct rt_block *n = f.block;
        bool same = !f.differs && n->count == b->count && n->last_seq == b->last_seq &&
                    n->first_seq == b->first_seq && rt_block_records_hash(n) == b->records_hash;
        code = same ? LEVEE_OK : changed(in, b, n, err);
    } else if (f.no_memory) {
        code = err_nomem(err, (size_t)b->records_len);
    }
    if (code == LEVEE_OK) {
        rt_block_seal(f.block);
        buf_release(&b->payload);
        b->payload = f.block->payload;
        b->producer = f.block->producer;
        b->records_offset = f.block->records_offset;
        b->last_time = f.block->last_time;
        b->last_offset = f.block->last_offset;
        f.block->payload = (struct buf){0};
        b->elsewhere = false;
    }
    rt_block_free(f.block);
    return code;
}

static void run_task(struct io_task *t)
{
    struct rt_reread *r = CONTAINER_OF(t, struct rt_reread, task);
    struct levee_inlet *in = r->inlet;

    r->code = LEVEE_OK;
    r->done = 0;
    err_clear(&r->err);
    while (r->done < r->count && r->code == LEVEE_OK && !atomic_load(&r->hurry)) {
        struct rt_block *b = r->blocks[r->done];
        size_t before = b->payload.cap;
        r->code = reread(in, b, &r->err);
        if (r->code == LEVEE_OK) {
            r->done++;
            (void)atomic_fetch_add(&in->ctx->buffered, b->payload.cap - before);
        }
    }
    in->ctx->io->ops->lane_post(in->ctx->loop, &r->reply);
}

/* ---- the loop's side ---- */

static void run_reply(struct io_task *t)
{
    struct rt_reread *r = CONTAINER_OF(t, struct rt_reread, reply);
    levee_context *ctx = r->inlet->ctx;
    bool ending = ctx->failed || ctx->stop_requested;

    r->busy = false;
    r->left -= r->done;
    if (r->done) {
        r->backoff_ms = 0;
        r->reported = false;
    }
    if (r->code && levee_error_class(r->code) == LEVEE_CLASS_RETRY && !ending) {
        rt_back_off(&r->backoff_ms, BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
        rt_say_waiting(ctx, r->inlet->node->uid, &r->reported, &r->err);
    } else if (r->code && !ending) {
        rt_fail(ctx, &r->err);
    }
    rt_pump(ctx);
}

/* The first blocks without records that the batch takes, up to what may be in memory. last: LSN of
 * the batch's last block; 0: none is named, whatever lies at the head is next. */
static int find_blocks(struct levee_inlet *in, uint64_t last, struct levee_error *err)
{
    struct rt_reread *r = &in->reread;
    uint64_t bytes = 0;
    int code = LEVEE_OK;

    r->count = 0;
    pthread_mutex_lock(&in->mutex);
    for (struct link *l = in->waiting.head; l && code == LEVEE_OK; l = l->next) {
        struct rt_block *b = CONTAINER_OF(l, struct rt_block, link);
        if (last ? b->lsn > last : !b->elsewhere || bytes > in->ctx->opt.buffer_bytes / 2) {
            break;
        }
        if (!b->elsewhere) {
            continue;
        }
        if (!mem_grow((void **)&r->blocks, &r->cap, r->count + 1, sizeof(struct rt_block *))) {
            code = err_nomem(err, r->count * sizeof(struct rt_block *));
            break;
        }
        r->blocks[r->count++] = b;
        bytes += b->records_len;
    }
    pthread_mutex_unlock(&in->mutex);
    return code;
}

bool rt_reread_needed(levee_context *ctx, const struct rt_logged_batch *next)
{
    struct levee_error err = {0};
    bool needed = false;

    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        struct levee_inlet *in = &ctx->graph->sources[i]->source->inlet;
        struct rt_reread *r = &in->reread;
        const struct rt_source_range *range = next ? rt_logged_range(next, in->table) : NULL;
        if (r->busy) {
            needed = true;
            continue;
        }
        if (!r->left || (next && !range)) {
            continue;
        }
        if (find_blocks(in, range ? range->last_lsn : 0, &err) != LEVEE_OK) {
            rt_fail(ctx, &err);
            return true;
        }
        if (r->count == 0) {
            continue;
        }
        needed = r->busy = true;
        if (r->backoff_ms) {
            ctx->io->ops->lane_post_at(r->lane, &r->task,
                                       ctx->io->ops->now_ns(ctx->io) +
                                           (uint64_t)r->backoff_ms * 1000000u);
        } else {
            ctx->io->ops->lane_post(r->lane, &r->task);
        }
    }
    return needed;
}

int rt_reread_open(levee_context *ctx, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < ctx->graph->source_count && code == LEVEE_OK; i++) {
        struct levee_inlet *in = &ctx->graph->sources[i]->source->inlet;
        in->reread.inlet = in;
        in->reread.task.run = run_task;
        in->reread.reply.run = run_reply;
        if (in->reread.left) {
            code = ctx->io->ops->lane_open(ctx->io, "reread", &in->reread.lane, err);
        }
    }
    return code;
}

bool rt_reread_idle(levee_context *ctx)
{
    bool ending = ctx->failed || ctx->stop_requested;

    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        struct rt_reread *r = &ctx->graph->sources[i]->source->inlet.reread;
        atomic_store(&r->hurry, ending);
        if (r->busy && !(r->backoff_ms && ending)) {
            return false; /* a timed retry is dropped with its lane */
        }
    }
    return true;
}

void rt_reread_close(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        struct rt_source *s = ctx->graph->sources[i]->source;
        struct rt_reread *r = s ? &s->inlet.reread : NULL;
        if (!r) {
            continue; /* it was never made: no memory */
        }
        if (r->lane) {
            ctx->io->ops->lane_close(r->lane);
            r->lane = NULL;
        }
        mem_free(r->blocks);
        r->blocks = NULL;
        r->count = r->cap = 0;
    }
}

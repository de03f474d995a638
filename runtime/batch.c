/*
 * One batch, from its blocks to "every sink has it".
 *
 *   computing ──▶ result sync ──▶ sinking ──▶ done
 *
 * computing    the engine runs it; the state moves on to "after exactly this batch".
 * result sync  BATCH_OPEN and BATCH_RESULT are in one chain of frames on their way to the disk (one
 * sync a batch, 4d.20). Nothing outside has seen the batch before, so an unlogged opening may be
 * opened differently after a crash. sinking      both are durable; sinks that lack the batch take
 * it. The next batch may compute meanwhile. done         every sink has it; a checkpoint of it may
 * be published; BATCH_DONE is a hint that rides with the next group.
 *
 * A replayed batch takes the blocks its logged BATCH_OPEN names; a durable BATCH_RESULT of the same
 * program is applied, not decided again (4d.5), and nothing is logged a second time.
 *
 * A record that a sink refuses later amends the result (letters.c): it is logged again, as a later
 * try, and that sink waits until it is durable.
 */
#include "runtime/context.h"

/* ---- opening ---- */

static bool same_program(levee_context *ctx, const char *program)
{
    return strcmp(ctx->program, program) == 0;
}

/* The payload of a block that recovery did not keep in memory. */
static int load_block(levee_context *ctx, struct rt_block *b, struct levee_error *err)
{
    size_t i = wal_facts_find(&ctx->facts.wal, b->lsn);

    ASSERT(i < ctx->facts.wal.entry_count && ctx->facts.wal.entries[i].lsn == b->lsn);
    int code = wal_read_entry(ctx->io, ctx->dir.wal, &ctx->facts.wal, &ctx->facts.wal.entries[i],
                              &b->payload, err);
    if (code == LEVEE_OK) {
        code = rt_block_parse(b, err);
        b->on_disk = false;
        (void)atomic_fetch_add(&ctx->buffered, b->payload.cap);
    }
    return code;
}

static int check_range(const struct rt_logged_batch *l, const struct rt_source_range *logged,
                       size_t blocks, uint64_t records, const char *uid, struct levee_error *err)
{
    uint64_t want = logged ? logged->blocks : 0, want_records = logged ? logged->records : 0;

    if (blocks == want && records == want_records) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_EWAL_GAP, "batch %llu: the log no longer holds all its blocks of source %s",
            (unsigned long long)l->header.id, uid);
    err_where(err, "LSN %llu to %llu", (unsigned long long)(logged ? logged->first_lsn : 0),
              (unsigned long long)(logged ? logged->last_lsn : 0));
    err_expected(err, "%llu blocks, %llu records", (unsigned long long)want,
                 (unsigned long long)want_records);
    err_found(err, "%zu blocks, %llu records", blocks, (unsigned long long)records);
    return LEVEE_EWAL_GAP;
}

/* Takes the input of every source; fills ranges and counts. */
static int take_input(struct rt_batch *b, struct fifo *all, size_t *per_source,
                      struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    struct rt_graph *g = ctx->graph;

    for (size_t i = 0; i < g->source_count; i++) {
        struct rt_source *s = g->sources[i]->source;
        const struct rt_source_range *logged =
            b->logged ? rt_logged_range(b->logged, s->inlet.table) : NULL;
        uint64_t last = !b->logged ? UINT64_MAX : logged ? logged->last_lsn : 0;
        struct fifo mine;
        struct rt_source_range r = {.table = s->inlet.table};

        fifo_init(&mine);
        per_source[i] = last ? rt_source_take(s, last, &mine) : 0;
        for (struct link *l = mine.head; l; l = l->next) {
            const struct rt_block *blk = CONTAINER_OF(l, struct rt_block, link);
            r.first_lsn = r.first_lsn ? r.first_lsn : blk->lsn;
            r.last_lsn = blk->lsn;
            r.records += blk->count;
        }
        r.blocks = per_source[i];
        fifo_take(all, &mine);
        b->records += r.records;
        if (r.blocks) {
            b->ranges[b->range_count++] = r;
        }
        int code =
            b->logged ? check_range(b->logged, logged, r.blocks, r.records, s->inlet.node->uid, err)
                      : LEVEE_OK;
        if (code) {
            return code;
        }
    }
    return LEVEE_OK;
}

static int collect_blocks(struct rt_batch *b, struct fifo *all, const size_t *per_source,
                          struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    size_t at = 0;
    int code = LEVEE_OK;

    b->blocks = mem_alloc((all->count + 1) * sizeof(struct rt_block *));
    if (!b->blocks) {
        return err_nomem(err, all->count * sizeof(struct rt_block *));
    }
    for (struct link *l; (l = fifo_pop(all)) != NULL;) {
        b->blocks[b->block_count++] = CONTAINER_OF(l, struct rt_block, link);
    }
    for (size_t i = 0; i < b->block_count && code == LEVEE_OK; i++) {
        if (b->blocks[i]->on_disk) {
            code = load_block(ctx, b->blocks[i], err);
        }
    }
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        b->inputs[i] = (struct rt_input){.blocks = b->blocks + at, .count = per_source[i]};
        at += per_source[i];
    }
    return code;
}

static void compute_done(struct rt_compute *c);

static struct rt_batch *batch_new(levee_context *ctx)
{
    struct rt_batch *b = mem_zalloc(sizeof *b);
    size_t sources = ctx->graph->source_count, sinks = ctx->graph->sink_count;

    if (!b) {
        return NULL;
    }
    b->ctx = ctx;
    b->inputs = mem_zalloc((sources + 1) * sizeof *b->inputs);
    b->ranges = mem_zalloc((sources + 1) * sizeof *b->ranges);
    b->sink_done = mem_zalloc(sinks + 1);
    b->watermarks = mem_zalloc((rt_engine_clock_count(ctx->engine) + 1) * sizeof *b->watermarks);
    if (!b->inputs || !b->ranges || !b->sink_done || !b->watermarks) {
        rt_batch_free(b);
        return NULL;
    }
    b->compute.inputs = b->inputs;
    b->compute.done = compute_done;
    return b;
}

void rt_batch_free(struct rt_batch *b)
{
    if (!b) {
        return;
    }
    if (b->compute.private_) {
        rt_compute_release(b->ctx->engine, &b->compute);
    }
    rt_blocks_release(b->ctx, b->blocks, b->block_count);
    rt_shared_unpin(b);
    rt_logged_free(b->logged);
    buf_release(&b->accumulated);
    buf_release(&b->open_bytes);
    buf_release(&b->result_bytes);
    mem_free(b->frames);
    mem_free(b->blocks);
    mem_free(b->inputs);
    mem_free(b->ranges);
    mem_free(b->watermarks);
    mem_free(b->sink_done);
    mem_free(b->refusals);
    arena_release(&b->letters);
    mem_free(b);
}

/* Read once, here; a replay takes what was logged, and reads only clocks that were not there. */
static void read_watermarks(struct rt_batch *b)
{
    const struct rt_engine *e = b->ctx->engine;
    const struct rt_logged_batch *l = b->logged;

    rt_engine_watermarks(e, b->header.time_ms, b->watermarks);
    for (size_t i = 0; l && i < rt_engine_clock_count(e); i++) {
        for (size_t k = 0; k < l->watermark_count; k++) {
            if (l->watermarks[k].table == rt_engine_clock_table(e, i)) {
                b->watermarks[i] = l->watermarks[k].at_ms;
            }
        }
    }
    b->compute.watermarks = b->watermarks;
}

int rt_batch_open(levee_context *ctx, struct rt_logged_batch *logged, int64_t time_ms,
                  uint32_t ticks, struct levee_error *err)
{
    struct rt_batch *b = batch_new(ctx);
    size_t *per_source = mem_zalloc((ctx->graph->source_count + 1) * sizeof *per_source);
    struct fifo all;
    int code = LEVEE_OK, collected;

    fifo_init(&all);
    if (!b || !per_source) {
        code = err_nomem(err, sizeof *b);
        rt_logged_free(logged);
        goto out;
    }
    crash_at(ctx->io, CP_BATCH_BEFORE_OPEN);
    b->logged = logged;
    b->header = (struct rt_header){ctx->last_batch + 1, time_ms, ticks, 0};
    if (logged) {
        b->header = logged->header;
    } else {
        b->header.seed = ctx->io->ops->random(ctx->io);
    }
    ASSERT(b->header.id == ctx->last_batch + 1);
    ASSERT(b->header.time_ms > ctx->last_time);
    code = take_input(b, &all, per_source, err);
    collected = collect_blocks(b, &all, per_source, code ? NULL : err);
    code = code ? code : collected;
    if (code) {
        goto out;
    }
    b->compute.header = b->header;
    if ((code = rt_shared_pin(b, err)) != LEVEE_OK) {
        goto out;
    }
    read_watermarks(b);
    if (logged && logged->has_result && same_program(ctx, logged->result_program)) {
        b->compute.apply = logged->decisions;
        b->compute.apply_count = logged->decision_count;
        b->compute.apply_only = true;
        b->try_ = logged->try_;
    }
    b->submitted_ns = b->started_ns = ctx->io->ops->now_ns(ctx->io);
    ctx->computing = b;
    rt_listen_batch(b, 0, NULL);
    rt_listen_batch(b, 1, NULL);
    crash_at(ctx->io, CP_BATCH_AFTER_OPEN);
    rt_engine_compute(ctx->engine, &b->compute);
    b = NULL;
out:
    for (struct link *l; (l = fifo_pop(&all)) != NULL;) {
        rt_block_free(CONTAINER_OF(l, struct rt_block, link));
    }
    mem_free(per_source);
    rt_batch_free(b);
    return code;
}

/* ---- computed ---- */

static int positions_move_on(struct rt_batch *b, struct levee_error *err)
{
    for (size_t i = 0; i < b->block_count; i++) {
        struct rt_source *s = b->ctx->graph->sources[b->blocks[i]->source]->source;
        int code = rt_source_applied(s, b->blocks[i], err);
        if (code) {
            return code;
        }
    }
    return LEVEE_OK;
}

static int log_try(struct rt_batch *b, bool with_open, struct levee_error *err);

static void run_durable(struct io_task *t)
{
    struct rt_batch *b = CONTAINER_OF(t, struct rt_batch, durable_task);
    struct levee_error err = {0};
    int code = LEVEE_OK;

    if (b->durable_code == LEVEE_OK) { /* else the log has failed and the context with it */
        crash_at(b->ctx->io, CP_BATCH_RESULT_DURABLE);
        b->durable_try = b->logging_try;
        if (b->stage == RT_RESULT_SYNC) {
            b->stage = RT_SINKING;
            rt_sinks_begin(b);
        }
        if (b->try_ > b->durable_try) { /* amended meanwhile */
            code = log_try(b, false, &err);
        }
    }
    if (code) {
        rt_fail(b->ctx, &err);
    }
    rt_pump(b->ctx);
}

static void result_durable(struct wal_frame *f, int code)
{
    struct rt_batch *b = f->owner;

    b->durable_code = code;
    b->ctx->io->ops->lane_post(b->ctx->loop, &b->durable_task);
}

static void nothing_done(struct wal_frame *f, int code)
{
    (void)f;
    (void)code;
}

/* BATCH_OPEN and BATCH_RESULT, the latter in as many frames as it takes, linked for one append. */
static int build_frames(struct rt_batch *b, bool with_open, struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    size_t max = wal_payload_max(ctx->opt.segment_bytes);
    uint64_t digest = ctx->opt.verify_state ? rt_engine_state_digest(ctx->engine) : 0;

    buf_clear(&b->open_bytes);
    buf_clear(&b->result_bytes);
    mem_free(b->frames);
    b->frames = NULL;
    rt_open_encode(b, ctx->program, &b->open_bytes);
    rt_result_encode(b, ctx->program, digest, &b->result_bytes);
    if (b->open_bytes.failed || b->result_bytes.failed || b->open_bytes.len > max) {
        return err_nomem(err, b->open_bytes.len + b->result_bytes.len);
    }
    size_t parts = (b->result_bytes.len + max - 1) / max;
    b->frame_count = parts + with_open;
    b->frames = mem_zalloc(b->frame_count * sizeof *b->frames);
    if (!b->frames) {
        return err_nomem(err, b->frame_count * sizeof *b->frames);
    }
    for (size_t i = 0, at = 0; i < b->frame_count; i++) {
        struct wal_frame *f = &b->frames[i];
        bool open = with_open && i == 0;
        size_t left = b->result_bytes.len - at, n = left < max ? left : max;

        f->type = open ? WAL_BATCH_OPEN : WAL_BATCH_RESULT;
        f->seq = b->header.id;
        f->payload[0] = open ? buf_view(&b->open_bytes) : slice_of(b->result_bytes.data + at, n);
        at += open ? 0 : n;
        f->flags = !open && at < b->result_bytes.len ? RT_FRAME_MORE : 0;
        f->owner = b;
        f->done = i + 1 == b->frame_count ? result_durable : nothing_done;
        f->link.next = i + 1 == b->frame_count ? NULL : &b->frames[i + 1].link;
    }
    return LEVEE_OK;
}

/* The newest try goes into the log; one at a time. */
static int log_try(struct rt_batch *b, bool with_open, struct levee_error *err)
{
    int code = build_frames(b, with_open, err);

    if (code == LEVEE_OK) {
        b->logging_try = b->try_;
        code = rt_append(b->ctx, &b->frames[0], err);
        crash_at(b->ctx->io, CP_BATCH_AFTER_RESULT);
    }
    return code;
}

int rt_batch_amend(struct rt_batch *b, struct levee_error *err)
{
    bool in_flight = b->logging_try > b->durable_try;

    b->try_++;
    return in_flight ? LEVEE_OK : log_try(b, false, err);
}

static int log_result(struct rt_batch *b, struct levee_error *err)
{
    b->durable_task.run = run_durable;
    b->logging_try = b->durable_try = b->try_; /* a replay's: from the log */
    if (b->logged && b->logged->has_result && b->compute.apply_only) {
        b->stage = RT_SINKING; /* both frames are in the log, and durable since recovery */
        rt_sinks_begin(b);
        return LEVEE_OK;
    }
    b->try_++;
    b->stage = RT_RESULT_SYNC;
    return log_try(b, !b->logged, err);
}

static int computed(struct rt_batch *b, struct levee_error *err)
{
    levee_context *ctx = b->ctx;
    int code;

    b->computed_ns = ctx->io->ops->now_ns(ctx->io);
    if ((code = positions_move_on(b, err)) || (code = rt_letters_computed(b, err)) ||
        (code = rt_accumulators_computed(b, err))) {
        return code;
    }
    ctx->last_batch = b->header.id;
    ctx->last_time = b->header.time_ms;
    counter_add(&ctx->count.processed, b->records);
    counter_add(&ctx->count.batches, 1);
    if (b->logged) {
        counter_add(&ctx->count.replayed, 1);
        if ((code = rt_replay_check(b, err)) != LEVEE_OK) {
            return code;
        }
        if (!ctx->logged.head) {
            crash_at(ctx->io, CP_REC_AFTER_REPLAY);
        }
    }
    ctx->committing_bytes += b->compute.bytes;
    fifo_push(&ctx->committing, &b->link);
    b->queued = true;
    if (rt_ckpt_due(ctx) && (code = rt_ckpt_gather(ctx, err)) != LEVEE_OK) {
        return code;
    }
    return log_result(b, err);
}

static void compute_done(struct rt_compute *c)
{
    struct rt_batch *b = CONTAINER_OF(c, struct rt_batch, compute);
    levee_context *ctx = b->ctx;
    struct levee_error err = c->err;
    int code = c->code;

    crash_at(ctx->io, CP_BATCH_AFTER_COMPUTE);
    ASSERT(ctx->computing == b);
    ctx->computing = NULL;
    if (code == LEVEE_OK) {
        code = computed(b, &err);
        if (code == LEVEE_OK) {
            rt_pump(ctx);
            return;
        }
    }
    rt_listen_batch(b, 3, &err);
    err_context(&err, "batch %llu", (unsigned long long)b->header.id);
    if (!b->queued) {
        rt_batch_free(b); /* the queue frees the others */
    }
    rt_fail(ctx, &err);
    rt_pump(ctx);
}

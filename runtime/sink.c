/*
 * Sinks at run time. Each sink has a lane of its own (foreach_batch: the driver), takes batches in
 * order, one at a time, and is asked for its token before anything is written. A retriable error
 * waits with back-off and holds nobody else up; an unclear answer is settled by reading the token
 * back, never by guessing.
 *
 *   look ──▶ judged ──▶ settle ──▶ judged again, note durable ──▶ batch* ──▶ …
 *                          ▲                                        │
 *                          └────────── unclear commit ◀─────────────┘
 *
 * Invariants. S1  nothing is written to a sink before its token was judged (4d.6). S2  begin(b)
 * only when BATCH_RESULT of b is durable (4d.5), and after b - 1 was committed there. S3  a sink
 * whose output of b is empty is not called for b (4d.8). S4  what a sink wants remembered of its
 * place is durable before its first begin of a life, so that a token which vanishes later is not
 * mistaken for one that never was.
 */
#include "runtime/context.h"
#include "runtime/dataset.h"

#define SINK_BACKOFF_FIRST_MS 50u
#define SINK_BACKOFF_MAX_MS   5000u
#define SINK_HELD_UP_NS       1000000000u /* a call that takes longer waits for something */

/* ---- the job, on the sink's lane ---- */

static int write_batch(struct rt_sink *s, const struct levee_token *token,
                       const struct rt_dataset *data, bool *ret_unclear, struct levee_error *err)
{
    struct io *io = s->ctx->io;

    crash_at(io, CP_SINK_BEFORE_BEGIN);
    int code = s->ops->begin ? s->ops->begin(s->self, token, err) : LEVEE_OK;
    crash_at(io, CP_SINK_AFTER_BEGIN);
    for (uint32_t p = 0; p < data->partitions && code == LEVEE_OK; p++) {
        if (data->parts[p].count) {
            code = s->ops->write(s->self, p, data->parts[p].items, data->parts[p].count, err);
        }
    }
    crash_at(io, CP_SINK_AFTER_WRITE);
    if (code == LEVEE_OK) {
        crash_at(io, CP_SINK_BEFORE_COMMIT);
        code = s->ops->commit ? s->ops->commit(s->self, err) : LEVEE_OK;
        crash_at(io, CP_SINK_AFTER_COMMIT);
        *ret_unclear = code != LEVEE_OK; /* only a commit's failure is */
    }
    if (code && s->ops->abort) {
        s->ops->abort(s->self);
    }
    return code;
}

/* What the sink wants remembered, into fresh_note. */
static int take_note(struct rt_sink *s, struct levee_error *err)
{
    buf_clear(&s->fresh_note);
    if (!s->ops->note) {
        return LEVEE_OK;
    }
    uint8_t *bytes = mem_alloc(LEVEE_SINK_NOTE_MAX);
    if (!bytes) {
        return err_nomem(err, LEVEE_SINK_NOTE_MAX);
    }
    size_t n = s->ops->note(s->self, bytes, LEVEE_SINK_NOTE_MAX);
    ASSERT(n <= LEVEE_SINK_NOTE_MAX);
    buf_put(&s->fresh_note, bytes, n);
    mem_free(bytes);
    return s->fresh_note.failed ? err_nomem(err, n) : LEVEE_OK;
}

/* Which records the sink will not take. The code stays what it is, or is NOMEM. */
static int take_refusals(struct rt_sink *s, struct levee_error *err)
{
    size_t n = s->ops->refused(s->self, NULL, 0);
    void *list = s->refusals;

    if (!mem_grow(&list, &s->refusal_cap, n + 1, sizeof *s->refusals)) {
        return err_nomem(err, n * sizeof *s->refusals);
    }
    s->refusals = list;
    s->refusal_count = s->ops->refused(s->self, s->refusals, n);
    ASSERT(s->refusal_count == n);
    return LEVEE_ESINK_REFUSED;
}

static int run_batch(struct rt_sink *s, struct levee_error *err)
{
    struct rt_batch *b = s->batch;
    struct levee_token token;
    const struct rt_dataset *data = &b->compute.outputs[s->ordinal];
    bool unclear = false;

    rt_sink_token(s, b, &token);
    if (!s->ops) {
        struct levee_batch view = {.data = data};
        crash_at(s->ctx->io, CP_SINK_BEFORE_COMMIT);
        int code = s->foreach (&view, &token, s->foreach_arg, err);
        crash_at(s->ctx->io, CP_SINK_AFTER_COMMIT);
        return code;
    }
    int code = write_batch(s, &token, data, &unclear, err);
    /* A place that several processes reach is asked who owns it before anything is begun there
     * again, also when nothing was committed: whatever failed may have failed because of them. */
    if ((unclear && s->ops->last_token) || (code && s->ops->settle)) {
        s->settled = false;
    }
    if (code == LEVEE_ESINK_REFUSED && s->ops->refused) {
        return take_refusals(s, err);
    }
    if (code == LEVEE_OK && (code = take_note(s, err)) != LEVEE_OK) {
        s->settled = false; /* it is committed: the token will say so */
    }
    return code;
}

static int run_settle(struct rt_sink *s, struct levee_error *err)
{
    struct levee_token now;
    int code = LEVEE_OK;

    rt_sink_token(s, NULL, &now);
    if (s->token_state == LEVEE_TOKEN_FOUND) {
        now.batch = s->token.batch;
        now.time_ms = s->token.time_ms;
        now.digest = s->token.digest;
        now.records = s->token.records;
    }
    if (s->ops->settle) {
        code = s->ops->settle(s->self, &now, err);
    }
    if (code == LEVEE_OK && s->ops->last_token) {
        code = s->ops->last_token(s->self, &s->token_state, &s->token, err);
    }
    return code ? code : take_note(s, err);
}

static void run_task(struct io_task *t)
{
    struct rt_sink *s = CONTAINER_OF(t, struct rt_sink, task);
    struct io *io = s->ctx->io;

    err_clear(&s->err);
    switch (s->job) {
    case RT_SINK_LOOK:
        s->code = rt_sink_look(s, &s->err);
        if (s->code == LEVEE_OK) {
            s->code = rt_sink_search(s, &s->err);
        }
        break;
    case RT_SINK_SETTLE:
        s->code = run_settle(s, &s->err);
        break;
    case RT_SINK_REFRESH:
        s->code = s->ops->refresh(s->self, &s->err);
        if (s->code) {
            s->settled = false; /* whatever it was, it is settled before the next batch */
        }
        break;
    case RT_SINK_BATCH:
    default:
        s->code = run_batch(s, &s->err);
        break;
    }
    if (s->code && s->err.code == 0) { /* a user's code without text */
        int code = s->code;
        s->code = err_set(&s->err, LEVEE_ESINK_FAILED, "sink %s failed", s->node->uid);
        err_found(&s->err, "its code %d", code);
    }
    io->ops->lane_post(s->ctx->loop, &s->reply);
}

/* ---- the loop's side ---- */

static void try_later(struct rt_sink *s)
{
    levee_context *ctx = s->ctx;

    rt_back_off(&s->backoff_ms, SINK_BACKOFF_FIRST_MS, SINK_BACKOFF_MAX_MS);
    rt_say_waiting(ctx, s->node->uid, &s->waiting_reported, &s->err);
    s->retry_at_ns = ctx->io->ops->now_ns(ctx->io) + (uint64_t)s->backoff_ms * 1000000u;
}

static void sink_done(struct rt_sink *s)
{
    struct rt_batch *b = s->batch;

    s->confirmed = b->header.id;
    ASSERT(b->sinks_left > 0 && !b->sink_done[s->ordinal]);
    b->sink_done[s->ordinal] = true;
    b->sinks_left--;
}

/* ---- the note: durable before the first begin (S4) ---- */

static void run_note_durable(struct io_task *t)
{
    struct rt_sink *s = CONTAINER_OF(t, struct rt_sink, note_task);

    s->busy = false;
    if (s->note_code == LEVEE_OK) { /* else the log has failed and the context with it */
        crash_at(s->ctx->io, CP_SINK_NOTE_DURABLE);
        s->settled = true;
    }
    rt_pump(s->ctx);
}

static void note_durable(struct wal_frame *f, int code)
{
    struct rt_sink *s = f->owner;

    s->note_code = code;
    mem_free(f);
    s->ctx->io->ops->lane_post(s->ctx->loop, &s->note_task);
}

static int keep_note(struct rt_sink *s, struct levee_error *err)
{
    if (s->fresh_note.len == 0) {
        return LEVEE_OK;
    }
    return rt_sink_restore_note(s, buf_view(&s->fresh_note), err);
}

/* After settle: judged again, for an earlier life's commit may have gone through meanwhile. */
static int settled(struct rt_sink *s, struct levee_error *err)
{
    bool changed = s->fresh_note.len && !slice_eq(buf_view(&s->fresh_note), buf_view(&s->note));
    int code = rt_sink_judge(s, err);

    if (code == LEVEE_OK) {
        code = keep_note(s, err);
    }
    if (code || !changed) {
        s->settled = code == LEVEE_OK;
        return code;
    }
    struct wal_frame *f = rt_frame_new(WAL_SINK_NOTE, s->table, 0, buf_view(&s->note));
    if (!f) {
        return err_nomem(err, s->note.len);
    }
    f->owner = s;
    f->done = note_durable;
    s->busy = true;
    s->busy_since_ns = s->ctx->io->ops->now_ns(s->ctx->io);
    code = rt_append(s->ctx, f, err);
    if (code) {
        s->busy = false;
        mem_free(f);
    }
    return code;
}

/* What the job that has just ended means. */
static int finish_job(struct rt_sink *s)
{
    int code = LEVEE_OK;

    switch (s->job) {
    case RT_SINK_LOOK:
        code = rt_sink_judge(s, &s->err);
        if (code == LEVEE_OK && !s->judged) {
            code = err_set(&s->err, LEVEE_ETIMEOUT, "sink %s cannot be reached", s->node->uid);
        }
        break;
    case RT_SINK_SETTLE:
        code = settled(s, &s->err);
        break;
    case RT_SINK_BATCH:
        code = keep_note(s, &s->err);
        sink_done(s);
        break;
    case RT_SINK_REFRESH:
    default:
        break;
    }
    if (code == LEVEE_OK) {
        s->backoff_ms = 0;
        s->waiting_reported = false;
    }
    return code;
}

static void run_reply(struct io_task *t)
{
    struct rt_sink *s = CONTAINER_OF(t, struct rt_sink, reply);
    levee_context *ctx = s->ctx;

    s->busy = false;
    s->used_ns = ctx->io->ops->now_ns(ctx->io);
    if (s->code == LEVEE_OK) {
        s->code = finish_job(s);
    } else if (s->code == LEVEE_ESINK_REFUSED && s->job == RT_SINK_BATCH && s->ops &&
               s->ops->refused) {
        s->code = rt_letters_refused(s, &s->err);
        s->refused_batch = s->batch->header.id;
        s->refused_try = s->batch->try_;
    }
    s->batch = NULL; /* whose turn it is, is looked up anew: it may turn out to be there already */
    bool ending = ctx->failed || ctx->stop_requested;
    if (s->code && levee_error_class(s->code) == LEVEE_CLASS_RETRY && !ending) {
        try_later(s);
    } else if (s->code && !ending) {
        err_context(&s->err, "sink %s", s->node->uid);
        rt_fail(ctx, &s->err);
    }
    rt_pump(ctx);
}

static void run_refresh(struct io_task *t)
{
    struct rt_sink *s = CONTAINER_OF(t, struct rt_sink, refresh_task);
    levee_context *ctx = s->ctx;
    uint64_t now = ctx->io->ops->now_ns(ctx->io), every = (uint64_t)s->ops->refresh_ms * 1000000u;

    if (!s->busy && s->settled && now >= s->used_ns + every && !ctx->stop_requested &&
        !ctx->failed) {
        s->job = RT_SINK_REFRESH;
        s->busy = true;
        s->busy_since_ns = now;
        ctx->io->ops->lane_post(s->lane, &s->task);
    }
    ctx->io->ops->lane_post_at(ctx->loop, &s->refresh_task, now + every);
}

void rt_sinks_start(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s->ops && s->ops->refresh && s->ops->refresh_ms) {
            s->refresh_task.run = run_refresh;
            ctx->io->ops->lane_post_at(ctx->loop, &s->refresh_task,
                                       ctx->io->ops->now_ns(ctx->io) +
                                           (uint64_t)s->ops->refresh_ms * 1000000u);
        }
    }
}

void rt_sinks_begin(struct rt_batch *b)
{
    struct rt_graph *g = b->ctx->graph;

    b->sinks_left = 0;
    for (size_t i = 0; i < g->sink_count; i++) {
        const struct rt_sink *s = g->sinks[i]->sink;
        b->sink_done[i] =
            b->compute.output_records[i] == 0 || (s->judged && b->header.id <= s->skip_to);
        b->sinks_left += !b->sink_done[i];
    }
}

/* A refusal is durable before the batch is offered again (4d.5), and a batch's letters are complete
 * when every other sink has it. */
static bool may_begin(const struct rt_batch *b, const struct rt_sink *s)
{
    const struct rt_graph *g = b->ctx->graph;
    size_t others = 0;

    for (size_t i = 0; i < g->sink_count && rt_takes_letters(s); i++) {
        others += !b->sink_done[i] && !rt_takes_letters(g->sinks[i]->sink);
    }
    return others == 0 && (b->header.id != s->refused_batch || b->durable_try >= s->refused_try);
}

/* The oldest batch this sink lacks, if its turn has come. */
static struct rt_batch *next_batch(levee_context *ctx, struct rt_sink *s)
{
    for (struct link *l = ctx->committing.head; l; l = l->next) {
        struct rt_batch *b = CONTAINER_OF(l, struct rt_batch, link);
        if (b->stage != RT_SINKING) {
            return NULL;
        }
        if (s->judged && !b->sink_done[s->ordinal] && b->header.id <= s->skip_to) {
            b->sink_done[s->ordinal] = true; /* judged only now, and it has this batch */
            b->sinks_left--;
        }
        if (!b->sink_done[s->ordinal]) {
            return may_begin(b, s) ? b : NULL;
        }
    }
    return NULL;
}

/* What an idle sink has to do now; false: nothing. */
static bool next_job(levee_context *ctx, struct rt_sink *s)
{
    s->batch = NULL;
    if (!s->judged) {
        s->job = RT_SINK_LOOK;
    } else if (!s->settled) {
        s->job = RT_SINK_SETTLE;
    } else if ((s->batch = next_batch(ctx, s)) != NULL) {
        s->job = RT_SINK_BATCH;
    } else {
        return false;
    }
    return true;
}

/* It waits for what is down: between two tries, or in a call that does not come back. */
static bool is_held_up(const struct rt_sink *s, uint64_t now)
{
    return s->backoff_ms || (s->busy && now > s->busy_since_ns + SINK_HELD_UP_NS);
}

/* A batch is lacked while it is on its way into the log, too. A sink of letters whose turn has not
 * come lacks nothing: those that it waits for do. */
static bool is_lacked(levee_context *ctx, const struct rt_batch *b, uint64_t now)
{
    bool lacked = b->stage != RT_SINKING;

    for (size_t i = 0; i < ctx->graph->sink_count && !lacked; i++) {
        const struct rt_sink *s = ctx->graph->sinks[i]->sink;
        lacked = !b->sink_done[i] && !is_held_up(s, now) && may_begin(b, s);
    }
    return lacked;
}

size_t rt_sinks_lack(levee_context *ctx)
{
    uint64_t now = ctx->io->ops->now_ns(ctx->io);
    bool any_at_work = false;
    size_t n = 0;

    for (size_t i = 0; i < ctx->graph->sink_count && !any_at_work; i++) {
        const struct rt_sink *s = ctx->graph->sinks[i]->sink;
        any_at_work = !is_held_up(s, now) && !rt_takes_letters(s);
    }
    if (!any_at_work) {
        return ctx->committing.count;
    }
    for (struct link *l = ctx->committing.head; l; l = l->next) {
        n += is_lacked(ctx, CONTAINER_OF(l, struct rt_batch, link), now);
    }
    return n;
}

void rt_sinks_next(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s->busy || !next_job(ctx, s)) {
            continue;
        }
        s->busy = true;
        s->busy_since_ns = ctx->io->ops->now_ns(ctx->io);
        if (s->backoff_ms) {
            ctx->io->ops->lane_post_at(s->lane, &s->task, s->retry_at_ns);
        } else {
            ctx->io->ops->lane_post(s->lane, &s->task);
        }
    }
}

bool rt_sinks_idle(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s->busy && !(s->backoff_ms && (ctx->failed || ctx->stop_requested))) {
            return false; /* a timed retry is dropped with its lane */
        }
    }
    return true;
}

/* ---- building ---- */

struct rt_sink *rt_sink_new(levee_context *ctx, levee_stream *node)
{
    struct rt_sink *s = mem_zalloc(sizeof *s);

    if (s) {
        s->ctx = ctx;
        s->node = node;
        s->ordinal = node->ordinal;
        s->table = node->table;
        s->task.run = run_task;
        s->reply.run = run_reply;
        s->note_task.run = run_note_durable;
    }
    return s;
}

void rt_sink_free(struct rt_sink *s)
{
    if (!s) {
        return;
    }
    if (s->is_open && s->ops && s->ops->close) {
        s->ops->close(s->self);
    }
    if (s->ops && s->ops->destroy) {
        s->ops->destroy(s->self);
    }
    buf_release(&s->note);
    buf_release(&s->fresh_note);
    mem_free(s->refusals);
    mem_free(s);
}

static struct rt_sink *add_sink(levee_stream *s, const char *name, const char *uid,
                                const char *file, int line)
{
    if (!s) {
        return NULL; /* the context remembers why */
    }
    levee_stream *node = rt_graph_add(s->graph, RT_SINK, name, uid, true, &s, 1, file, line);
    if (!node) {
        return NULL;
    }
    node->sink = rt_sink_new(s->graph->ctx, node);
    if (!node->sink) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "sink %s", uid);
    }
    return node->sink;
}

int levee_sink_at(levee_stream *s, const char *uid, const struct levee_sink_ops *ops, void *self,
                  const char *file, int line)
{
    if (s && (!ops || ops->version != 1 || !ops->write)) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                            "sink %s: its ops need version 1 and write", uid ? uid : "(no uid)");
        return LEVEE_EINVALID;
    }
    struct rt_sink *sink = add_sink(s, "sink", uid, file, line);
    if (!sink) {
        return s ? s->graph->error.code : LEVEE_EINVALID;
    }
    sink->ops = ops;
    sink->self = self;
    return LEVEE_OK;
}

int levee_foreach_batch_at(levee_stream *s, const char *uid, levee_foreach_fn fn, void *arg,
                           const char *file, int line)
{
    if (s && !fn) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "foreach_batch %s: no function",
                            uid ? uid : "(no uid)");
        return LEVEE_EINVALID;
    }
    struct rt_sink *sink = add_sink(s, "foreach_batch", uid, file, line);
    if (!sink) {
        return s ? s->graph->error.code : LEVEE_EINVALID;
    }
    sink->foreach = fn;
    sink->foreach_arg = arg;
    return LEVEE_OK;
}

/*
 * Sinks at run time. Each sink has a lane of its own (foreach_batch: the driver), takes batches in
 * order, one at a time, and is asked for its token before anything is written. A retriable error
 * waits with back-off and holds nobody else up; an unclear answer is settled by reading the token
 * back, never by guessing. Invariants: S1  nothing is written to a sink before its token was judged
 * (4d.6). S2  begin(b) only when BATCH_RESULT of b is durable (4d.5), and after b - 1 was committed
 * there. S3  a sink whose output of b is empty is not called for b (4d.8).
 */
#include "runtime/context.h"
#include "runtime/dataset.h"

#define SINK_BACKOFF_FIRST_MS 50u
#define SINK_BACKOFF_MAX_MS   5000u

static void fill_token(const struct rt_sink *s, const struct rt_batch *b, struct levee_token *ret)
{
    *ret = (struct levee_token){.epoch = s->ctx->wal ? wal_epoch(s->ctx->wal) : 0};
    (void)uuid_format(&s->ctx->dir.context, ret->context);
    memcpy(ret->uid, s->node->uid, sizeof ret->uid);
    if (b) {
        ret->batch = b->header.id;
        ret->time_ms = b->header.time_ms;
        ret->digest = b->compute.digests[s->ordinal];
    }
}

int rt_sink_look(struct rt_sink *s, struct levee_error *err)
{
    struct levee_token identity;
    int code = LEVEE_OK;

    s->reachable = true;
    s->token_state = LEVEE_TOKEN_NEVER;
    if (!s->ops) {
        return LEVEE_OK; /* foreach_batch keeps no token of ours */
    }
    fill_token(s, NULL, &identity);
    if (!s->is_open && s->ops->open) {
        code = s->ops->open(s->self, &identity, err);
    }
    if (code == LEVEE_OK) {
        s->is_open = true;
        if (s->ops->last_token) {
            code = s->ops->last_token(s->self, &s->token_state, &s->token, err);
        }
    }
    if (code && levee_error_class(code) == LEVEE_CLASS_RETRY && code != LEVEE_ENOMEM) {
        s->reachable = false;
        return LEVEE_OK;
    }
    return code;
}

int rt_sink_judge(struct rt_sink *s, struct levee_error *err)
{
    static const enum rec_token states[] = {
        [LEVEE_TOKEN_NEVER] = REC_TOKEN_NEVER,
        [LEVEE_TOKEN_FOUND] = REC_TOKEN_FOUND,
        [LEVEE_TOKEN_LOST] = REC_TOKEN_LOST,
        [LEVEE_TOKEN_FOREIGN] = REC_TOKEN_FOREIGN,
    };
    struct rec_sink_fact f = {
        .uid = s->node->uid,
        .state = s->reachable ? states[s->token_state] : REC_TOKEN_UNREACHABLE,
        .keeps_tokens = s->ops && s->ops->last_token && s->ops->kind != LEVEE_SINK_AT_LEAST_ONCE,
        .added = s->added,
        .token_batch = s->token.batch,
        .token_epoch = s->token.epoch,
        .confirmed = s->confirmed,
        .newest_open = s->ctx->newest_open_at_start,
        .epoch_max = s->ctx->facts.wal.epoch_max,
    };
    struct rec_sink_verdict v = rec_judge_sink(&f);

    if (v.code) {
        return rec_sink_error(&f, &v, err);
    }
    if (v.which != REC_SINK_WAIT) {
        s->judged = true;
        s->skip_to = v.skip_to > s->start_batch ? v.skip_to : s->start_batch;
        if (s->token_state == LEVEE_TOKEN_FOUND && s->confirmed < s->token.batch) {
            s->confirmed = s->token.batch;
        }
    }
    return LEVEE_OK;
}

bool rt_sinks_judged(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        if (!ctx->graph->sinks[i]->sink->judged) {
            return false;
        }
    }
    return true;
}

/* ---- the job, on the sink's lane ---- */

static int write_batch(struct rt_sink *s, const struct levee_token *token,
                       const struct rt_dataset *data, struct levee_error *err)
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
        s->reread = code != LEVEE_OK; /* only a commit's failure is unclear */
    }
    if (code && s->ops->abort) {
        s->ops->abort(s->self);
    }
    return code;
}

static int run_batch(struct rt_sink *s, struct levee_error *err)
{
    struct rt_batch *b = s->batch;
    struct levee_token token;
    const struct rt_dataset *data = &b->compute.outputs[s->ordinal];

    fill_token(s, b, &token);
    if (!s->ops) {
        struct levee_batch view = {.data = data};
        crash_at(s->ctx->io, CP_SINK_BEFORE_COMMIT);
        int code = s->foreach (&view, &token, s->foreach_arg, err);
        crash_at(s->ctx->io, CP_SINK_AFTER_COMMIT);
        return code;
    }
    if (s->reread && s->ops->last_token) {
        int code = s->ops->last_token(s->self, &s->token_state, &s->token, err);
        if (code) {
            return code;
        }
        if (s->token_state == LEVEE_TOKEN_FOUND && s->token.batch >= b->header.id) {
            return LEVEE_OK; /* the unclear commit had gone through */
        }
        s->reread = false;
    }
    return write_batch(s, &token, data, err);
}

static void run_task(struct io_task *t)
{
    struct rt_sink *s = CONTAINER_OF(t, struct rt_sink, task);
    struct io *io = s->ctx->io;

    err_clear(&s->err);
    s->code = s->judged ? run_batch(s, &s->err) : rt_sink_look(s, &s->err);
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
    char line[1024];

    s->backoff_ms = s->backoff_ms ? s->backoff_ms * 2 : SINK_BACKOFF_FIRST_MS;
    if (s->backoff_ms > SINK_BACKOFF_MAX_MS) {
        s->backoff_ms = SINK_BACKOFF_MAX_MS;
    }
    if (!s->waiting_reported) {
        s->waiting_reported = true;
        rt_say(ctx, 1, "waiting for %s: %s", s->node->uid,
               levee_error_format(&s->err, line, sizeof line));
    }
    s->busy = true;
    ctx->io->ops->lane_post_at(s->lane, &s->task,
                               ctx->io->ops->now_ns(ctx->io) + (uint64_t)s->backoff_ms * 1000000u);
}

static void sink_done(struct rt_sink *s)
{
    struct rt_batch *b = s->batch;

    s->batch = NULL;
    s->backoff_ms = 0;
    s->waiting_reported = false;
    s->confirmed = b->header.id;
    ASSERT(b->sinks_left > 0 && !b->sink_done[s->ordinal]);
    b->sink_done[s->ordinal] = true;
    b->sinks_left--;
}

static void run_reply(struct io_task *t)
{
    struct rt_sink *s = CONTAINER_OF(t, struct rt_sink, reply);
    levee_context *ctx = s->ctx;

    s->busy = false;
    if (s->code == LEVEE_OK && !s->judged) {
        s->code = rt_sink_judge(s, &s->err);
        if (s->code == LEVEE_OK && !s->judged) {
            (void)err_set(&s->err, LEVEE_ETIMEOUT, "sink %s cannot be reached", s->node->uid);
            s->code = LEVEE_ETIMEOUT;
        }
    } else if (s->code == LEVEE_OK && s->batch) {
        sink_done(s);
    }
    bool ending = ctx->failed || ctx->stop_requested;
    if (s->code && levee_error_class(s->code) == LEVEE_CLASS_RETRY && !ending) {
        try_later(s);
    } else if (s->code && !ending) {
        err_context(&s->err, "sink %s", s->node->uid);
        rt_fail(ctx, &s->err);
    }
    rt_pump(ctx);
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
            return b;
        }
    }
    return NULL;
}

void rt_sinks_next(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->sink_count; i++) {
        struct rt_sink *s = ctx->graph->sinks[i]->sink;
        if (s->busy) {
            continue;
        }
        struct rt_batch *b = next_batch(ctx, s);
        if (b || !s->judged) {
            s->batch = s->judged ? b : NULL;
            s->busy = true;
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

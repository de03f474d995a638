/*
 * Sources at run time: a receiver's life (start, failure, back-off, stop), the queue of blocks that
 * wait for a batch. Appending is inlet.c, what is stored of a source source_store.c.
 */
#include "runtime/context.h"

#define BACKOFF_FIRST_MS 100u
#define BACKOFF_MAX_MS   10000u

/* ---- life ---- */

static void notify_listener(struct levee_inlet *in, int what, const struct levee_error *err)
{
    const struct levee_listener *l = in->ctx->opt.listener;

    if (!l) {
        return;
    }
    void *arg = in->ctx->opt.listener_arg;
    if (what == 0 && l->receiver_started) {
        l->receiver_started(arg, in->node->uid);
    } else if (what == 1 && l->receiver_error) {
        l->receiver_error(arg, in->node->uid, err);
    } else if (what == 2 && l->receiver_stopped) {
        l->receiver_stopped(arg, in->node->uid);
    }
}

static void start_receiver(struct levee_inlet *in)
{
    struct levee_error err = {0};

    ASSERT(in->state != RT_RECEIVER_ON);
    in->state = RT_RECEIVER_ON;
    int code = in->ops->start(in->self, in, &err);
    if (code == LEVEE_OK) {
        notify_listener(in, 0, NULL);
    } else {
        levee_inlet_fail(in, &err, levee_error_class(code) != LEVEE_CLASS_RETRY);
    }
}

static void run_restart(struct io_task *t)
{
    struct levee_inlet *in = CONTAINER_OF(t, struct levee_inlet, restart_task);

    if (in->state == RT_RECEIVER_FAILED && !in->ctx->receivers_stopped) {
        start_receiver(in);
    }
}

static void run_fail(struct io_task *t)
{
    struct levee_inlet *in = CONTAINER_OF(t, struct levee_inlet, fail_task);
    levee_context *ctx = in->ctx;

    pthread_mutex_lock(&in->mutex);
    struct levee_error err = in->fail_error;
    bool fatal = in->fail_fatal;
    in->fail_pending = false;
    pthread_mutex_unlock(&in->mutex);
    if (in->state != RT_RECEIVER_ON || ctx->receivers_stopped) {
        return;
    }
    notify_listener(in, 1, &err);
    in->ops->stop(in->self);
    in->state = RT_RECEIVER_FAILED;
    notify_listener(in, 2, NULL);
    if (fatal) {
        rt_fail(ctx, &err);
        return;
    }
    rt_back_off(&in->backoff_ms, BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
    rt_say(ctx, 1, "source %s: %s; starting it again in %u ms", in->node->uid, err.what,
           in->backoff_ms);
    ctx->io->ops->lane_post_at(ctx->loop, &in->restart_task,
                               ctx->io->ops->now_ns(ctx->io) + (uint64_t)in->backoff_ms * 1000000u);
}

static void run_report(struct io_task *t)
{
    struct levee_inlet *in = CONTAINER_OF(t, struct levee_inlet, report_task);

    pthread_mutex_lock(&in->mutex);
    struct levee_error err = in->report_error;
    in->report_pending = false;
    pthread_mutex_unlock(&in->mutex);
    notify_listener(in, 1, &err);
}

static void run_ready(struct io_task *t)
{
    struct levee_inlet *in = CONTAINER_OF(t, struct levee_inlet, ready_task);

    pthread_mutex_lock(&in->mutex);
    in->ready_timed = false;
    bool taking = in->taking;
    pthread_mutex_unlock(&in->mutex);
    if (taking && in->ops->ready) {
        in->ops->ready(in->self);
    }
}

static void run_kick(struct io_task *t)
{
    struct levee_inlet *in = CONTAINER_OF(t, struct levee_inlet, kick_task);

    atomic_store(&in->kick_timed, false);
    atomic_store(&in->kicked, true);
    wal_kick(in->ctx->wal);
}

struct rt_source *rt_source_new(levee_context *ctx, levee_stream *node,
                                const struct levee_receiver_options *o,
                                const struct levee_receiver_ops *ops, void *self)
{
    struct rt_source *s = mem_zalloc(sizeof *s);

    if (!s) {
        return NULL;
    }
    struct levee_inlet *in = &s->inlet;
    in->ctx = ctx;
    in->node = node;
    in->ordinal = node->ordinal;
    in->table = node->table;
    in->ops = ops;
    in->self = self;
    in->options = *o;
    in->ticket = 1;
    fifo_init(&in->waiting);
    in->fail_task.run = run_fail;
    in->report_task.run = run_report;
    in->restart_task.run = run_restart;
    in->ready_task.run = run_ready;
    in->kick_task.run = run_kick;
    in->anonymous = mem_zalloc(o->partitions * sizeof(struct rt_block *));
    if (!in->anonymous || pthread_mutex_init(&in->mutex, NULL) != 0) {
        mem_free(in->anonymous);
        mem_free(s);
        return NULL;
    }
    return s;
}

void rt_source_free(struct rt_source *s)
{
    if (!s) {
        return;
    }
    struct levee_inlet *in = &s->inlet;
    if (in->ops->destroy) {
        in->ops->destroy(in->self);
    }
    for (size_t i = 0; i < in->producer_count; i++) {
        rt_block_free(in->producers[i]->open);
        mem_free(in->producers[i]);
    }
    for (size_t i = 0; i < in->options.partitions; i++) {
        rt_block_free(in->anonymous[i]);
    }
    for (struct link *l; (l = fifo_pop(&in->waiting)) != NULL;) {
        rt_block_free(CONTAINER_OF(l, struct rt_block, link));
    }
    for (size_t i = 0; i < in->fact_count; i++) {
        mem_free(in->facts[i].name);
    }
    mem_free(in->facts);
    mem_free(in->producers);
    mem_free(in->anonymous);
    mem_free(in->closing);
    map_release(&in->producer_map);
    (void)pthread_mutex_destroy(&in->mutex);
    mem_free(s);
}

void rt_source_start_all(levee_context *ctx)
{
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        struct levee_inlet *in = &ctx->graph->sources[i]->source->inlet;
        pthread_mutex_lock(&in->mutex);
        in->taking = true;
        in->rate_refill_ns = ctx->io->ops->now_ns(ctx->io);
        in->rate_tokens = (int64_t)(ctx->opt.max_rate / 10 + 1);
        pthread_mutex_unlock(&in->mutex);
        start_receiver(in);
    }
}

void rt_source_stop_all(levee_context *ctx)
{
    ASSERT(!ctx->receivers_stopped);
    ctx->receivers_stopped = true;
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        struct levee_inlet *in = &ctx->graph->sources[i]->source->inlet;
        if (in->state == RT_RECEIVER_ON) {
            in->ops->stop(in->self);
            notify_listener(in, 2, NULL);
        }
        in->state = RT_RECEIVER_OFF;
        pthread_mutex_lock(&in->mutex);
        in->taking = false;
        pthread_mutex_unlock(&in->mutex);
    }
    wal_kick(ctx->wal); /* what is still open goes into the log */
}

/* ---- blocks on their way into a batch ---- */

size_t rt_source_take(struct rt_source *s, uint64_t last_lsn, struct fifo *into)
{
    struct levee_inlet *in = &s->inlet;
    size_t n = 0;

    pthread_mutex_lock(&in->mutex);
    while (in->waiting.head) {
        struct rt_block *b = CONTAINER_OF(in->waiting.head, struct rt_block, link);
        if (b->lsn > last_lsn || b->elsewhere) {
            break; /* the next batch's */
        }
        (void)fifo_pop(&in->waiting);
        in->waiting_records -= b->count;
        fifo_push(into, &b->link);
        n++;
    }
    pthread_mutex_unlock(&in->mutex);
    return n;
}

bool rt_source_has_input(struct rt_source *s)
{
    pthread_mutex_lock(&s->inlet.mutex);
    bool has = s->inlet.waiting.head != NULL;
    pthread_mutex_unlock(&s->inlet.mutex);
    return has;
}

bool rt_source_exhausted(struct rt_source *s)
{
    pthread_mutex_lock(&s->inlet.mutex);
    bool done = s->inlet.ended && !s->inlet.generation_used && !s->inlet.waiting.head;
    pthread_mutex_unlock(&s->inlet.mutex);
    return done;
}

uint64_t rt_source_first_waiting(struct rt_source *s)
{
    uint64_t lsn = UINT64_MAX;

    pthread_mutex_lock(&s->inlet.mutex);
    if (s->inlet.waiting.head) {
        lsn = CONTAINER_OF(s->inlet.waiting.head, struct rt_block, link)->lsn;
    }
    pthread_mutex_unlock(&s->inlet.mutex);
    return lsn;
}

void rt_blocks_release(levee_context *ctx, struct rt_block **blocks, size_t n)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < n; i++) {
        bytes += blocks[i]->payload.cap + sizeof *blocks[i];
        rt_block_free(blocks[i]);
    }
    uint64_t left = atomic_fetch_sub(&ctx->buffered, bytes) - bytes;
    if (left > ctx->opt.buffer_bytes / 4 * 3) {
        return; /* hysteresis: receivers are called back at three quarters */
    }
    for (size_t i = 0; i < ctx->graph->source_count; i++) {
        struct levee_inlet *in = &ctx->graph->sources[i]->source->inlet;
        pthread_mutex_lock(&in->mutex);
        bool wanted = in->want_ready && in->taking;
        in->want_ready = false;
        pthread_mutex_unlock(&in->mutex);
        if (wanted && in->ops->ready) {
            in->ops->ready(in->self);
        }
    }
}

/* ---- the rest of the public inlet ---- */

struct remembering {
    struct wal_frame frame;
    struct io *io;
    struct buf payload;
    _Atomic int state; /* 1: under way, LEVEE_OK: durable, negative: failed */
};

static void remembered(struct wal_frame *f, int code)
{
    struct remembering *r = CONTAINER_OF(f, struct remembering, frame);
    struct io *io = r->io;

    atomic_store(&r->state, code); /* the waiter may free r now */
    io->ops->notify(io);
}

static bool is_remembered(void *arg)
{
    return atomic_load(&((struct remembering *)arg)->state) != 1;
}

int levee_inlet_remember(levee_inlet *in, const char *name, struct levee_slice value,
                         struct levee_error *err)
{
    struct remembering r = {.io = in->ctx->io, .state = 1};

    crash_at(r.io, CP_SOURCE_BEFORE_INIT);
    buf_slice(&r.payload, slice_str(name));
    buf_slice(&r.payload, value);
    if (r.payload.failed) {
        return err_nomem(err, value.len);
    }
    r.frame.type = WAL_SOURCE_INIT;
    r.frame.stream = in->table;
    r.frame.payload[0] = buf_view(&r.payload);
    r.frame.done = remembered;
    /* Remembered and appended under one lock: a checkpoint whose replay-from lies above this frame
     * holds the fact. */
    pthread_mutex_lock(&in->mutex);
    int code = rt_source_restore_fact(CONTAINER_OF(in, struct rt_source, inlet), slice_str(name),
                                      value, err);
    if (code == LEVEE_OK) {
        code = wal_append(in->ctx->wal, &r.frame, err);
    }
    pthread_mutex_unlock(&in->mutex);
    if (code == LEVEE_OK) {
        (void)r.io->ops->wait(r.io, is_remembered, &r, UINT64_MAX);
        code = atomic_load(&r.state);
        crash_at(r.io, CP_SOURCE_AFTER_INIT);
        if (code) {
            err_set(err, code, "source %s: the log has failed", in->node->uid);
        }
    }
    buf_release(&r.payload);
    return code;
}

bool levee_inlet_recall(levee_inlet *in, const char *name, void *out, size_t *len_io)
{
    bool found = false;

    pthread_mutex_lock(&in->mutex);
    for (size_t i = 0; i < in->fact_count && !found; i++) {
        struct levee_slice v = in->facts[i].value;
        if (strcmp(in->facts[i].name, name) == 0 && v.len <= *len_io) {
            memcpy(out, v.data, v.len);
            *len_io = v.len;
            found = true;
        }
    }
    pthread_mutex_unlock(&in->mutex);
    return found;
}

void levee_inlet_report(levee_inlet *in, const struct levee_error *err)
{
    char line[1024];

    rt_say(in->ctx, 1, "source %s: %s", in->node->uid, levee_error_format(err, line, sizeof line));
    pthread_mutex_lock(&in->mutex);
    bool post = !in->report_pending;
    in->report_pending = true;
    in->report_error = *err;
    pthread_mutex_unlock(&in->mutex);
    if (post) {
        in->ctx->io->ops->lane_post(in->ctx->loop, &in->report_task);
    }
}

void levee_inlet_end(levee_inlet *in)
{
    pthread_mutex_lock(&in->mutex);
    in->ended = true;
    pthread_mutex_unlock(&in->mutex);
    wal_kick(in->ctx->wal);
    rt_pump_soon(in->ctx);
}

void levee_inlet_fail(levee_inlet *in, const struct levee_error *err, bool fatal)
{
    pthread_mutex_lock(&in->mutex);
    bool post = !in->fail_pending;
    if (post) {
        in->fail_pending = true;
        in->fail_fatal = fatal;
        in->fail_error = *err;
    }
    pthread_mutex_unlock(&in->mutex);
    if (post) {
        in->ctx->io->ops->lane_post(in->ctx->loop, &in->fail_task);
    }
}

bool levee_inlet_stop_at_end(const levee_inlet *in)
{
    return in->ctx->opt.stop_at_end;
}

const char *levee_inlet_uid(const levee_inlet *in)
{
    return in->node->uid;
}

uint64_t levee_inlet_max_rate(const levee_inlet *in)
{
    return in->ctx->opt.max_rate;
}

levee_stream *levee_receiver_source_at(levee_context *ctx, const char *uid,
                                       const struct levee_receiver_options *o,
                                       const struct levee_receiver_ops *ops, void *self,
                                       const char *file, int line)
{
    struct rt_graph *g = rt_context_graph(ctx);
    struct levee_receiver_options filled = o ? *o : (struct levee_receiver_options){0};

    if (!g) {
        return NULL;
    }
    filled.partitions = filled.partitions ? filled.partitions : 1;
    if (filled.positions && (!ops || !ops->read || !filled.reliable || !filled.replayable)) {
        return rt_graph_fail(g, file, line, LEVEE_EINVALID,
                             "source %s: positions need read, and be reliable and replayable",
                             uid ? uid : "(no uid)");
    }
    if (!ops || ops->version != 1 || !ops->start || !ops->stop || filled.partitions > UINT16_MAX) {
        return rt_graph_fail(
            g, file, line, LEVEE_EINVALID,
            "source %s: its ops need version 1, start and stop, and at most 65535 partitions",
            uid ? uid : "(no uid)");
    }
    levee_stream *node = rt_graph_add(g, RT_SOURCE, "source", uid, true, NULL, 0, file, line);
    if (!node) {
        return NULL;
    }
    node->partitions = filled.partitions;
    node->source = rt_source_new(ctx, node, &filled, ops, self);
    if (!node->source) {
        return rt_graph_fail(g, file, line, LEVEE_ENOMEM, "source %s", uid);
    }
    return node;
}

struct levee_inlet *rt_stream_inlet(levee_stream *s)
{
    return s && s->source ? &s->source->inlet : NULL;
}

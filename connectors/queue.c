/*
 * The queue source: data sets pushed by the host, for tests and embedding. Numbered pushes are one
 * producer's gap-free sequence, whatever the number of partitions, so the order in the log is the
 * order of the numbers, and a push that was partly taken may be repeated whole.
 */
#include "runtime/context.h"

#define PRODUCER "queue"

struct queue {
    levee_inlet *inlet;
    uint32_t partitions;
    pthread_mutex_t mutex;
    struct pushed { /* numbered pushes on their way to the disk, oldest first */
        uint64_t ticket, last;
    } * pending;
    size_t count, cap;
    uint64_t durable_ticket, durable;
};

static int queue_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct queue *q = self;

    (void)err;
    q->inlet = inlet;
    q->durable = levee_inlet_position(inlet, levee_text(PRODUCER));
    return LEVEE_OK;
}

static void queue_stop(void *self)
{
    (void)self;
}

static void queue_durable(void *self, uint64_t ticket)
{
    struct queue *q = self;
    size_t done = 0;

    pthread_mutex_lock(&q->mutex);
    q->durable_ticket = ticket;
    while (done < q->count && q->pending[done].ticket <= ticket) {
        q->durable = q->pending[done].last > q->durable ? q->pending[done].last : q->durable;
        done++;
    }
    if (done) {
        memmove(q->pending, q->pending + done, (q->count - done) * sizeof *q->pending);
        q->count -= done;
    }
    pthread_mutex_unlock(&q->mutex);
}

static void queue_destroy(void *self)
{
    struct queue *q = self;

    mem_free(q->pending);
    (void)pthread_mutex_destroy(&q->mutex);
    mem_free(q);
}

static const struct levee_receiver_ops queue_ops = {
    .version = 1,
    .start = queue_start,
    .stop = queue_stop,
    .durable = queue_durable,
    .destroy = queue_destroy,
};

levee_stream *levee_queue_source_at(levee_context *ctx, const char *uid, uint32_t partitions,
                                    const char *file, int line)
{
    struct levee_receiver_options o = {
        .partitions = partitions ? partitions : 1, .reliable = true, .replayable = true};
    struct queue *q = ctx ? mem_zalloc(sizeof *q) : NULL;

    if (!q) {
        return ctx ? rt_graph_fail(ctx->graph, file, line, LEVEE_ENOMEM, "queue source %s", uid)
                   : NULL;
    }
    q->partitions = o.partitions;
    (void)pthread_mutex_init(&q->mutex, NULL);
    levee_stream *s = levee_receiver_source_at(ctx, uid, &o, &queue_ops, q, file, line);
    if (!s) {
        queue_destroy(q);
    }
    return s;
}

static struct queue *queue_of(levee_stream *source)
{
    struct levee_inlet *in = rt_stream_inlet(source);

    return in && in->ops == &queue_ops ? in->self : NULL;
}

static int push_partition(struct queue *q, const struct levee_record *records, size_t n,
                          uint64_t sequence, uint32_t p, uint64_t *ret_ticket,
                          struct levee_error *err)
{
    struct levee_append a = {
        .partition = p, .records = records, .count = n, .first_sequence = sequence};

    if (sequence) {
        a.producer = levee_text(PRODUCER);
    }
    return levee_inlet_append(q->inlet, &a, ret_ticket, err);
}

int levee_queue_push(levee_stream *source, const struct levee_record *records, size_t n,
                     uint64_t sequence, struct levee_error *err)
{
    struct queue *q = queue_of(source);
    uint64_t highest = 0;

    if (!q || !q->inlet || (n && !records)) {
        return err_set(err, LEVEE_EINVALID,
                       "levee_queue_push: not a queue source that was started");
    }
    pthread_mutex_lock(&q->mutex);
    bool room = mem_grow((void **)&q->pending, &q->cap, q->count + 1, sizeof *q->pending);
    pthread_mutex_unlock(&q->mutex);
    if (!room) {
        return err_nomem(err, sizeof *q->pending);
    }
    for (uint32_t p = 0; p < q->partitions; p++) {
        size_t from = (size_t)((uint64_t)p * n / q->partitions),
               to = (size_t)((uint64_t)(p + 1) * n / q->partitions);
        uint64_t ticket = 0;
        int code = to > from ? push_partition(q, records + from, to - from,
                                              sequence ? sequence + from : 0, p, &ticket, err)
                             : LEVEE_OK;
        if (code) {
            return code;
        }
        highest = ticket > highest ? ticket : highest;
    }
    if (sequence && n) {
        uint64_t last = sequence + n - 1;
        pthread_mutex_lock(&q->mutex);
        if (highest <= q->durable_ticket) {
            q->durable = last > q->durable ? last : q->durable;
        } else {
            q->pending[q->count++] = (struct pushed){highest, last};
        }
        pthread_mutex_unlock(&q->mutex);
    }
    return LEVEE_OK;
}

uint64_t levee_queue_durable(levee_stream *source)
{
    struct queue *q = queue_of(source);
    uint64_t durable;

    if (!q) {
        return 0;
    }
    pthread_mutex_lock(&q->mutex);
    durable = q->durable;
    pthread_mutex_unlock(&q->mutex);
    return durable;
}

void levee_queue_end(levee_stream *source)
{
    struct queue *q = queue_of(source);

    if (q && q->inlet) {
        levee_inlet_end(q->inlet);
    }
}

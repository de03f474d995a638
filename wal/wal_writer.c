/*
 * The writer: natural group commit on one lane.
 *
 * wal_append gives frames their LSNs and queues them; the log lane takes everything queued (asking
 * the gather hook first), writes it as one group with one vectored write, syncs once and calls
 * every frame's done. While it syncs, the next group collects: under load groups grow, at rest a
 * frame leaves at once. Nothing waits on a timer but the idle seal.
 *
 *   W1  done(OK) is called only after the sync that covers the frame returned success.
 *   W2  a group begins on a 4 KiB boundary and nothing is ever written at or before the end of a
 * synced group. W3  group n + 1 is written only after group n was synced; its frames carry group
 * n's last LSN as durable. W4  the first failed write or sync is final: no write follows, every
 * queued frame gets WAL_FAILED. W5  a segment is used only after its bytes, headers and name are
 * durable; the roll itself costs no sync (design 4d.20).
 */
#include "wal/wal_writer.h"

#define IDLE_SEAL_DEFAULT_NS 1000000000u
#define IOV_BATCH            768 /* below every IOV_MAX */
#define SPARES_DEFAULT       2u

/* ---- building a group ---- */

struct group {
    struct wal *w;
    struct iovec iov[IOV_BATCH];
    int iovs;
    uint64_t at;      /* file offset of the next byte */
    uint64_t written; /* … up to which pwritev was called */
    uint64_t chain, durable;
    int code;
    struct levee_error *err;
};

static void group_flush(struct group *g)
{
    struct io *io = g->w->io;

    if (g->iovs && g->code == LEVEE_OK) {
        g->code = io->ops->pwritev(g->w->file, g->iov, g->iovs, g->written, g->err);
    }
    g->written = g->at;
    g->iovs = 0;
}

static void group_put(struct group *g, const void *data, size_t len)
{
    if (len) {
        g->iov[g->iovs++] = (struct iovec){(void *)(uintptr_t)data, len};
        g->at += len;
    }
}

static void group_frame(struct group *g, uint8_t header[WAL_FRAME_HEADER], struct wal_header *h,
                        const struct levee_slice payload[2])
{
    static const uint8_t zeros[8];

    if (g->iovs + 4 > IOV_BATCH) {
        group_flush(g);
    }
    h->len = (uint32_t)(payload[0].len + payload[1].len);
    h->durable_lsn = g->durable;
    h->payload_hash = wal_payload_hash(payload, g->w->salt, h->lsn);
    g->chain = wal_header_encode(header, h, g->w->salt, g->at, g->chain);
    group_put(g, header, WAL_FRAME_HEADER);
    group_put(g, payload[0].data, payload[0].len);
    group_put(g, payload[1].data, payload[1].len);
    group_put(g, zeros, (size_t)(align_up(h->len, 8) - h->len));
}

static void group_structural(struct group *g, uint8_t *header, uint16_t type, uint64_t lsn,
                             const void *payload, size_t len)
{
    struct wal_header h = {.type = type, .lsn = lsn};
    struct levee_slice p[2] = {slice_of(payload, len), slice_of(NULL, 0)};

    group_frame(g, header, &h, p);
}

/* The frames of one group, written and synced. `seal` is GROUP_SEAL or IDLE_SEAL. */
static int write_group(struct wal *w, struct fifo *frames, uint16_t seal, struct levee_error *err)
{
    uint8_t start_header[WAL_FRAME_HEADER], start[WAL_START_BYTES], seal_header[WAL_FRAME_HEADER];
    uint8_t seal_bytes[WAL_SEAL_BYTES], pad_header[WAL_FRAME_HEADER];
    struct group *g =
        &(struct group){.w = w, .at = w->offset, .written = w->offset, .chain = w->chain};
    uint64_t first =
        frames->head ? CONTAINER_OF(frames->head, struct wal_frame, link)->lsn : w->taken_lsn + 1;
    uint64_t last = first - 1;

    g->durable = atomic_load(&w->durable_lsn);
    g->err = err;
    ASSERT(w->offset % WAL_GROUP_ALIGN == 0);
    ASSERT(first == w->taken_lsn + 1);
    if (w->start_pending) {
        wal_start_encode(start, &w->start);
        group_structural(g, start_header, WAL_SEGMENT_START, first, start, sizeof start);
    }
    for (struct link *l = frames->head; l; l = l->next) {
        struct wal_frame *f = CONTAINER_OF(l, struct wal_frame, link);
        struct wal_header h = {
            .type = f->type, .flags = f->flags, .stream = f->stream, .lsn = f->lsn, .seq = f->seq};
        ASSERT(f->lsn == last + 1);
        last = f->lsn;
        group_frame(g, f->header, &h, f->payload);
    }
    put_le64(seal_bytes, frames->count);
    put_le64(seal_bytes + 8, first);
    put_le64(seal_bytes + 16, last);
    put_le64(seal_bytes + 24, g->at - w->offset);
    group_structural(g, seal_header, seal, last + 1, seal_bytes, sizeof seal_bytes);
    uint64_t pad = wal_pad_bytes(g->at);
    if (pad) {
        struct levee_slice zeros = slice_of(w->zeros, (size_t)(pad - WAL_FRAME_HEADER));
        group_structural(g, pad_header, WAL_PAD, last + 1, zeros.data, zeros.len);
    }
    ASSERT(g->at % WAL_GROUP_ALIGN == 0 && g->at <= w->size);
    crash_at(w->io, CP_WAL_BEFORE_WRITE);
    group_flush(g);
    crash_at(w->io, CP_WAL_AFTER_WRITE);
    if (g->code == LEVEE_OK) {
        g->code = w->io->ops->sync(w->file, err);
        crash_at(w->io, CP_WAL_AFTER_SYNC);
    }
    if (g->code) {
        return g->code;
    }
    counter_add(&w->stat.syncs, 1);
    counter_add(&w->stat.groups, 1);
    counter_add(&w->stat.written_bytes, g->at - w->offset);
    bool began = w->start_pending;
    w->offset = g->at;
    w->chain = g->chain;
    w->start_pending = false;
    w->taken_lsn = last;
    pthread_mutex_lock(&w->mutex);
    w->segments[w->segment_count - 1].last_lsn = last;
    w->segments[w->segment_count - 1].begun = true;
    pthread_mutex_unlock(&w->mutex);
    atomic_store(&w->witnessed_lsn, g->durable);
    atomic_store(&w->durable_lsn, last);
    if (began) {
        wal_trim(w, 0); /* what had to wait for this group */
    }
    return LEVEE_OK;
}

/* ---- failing ---- */

void wal_fail(struct wal *w, const struct levee_error *why)
{
    bool first;

    pthread_mutex_lock(&w->mutex);
    first = !w->failed;
    if (first) {
        w->failed = true;
        w->error = *why;
        w->error.code = LEVEE_EWAL_FAILED;
        err_context(&w->error, "log");
    }
    pthread_mutex_unlock(&w->mutex);
    if (first && w->opt.failed) {
        w->opt.failed(w->opt.failed_arg, &w->error);
    }
    pthread_mutex_lock(&w->mutex);
    if (!w->stopping) {
        wal_kick(w); /* the log lane calls back what is queued; a close does it by itself */
    }
    pthread_mutex_unlock(&w->mutex);
}

/* Nothing that is queued becomes durable any more. */
static void give_up_queue(struct wal *w)
{
    struct fifo orphans;

    fifo_init(&orphans);
    pthread_mutex_lock(&w->mutex);
    fifo_take(&orphans, &w->queue);
    pthread_mutex_unlock(&w->mutex);
    for (struct link *l; (l = fifo_pop(&orphans)) != NULL;) {
        struct wal_frame *f = CONTAINER_OF(l, struct wal_frame, link);
        f->done(f, LEVEE_EWAL_FAILED);
    }
}

/* ---- cutting groups ---- */

/* Where a group with this many bytes of data frames would end. */
static uint64_t group_end(const struct wal *w, uint64_t bytes)
{
    uint64_t at = w->offset + (w->start_pending ? wal_frame_bytes(WAL_START_BYTES) : 0) + bytes +
                  wal_frame_bytes(WAL_SEAL_BYTES);

    return at + wal_pad_bytes(at);
}

/* Takes from the queue what fits into one group and the segment. False: the next frame needs a new
 * segment. */
static bool cut_group(struct wal *w, struct fifo *ret)
{
    uint64_t bytes = 0;
    bool fits = true;

    pthread_mutex_lock(&w->mutex);
    while (w->queue.head) {
        struct wal_frame *f = CONTAINER_OF(w->queue.head, struct wal_frame, link);
        uint64_t n = wal_frame_bytes(f->payload[0].len + f->payload[1].len);
        fits = group_end(w, bytes + n) <= w->size;
        if (!fits || (ret->count && bytes + n > w->opt.group_bytes_max)) {
            break;
        }
        (void)fifo_pop(&w->queue);
        bytes += n;
        fifo_push(ret, &f->link);
    }
    pthread_mutex_unlock(&w->mutex);
    return fits || ret->count > 0;
}

static void arm_idle(struct wal *w)
{
    w->last_group_ns = w->io->ops->now_ns(w->io);
    if (!w->idle_armed) {
        w->idle_armed = true;
        w->io->ops->lane_post_at(w->log, &w->idle_task, w->last_group_ns + w->opt.idle_seal_ns);
    }
}

/* One group; true: go on, there may be more. */
static bool flush_once(struct wal *w)
{
    struct fifo frames;
    struct levee_error err = {0};

    if (w->opt.gather) {
        w->opt.gather(w->opt.gather_arg);
    }
    fifo_init(&frames);
    if (!cut_group(w, &frames)) {
        int code = wal_roll(w, &err);
        if (code && code != LEVEE_EFULL) {
            wal_fail(w, &err);
        }
        return code == LEVEE_OK;
    }
    if (!frames.head) {
        return false;
    }
    uint64_t payload = 0;
    for (struct link *l = frames.head; l; l = l->next) {
        const struct wal_frame *f = CONTAINER_OF(l, struct wal_frame, link);
        payload += f->payload[0].len + f->payload[1].len;
    }
    counter_add(&w->stat.frames, frames.count);
    counter_add(&w->stat.payload_bytes, payload);
    int code = write_group(w, &frames, WAL_GROUP_SEAL, &err);
    if (code) {
        wal_fail(w, &err); /* first: nobody may append behind the failed group */
    }
    for (struct link *l; (l = fifo_pop(&frames)) != NULL;) {
        struct wal_frame *f = CONTAINER_OF(l, struct wal_frame, link);
        f->done(f, code ? LEVEE_EWAL_FAILED : LEVEE_OK);
    }
    if (code == LEVEE_OK) {
        arm_idle(w);
    }
    return code == LEVEE_OK;
}

static bool has_failed(struct wal *w)
{
    pthread_mutex_lock(&w->mutex);
    bool failed = w->failed;
    pthread_mutex_unlock(&w->mutex);
    return failed;
}

static void run_flush(struct io_task *t)
{
    struct wal *w = CONTAINER_OF(t, struct wal, flush_task);

    atomic_store(&w->flush_posted, false);
    if (has_failed(w)) {
        give_up_queue(w);
    } else if (flush_once(w)) {
        wal_kick(w); /* a task of its own, so that other tasks of this lane have their turn */
    }
}

static void seal_idle(struct wal *w)
{
    struct levee_error err = {0};
    struct fifo none;

    fifo_init(&none);
    if (has_failed(w) || atomic_load(&w->witnessed_lsn) == atomic_load(&w->durable_lsn)) {
        return;
    }
    int code = group_end(w, 0) > w->size ? wal_roll(w, &err) : LEVEE_OK;
    if (code == LEVEE_EFULL) {
        arm_idle(w); /* the segment is full and no spare is ready: the last group wants its witness
                        all the same */
        return;
    }
    if (code == LEVEE_OK) {
        code = write_group(w, &none, WAL_IDLE_SEAL, &err);
    }
    if (code) {
        wal_fail(w, &err);
        return;
    }
    counter_add(&w->stat.idle_seals, 1);
    crash_at(w->io, CP_WAL_AFTER_IDLE_SEAL);
}

static void run_idle(struct io_task *t)
{
    struct wal *w = CONTAINER_OF(t, struct wal, idle_task);
    uint64_t due = w->last_group_ns + w->opt.idle_seal_ns;

    w->idle_armed = false;
    if (w->io->ops->now_ns(w->io) < due) {
        w->idle_armed = true;
        w->io->ops->lane_post_at(w->log, &w->idle_task, due);
        return;
    }
    seal_idle(w);
}

/* The helper may be at its end, so the log lane makes the segment that its last frames need. False:
 * they need none, or there is no room: then they never become durable. */
static bool spare_for_the_rest(struct wal *w)
{
    struct levee_error err = {0};

    pthread_mutex_lock(&w->mutex);
    bool needed = w->queue.head && !w->failed;
    bool ready = needed && w->spares.head;
    pthread_mutex_unlock(&w->mutex);
    if (!needed || ready) {
        return ready;
    }
    int code = wal_spare_make(w, &err);
    if (code && levee_error_class(code) != LEVEE_CLASS_RETRY) {
        wal_fail(w, &err);
    }
    return code == LEVEE_OK;
}

static void run_close(struct io_task *t)
{
    struct wal *w = CONTAINER_OF(t, struct wal, close_task);

    do {
        while (!has_failed(w) && flush_once(w)) {
        }
    } while (spare_for_the_rest(w));
    seal_idle(w);
}

/* ---- the public side ---- */

int wal_append(struct wal *w, struct wal_frame *first, struct levee_error *err)
{
    int code = LEVEE_OK;
    size_t max = wal_payload_max(w->opt.segment_bytes);

    for (struct link *l = &first->link; l; l = l->next) {
        const struct wal_frame *f = CONTAINER_OF(l, struct wal_frame, link);
        size_t len = f->payload[0].len + f->payload[1].len;
        ASSERT(f->type >= 1 && f->type <= WAL_DATA_MAX && f->done);
        if (len > max) {
            err_set(err, LEVEE_EWAL_TOO_BIG, "a frame is larger than a log segment holds");
            err_expected(err, "at most %zu bytes", max);
            err_found(err, "%zu", len);
            return LEVEE_EWAL_TOO_BIG;
        }
    }
    pthread_mutex_lock(&w->mutex);
    if (w->failed) {
        err_copy(err, &w->error);
        code = LEVEE_EWAL_FAILED;
    } else if (w->closing) {
        code = err_set(err, LEVEE_ESTOPPED, "the log is closed");
    }
    for (struct link *l = &first->link, *next; l && code == LEVEE_OK; l = next) {
        struct wal_frame *f = CONTAINER_OF(l, struct wal_frame, link);
        next = l->next;
        f->lsn = w->next_lsn++;
        fifo_push(&w->queue, l);
    }
    pthread_mutex_unlock(&w->mutex);
    if (code == LEVEE_OK) {
        wal_kick(w);
    }
    return code;
}

void wal_kick(struct wal *w)
{
    if (!atomic_exchange(&w->flush_posted, true)) {
        w->io->ops->lane_post(w->log, &w->flush_task);
    }
}

uint64_t wal_next_lsn(const struct wal *w)
{
    struct wal *m = (struct wal *)(uintptr_t)w; /* the mutex is not part of its value */

    pthread_mutex_lock(&m->mutex);
    uint64_t lsn = m->next_lsn;
    pthread_mutex_unlock(&m->mutex);
    return lsn;
}

uint64_t wal_durable_lsn(const struct wal *w)
{
    return atomic_load(&w->durable_lsn);
}

uint64_t wal_witnessed_lsn(const struct wal *w)
{
    return atomic_load(&w->witnessed_lsn);
}

uint64_t wal_epoch(const struct wal *w)
{
    return w->epoch;
}

void wal_stats(const struct wal *w, struct wal_stats *ret)
{
    struct wal *m = (struct wal *)(uintptr_t)w;

    pthread_mutex_lock(&m->mutex);
    size_t segments = m->segment_count;
    pthread_mutex_unlock(&m->mutex);
    *ret = (struct wal_stats){
        .frames = counter_get(&w->stat.frames),
        .groups = counter_get(&w->stat.groups),
        .syncs = counter_get(&w->stat.syncs),
        .idle_seals = counter_get(&w->stat.idle_seals),
        .rolls = counter_get(&w->stat.rolls),
        .payload_bytes = counter_get(&w->stat.payload_bytes),
        .written_bytes = counter_get(&w->stat.written_bytes),
        .segments = segments,
        .recycled = counter_get(&w->stat.recycled),
    };
}

/* ---- open and close ---- */

static int open_last(struct wal *w, const struct wal_facts *facts, struct levee_error *err)
{
    const struct wal_segment *s = NULL;
    char path[IO_PATH_MAX];

    for (size_t i = 0; i < facts->segment_count; i++) {
        if (facts->segments[i].first_lsn && !facts->segments[i].gone) {
            const struct wal_segment *x = &facts->segments[i];
            s = x;
            w->segments[w->segment_count++] =
                (struct wal_extent){x->number, x->first_lsn, x->last_lsn, x->size, true, false};
        }
    }
    if (!s) { /* wal_rebuild makes one: our own bug, but no reason to crash */
        return err_set(err, LEVEE_EWAL_GAP, "the log has no segment to write to");
    }
    int code = io_path(path, w->dir, s->name, err);
    if (code == LEVEE_OK) {
        code = w->io->ops->open(w->io, path, IO_WRITE, &w->file, err);
    }
    w->number = w->number_max = s->number;
    w->salt = s->salt;
    w->size = s->size;
    w->offset = s->end_offset;
    w->chain = s->chain;
    w->epoch = s->epoch;
    w->taken_lsn = facts->next_lsn - 1;
    w->next_lsn = facts->next_lsn;
    atomic_store(&w->durable_lsn, facts->next_lsn - 1);
    atomic_store(&w->witnessed_lsn, facts->witnessed_lsn);
    return code;
}

static int new_log(struct wal *w, struct levee_error *err)
{
    struct wal_facts fresh = {.first_lsn = 1, .next_lsn = 1};
    int code = wal_rebuild(w->io, &w->opt, &fresh, 1, 0, 1, err);

    if (code == LEVEE_OK) {
        code = open_last(w, &fresh, err);
    }
    wal_facts_release(&fresh);
    return code;
}

static int open_lanes(struct wal *w, struct levee_error *err)
{
    int code = w->io->ops->lane_open(w->io, "log", &w->log, err);

    return code ? code : w->io->ops->lane_open(w->io, "segments", &w->helper, err);
}

int wal_open(struct io *io, const struct wal_options *options, const struct wal_facts *facts,
             struct wal **ret, struct levee_error *err)
{
    struct wal *w = mem_zalloc(sizeof *w);
    size_t extents = (facts ? facts->segment_count : 0) + 1;
    int code = LEVEE_OK;

    if (!w) {
        return err_nomem(err, sizeof *w);
    }
    w->io = io;
    w->opt = *options;
    w->opt.segment_bytes = options->segment_bytes ? options->segment_bytes : WAL_SEGMENT_DEFAULT;
    w->opt.group_bytes_max =
        options->group_bytes_max ? options->group_bytes_max : WAL_GROUP_BYTES_MAX;
    w->opt.idle_seal_ns = options->idle_seal_ns ? options->idle_seal_ns : IDLE_SEAL_DEFAULT_NS;
    w->opt.spares = options->spares ? options->spares : SPARES_DEFAULT;
    w->flush_task.run = run_flush;
    w->idle_task.run = run_idle;
    w->close_task.run = run_close;
    wal_spares_init(w);
    fifo_init(&w->queue);
    (void)pthread_mutex_init(&w->mutex, NULL);
    (void)snprintf(w->dir, sizeof w->dir, "%s", options->dir);
    w->opt.dir = w->dir;
    if (!mem_grow((void **)&w->segments, &w->segment_cap, extents, sizeof *w->segments)) {
        code = err_nomem(err, extents * sizeof *w->segments);
    }
    if (code == LEVEE_OK) {
        code = facts ? open_last(w, facts, err) : new_log(w, err);
    }
    if (code == LEVEE_OK) {
        code = open_lanes(w, err);
    }
    if (code) {
        wal_close(w);
        return code;
    }
    if (atomic_load(&w->witnessed_lsn) != atomic_load(&w->durable_lsn)) {
        arm_idle(w); /* what recovery has written again wants a witness, even if nothing follows */
    }
    wal_spares_make(w);
    *ret = w;
    return LEVEE_OK;
}

void wal_close(struct wal *w)
{
    if (!w) {
        return;
    }
    pthread_mutex_lock(&w->mutex);
    w->stopping =
        true; /* from here on the helper makes no spare and posts nothing to the log lane */
    pthread_mutex_unlock(&w->mutex);
    if (w->log && w->helper) {
        w->io->ops->lane_post(w->log, &w->close_task);
    }
    if (w->log) {
        w->io->ops->lane_close(w->log);
    }
    pthread_mutex_lock(&w->mutex);
    w->closing = true;
    pthread_mutex_unlock(&w->mutex);
    if (w->helper) {
        w->io->ops->lane_close(w->helper);
    }
    give_up_queue(w); /* the log has failed, or found no room for them */
    if (w->file) {
        w->io->ops->close(w->file);
    }
    wal_spares_release(w);
    mem_free(w->segments);
    (void)pthread_mutex_destroy(&w->mutex);
    mem_free(w);
}
